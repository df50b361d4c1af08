//! Reads `[[test]]` tables into [`RuleTest`]s. Goes on after an error, so that all of them are reported.

mod process;
#[cfg(test)]
mod tests;

use super::model::{Expected, RuleTest, Step};
use super::script::Script;
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::rules::file::{At, Field, Node, Problem, TestSource, Value, find};

/// Most tests of one run, and most steps of one test.
const TESTS_MAX: usize = 10_000;
const STEPS_MAX: usize = 20_000;
/// The placeholder for the number of the repetition.
const NUMBER: &str = "{n}";

/// A key and what it means.
struct About {
    name: &'static str,
    takes: &'static str,
    meaning: &'static str,
}

const fn about(name: &'static str, takes: &'static str, meaning: &'static str) -> About {
    About { name, takes, meaning }
}

/// Keys of a test.
const KEYS: [About; 7] = [
    about("name", "text", "what it shows, one line; must be there"),
    about("events", "lines", "what happens, in its order; see below"),
    about("expect", "lines", "the alerts, in their order; `[]`: none; must be there"),
    about("rules", "ids", "only alerts of these rules count; without it those of every rule"),
    about("enable", "ids", "rules that are off, to be on in this test"),
    about("existing", "lines", "what was there when conn began: `open`, `accept`, `listen`, `exec`"),
    about("process", "tables", "`process.NAME = { … }`: the processes"),
];

/// Reads the tests of all files, and adds what is wrong to the problems of `source`.
pub(super) fn read(source: TestSource<'_>) -> Vec<RuleTest> {
    let (tables, mut reader, mut tests) = (source.tables, Reader { source }, Vec::new());
    for node in tables {
        reader.file(node, &mut tests);
    }
    tests
}

struct Reader<'a> {
    source: TestSource<'a>,
}

impl Reader<'_> {
    /// Reads the tests of one file.
    fn file(&mut self, node: &Node, tests: &mut Vec<RuleTest>) {
        let Value::Array(nodes) = &node.value else {
            self.push(node.wrong("test", "[[test]] and the keys below it"));
            return;
        };
        for node in nodes {
            if tests.len() >= TESTS_MAX {
                let message = format!("there are more than {TESTS_MAX} tests");
                self.push(Problem::new(&node.at, message, "test them in several runs"));
                return;
            }
            tests.extend(self.test(node));
        }
    }

    fn push(&mut self, problem: Problem) {
        self.source.problems.push(problem);
    }

    /// Returns the number of problems so far.
    fn problems(&self) -> usize {
        self.source.problems.len()
    }

    fn test(&mut self, node: &Node) -> Option<RuleTest> {
        let Value::Table(fields) = &node.value else {
            self.push(node.wrong("test", "[[test]] and the keys below it"));
            return None;
        };
        let before = self.problems();
        self.keys(fields, &KEYS, "a test");
        let name =
            self.required(node, fields, "name", "one line that says what it shows").map(|field| &field.node);
        let name = name.and_then(|node| {
            let text = self.keep(node.text("name", "a text in quotes"))?;
            if text.trim().is_empty() {
                self.push(Problem::new(&node.at, "this name is empty", "say in one line what it shows"));
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
        let line = self.source.texts.place(&node.at).map_or(0, |place| place.line);
        let names = |ids: Vec<(String, At)>| ids.into_iter().map(|(id, _)| id).collect();
        (self.problems() == before).then(|| RuleTest {
            name,
            file: self.source.texts.path(node.at.text).to_owned(),
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
            self.push(Problem::new(&field.at, format!("unknown key {}", quoted(&field.name)), help));
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
            self.push(Problem::new(&node.at, message, format!("`{key}` is {takes}")));
        }
        field
    }

    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem)).ok()
    }

    fn ids(&mut self, fields: &[Field], key: &str) -> Vec<(String, At)> {
        let Some(field) = find(fields, key) else { return Vec::new() };
        let mut ids = Vec::new();
        for node in field.node.one_or_more() {
            let Some(id) = self.keep(node.text(key, "ids of rules in quotes")) else { continue };
            if self.source.rules.is_some_and(|rules| !rules.contains_key(id)) {
                self.no_rule(id, &node.at);
            }
            ids.push((id.to_owned(), node.at.clone()));
        }
        ids
    }

    fn no_rule(&mut self, id: &str, at: &At) {
        let near = self.source.rules.and_then(|rules| nearest(id, rules.keys().map(String::as_str)));
        let help = near.map_or_else(
            || "tests stand beside the rules that they test; the default rules are there with use = \"defaults\"".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        self.push(Problem::new(at, format!("there is no rule {}", quoted(id)), help));
    }

    /// Reads lines, and tables that repeat lines.
    fn steps(&mut self, key: &str, node: &Node, script: &mut Script, n: Option<u32>, steps: &mut Vec<Step>) {
        let takes = "lines, e.g. [\"open /usr/bin/bash -> 203.0.113.9:4444\", \"+1h\"]";
        let Some(nodes) = self.keep(node.array(key, takes)) else { return };
        for node in nodes {
            if steps.len() >= STEPS_MAX {
                let message = format!("this test has more than {STEPS_MAX} events");
                self.push(Problem::new(&node.at, message, "repeat less"));
                return;
            }
            let before = self.problems();
            match &node.value {
                Value::Text(line) => steps.extend(self.step(line, node, script, n)),
                Value::Table(fields) if n.is_none() => self.repeat(key, node, fields, script, steps),
                _ => self.push(node.wrong(key, takes)),
            }
            // The next repetitions would have the same errors, and later lines errors that follow from them.
            if n.is_some() && self.problems() > before {
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
            self.push(Problem::new(&node.at, message, format!("write {takes}")));
            return;
        };
        let Some(times) = self.keep(times.node.count("repeat")) else { return };
        for n in 1..=times {
            let before = (self.problems(), steps.len());
            self.steps(key, &lines.node, script, Some(n), steps);
            if self.problems() > before.0 {
                return;
            }
            // It would change nothing, however often it is repeated.
            if steps.len() == before.1 {
                let message = "nothing is repeated here";
                self.push(Problem::new(&lines.node.at, message, format!("write {takes}")));
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
                    self.source.texts.within(&node.at, &line, error.span.clone())
                } else {
                    node.at.clone()
                };
                self.push(Problem::of_filter(error, at));
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
                    let at = self.source.texts.within(&node.at, line, error.span.clone());
                    self.push(Problem::of_filter(error, at));
                    continue;
                }
            };
            let start = line.find(&one.rule).unwrap_or(0);
            let at = self.source.texts.within(&node.at, line, start..start + one.rule.len());
            match self.source.rules.map(|rules| rules.get(one.rule.as_str())) {
                Some(None) => self.no_rule(&one.rule, &at),
                Some(Some(false)) if !enable.iter().any(|(id, _)| *id == one.rule) => {
                    let help = format!("switch it on for this test: enable = [\"{}\"]", one.rule);
                    self.push(Problem::new(&at, format!("the rule {} is off", quoted(&one.rule)), help));
                }
                _ if !only.is_empty() && !only.iter().any(|(id, _)| *id == one.rule) => {
                    let message = format!("alerts of {} do not count in this test", quoted(&one.rule));
                    self.push(Problem::new(&at, message, "add it to `rules`, or leave `rules` out"));
                }
                _ => expected.push(one),
            }
        }
        expected
    }
}
