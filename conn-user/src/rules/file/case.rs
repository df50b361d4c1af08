//! `[[test]]`: from a table to a [`Case`]. Goes on behind an error, so that all of them are reported.

mod process;

use std::collections::HashMap;

use super::draft::Draft;
use super::error::{At, Problem, Problems};
use super::text::Texts;
use super::value::{Field, Node, Value, find};
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::rules::cases::script::Script;
use crate::rules::cases::{Case, Expected, Step};

/// Most tests of a run, and most steps of one.
const CASES_MAX: usize = 10_000;
const STEPS_MAX: usize = 20_000;
/// What stands for the number of the repetition.
const NUMBER: &str = "{n}";

#[cfg(test)]
pub(super) use self::process::PROCESS_KEYS;

/// A key and what it means.
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) takes: &'static str,
    pub(super) meaning: &'static str,
}

const fn about(name: &'static str, takes: &'static str, meaning: &'static str) -> About {
    About { name, takes, meaning }
}

/// Keys of a test.
pub(super) const KEYS: [About; 7] = [
    about("name", "text", "what it shows, one line; must be there"),
    about("events", "lines", "what happens, in its order; see below"),
    about("expect", "lines", "the alerts, in their order; `[]`: none; must be there"),
    about("rules", "ids", "only alerts of these rules count; without it those of every rule"),
    about("enable", "ids", "rules that are off, to be on in this test"),
    about("existing", "lines", "what was there when conn began: `open`, `accept`, `listen`, `exec`"),
    about("process", "tables", "`process.NAME = { … }`: the processes"),
];

/// Reads tests. `rules`: those that there are, with whether they are active.
pub(super) struct Reader<'a> {
    pub(super) texts: &'a Texts,
    pub(super) problems: &'a mut Problems,
    /// `None`: not all rules could be read, and what is missing is not reported.
    pub(super) rules: Option<&'a HashMap<&'a str, bool>>,
}

impl Reader<'_> {
    /// The tests of a file.
    pub(super) fn cases(&mut self, node: &Node, cases: &mut Vec<Case>) {
        let Value::Array(nodes) = &node.value else {
            self.problems.push(node.wrong("test", "[[test]] and the keys below it"));
            return;
        };
        for node in nodes {
            if cases.len() >= CASES_MAX {
                let message = format!("there are more than {CASES_MAX} tests");
                self.problems.push(Problem::new(&node.at, message, "test them in several runs"));
                return;
            }
            cases.extend(self.case(node));
        }
    }

    fn case(&mut self, node: &Node) -> Option<Case> {
        let Value::Table(fields) = &node.value else {
            self.problems.push(node.wrong("test", "[[test]] and the keys below it"));
            return None;
        };
        let before = self.problems.len();
        self.keys(fields, &KEYS, "a test");
        let name =
            self.required(node, fields, "name", "one line that says what it shows").map(|field| &field.node);
        let name = name.and_then(|node| {
            let text = self.keep(node.text("name", "a text in quotes"))?;
            if text.trim().is_empty() {
                self.problems.push(Problem::new(
                    &node.at,
                    "this name is empty",
                    "say in one line what it shows",
                ));
            }
            Some(text.to_owned())
        });
        let enable = self.ids(fields, "enable");
        let rules = self.ids(fields, "rules");
        let processes = find(fields, "process").map(|field| self.processes(&field.node)).unwrap_or_default();
        let mut script = Script::new(processes);
        script.set_existing(true);
        let (mut existing, mut events) = (Vec::new(), Vec::new());
        if let Some(field) = find(fields, "existing") {
            self.steps("existing", &field.node, &mut script, None, &mut existing);
        }
        script.set_existing(false);
        if let Some(field) = find(fields, "events") {
            self.steps("events", &field.node, &mut script, None, &mut events);
        } else if find(fields, "existing").is_none() {
            self.required(
                node,
                fields,
                "events",
                "what happens, e.g. [\"open /usr/bin/bash -> 203.0.113.9:4444\"]",
            );
        }
        let expect = self.required(
            node,
            fields,
            "expect",
            "the alerts, e.g. [\"raised process.shell\"], or [] for none",
        );
        let expect = expect.map(|field| self.expect(&field.node, &script, &enable, &rules));
        let (name, expect) = (name?, expect?);
        let line = self.texts.place(&node.at).map_or(0, |place| place.line);
        let names = |ids: Vec<(String, At)>| ids.into_iter().map(|(id, _)| id).collect();
        (self.problems.len() == before).then(|| Case {
            name,
            file: self.texts.path(node.at.text).to_owned(),
            line,
            rules: names(rules),
            enable: names(enable),
            processes: script.into_processes(),
            existing,
            events,
            expect,
        })
    }

    fn keys(&mut self, fields: &[Field], known: &[About], what: &str) {
        for field in fields {
            if known.iter().any(|about| about.name == field.name) {
                continue;
            }
            let names: Vec<&str> = known.iter().map(|about| about.name).collect();
            let near = nearest(&field.name, names.iter().copied());
            let about = near.and_then(|near| known.iter().find(|about| about.name == near));
            let help = match about {
                Some(About { name, takes, meaning }) => {
                    format!("did you mean `{name}`? It takes {takes}: {meaning}")
                }
                None => format!("{what} has {}", names.join(", ")),
            };
            self.problems.push(Problem::new(&field.at, format!("unknown key {}", quoted(&field.name)), help));
        }
    }

    fn required<'f>(
        &mut self,
        node: &Node,
        fields: &'f [Field],
        key: &str,
        takes: &str,
    ) -> Option<&'f Field> {
        let field = find(fields, key);
        if field.is_none() {
            let message = format!("this test has no `{key}`");
            self.problems.push(Problem::new(&node.at, message, format!("`{key}` is {takes}")));
        }
        field
    }

    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn ids(&mut self, fields: &[Field], key: &str) -> Vec<(String, At)> {
        let Some(field) = find(fields, key) else { return Vec::new() };
        let mut ids = Vec::new();
        for node in field.node.one_or_more() {
            let Some(id) = self.keep(node.text(key, "ids of rules in quotes")) else { continue };
            if self.rules.is_some_and(|rules| !rules.contains_key(id)) {
                self.no_rule(id, &node.at);
            }
            ids.push((id.to_owned(), node.at.clone()));
        }
        ids
    }

    fn no_rule(&mut self, id: &str, at: &At) {
        let near = self.rules.and_then(|rules| nearest(id, rules.keys().copied()));
        let help = near.map_or_else(
            || "tests stand beside the rules that they test; the default rules are there with use = \"defaults\"".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        self.problems.push(Problem::new(at, format!("there is no rule {}", quoted(id)), help));
    }

    /// Lines, and tables that repeat lines.
    fn steps(&mut self, key: &str, node: &Node, script: &mut Script, n: Option<u32>, steps: &mut Vec<Step>) {
        let takes = "lines, e.g. [\"open /usr/bin/bash -> 203.0.113.9:4444\", \"+1h\"]";
        let Some(nodes) = self.keep(node.array(key, takes)) else { return };
        for node in nodes {
            if steps.len() >= STEPS_MAX {
                let message = format!("this test has more than {STEPS_MAX} events");
                self.problems.push(Problem::new(&node.at, message, "repeat less"));
                return;
            }
            let before = self.problems.len();
            match &node.value {
                Value::Text(line) => steps.extend(self.step(line, node, script, n)),
                Value::Table(fields) if n.is_none() => self.repeat(key, node, fields, script, steps),
                _ => self.problems.push(node.wrong(key, takes)),
            }
            // The next repetitions have the same errors, and later lines others that follow from them.
            if n.is_some() && self.problems.len() > before {
                return;
            }
        }
    }

    fn repeat(
        &mut self,
        key: &str,
        node: &Node,
        fields: &[Field],
        script: &mut Script,
        steps: &mut Vec<Step>,
    ) {
        let takes = "{ repeat = 30, events = [\"+1m\", …] }";
        let (Some(times), Some(lines), 2) = (find(fields, "repeat"), find(fields, "events"), fields.len())
        else {
            let message = "a table among the lines repeats some";
            self.problems.push(Problem::new(&node.at, message, format!("write {takes}")));
            return;
        };
        let Some(times) = self.keep(times.node.count("repeat")) else { return };
        for n in 1..=times {
            let before = (self.problems.len(), steps.len());
            self.steps(key, &lines.node, script, Some(n), steps);
            if self.problems.len() > before.0 {
                return;
            }
            // However often.
            if steps.len() == before.1 {
                let message = "nothing is repeated here";
                self.problems.push(Problem::new(&lines.node.at, message, format!("write {takes}")));
                return;
            }
        }
    }

    fn step(&mut self, line: &str, node: &Node, script: &mut Script, n: Option<u32>) -> Option<Step> {
        let written = line;
        let line = n.map_or_else(|| line.to_owned(), |n| line.replace(NUMBER, &n.to_string()));
        match script.line(&line) {
            Ok(act) => Some(Step { text: line, act }),
            Err(error) => {
                let at = if line == written {
                    self.texts.within(&node.at, &line, error.span.clone())
                } else {
                    node.at.clone()
                };
                self.problems.push(Problem::of_filter(error, at));
                None
            }
        }
    }

    fn expect(
        &mut self,
        node: &Node,
        script: &Script,
        enable: &[(String, At)],
        only: &[(String, At)],
    ) -> Vec<Expected> {
        let takes = "lines, e.g. [\"raised process.shell\"], or [] for no alert";
        let mut expected = Vec::new();
        for node in self.keep(node.array("expect", takes)).unwrap_or_default() {
            let Some(line) = self.keep(node.text("expect", takes)) else { continue };
            let one = match Expected::read(line, script) {
                Ok(one) => one,
                Err(error) => {
                    let at = self.texts.within(&node.at, line, error.span.clone());
                    self.problems.push(Problem::of_filter(error, at));
                    continue;
                }
            };
            let start = line.find(&one.rule).unwrap_or(0);
            let at = self.texts.within(&node.at, line, start..start + one.rule.len());
            match self.rules.map(|rules| rules.get(one.rule.as_str())) {
                Some(None) => self.no_rule(&one.rule, &at),
                Some(Some(false)) if !enable.iter().any(|(id, _)| *id == one.rule) => {
                    let help = format!("switch it on for this test: enable = [\"{}\"]", one.rule);
                    self.problems.push(Problem::new(
                        &at,
                        format!("the rule {} is off", quoted(&one.rule)),
                        help,
                    ));
                }
                _ if !only.is_empty() && !only.iter().any(|(id, _)| *id == one.rule) => {
                    let message = format!("alerts of {} do not count in this test", quoted(&one.rule));
                    self.problems.push(Problem::new(&at, message, "add it to `rules`, or leave `rules` out"));
                }
                _ => expected.push(one),
            }
        }
        expected
    }
}

/// The rules that there are, with whether they are active.
pub(super) fn rules(drafts: &[Draft]) -> HashMap<&str, bool> {
    let enabled = |draft: &Draft| match draft.get("enabled").map(|field| &field.node.value) {
        Some(Value::Bool(enabled)) => *enabled,
        _ => true,
    };
    drafts.iter().filter(|draft| draft.is_named()).map(|draft| (draft.id.as_str(), enabled(draft))).collect()
}
