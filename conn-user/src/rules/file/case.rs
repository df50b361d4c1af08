//! `[[test]]`: from a table to a [`Case`]. Goes on behind an error, so that all of them are told.

use std::collections::{BTreeMap, HashMap};

use super::draft::Draft;
use super::error::{At, Problem, Problems};
use super::text::Texts;
use super::value::{Field, Node, Value, find};
use crate::event::names::{self, ExeFlag, Named};
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::process::identity::{Sha256, Tty};
use crate::rules::cases::script::Script;
use crate::rules::cases::{Case, Cast, Expected, Step};

/// Most tests of a run, and most steps of one.
const CASES_MAX: usize = 10_000;
const STEPS_MAX: usize = 20_000;
/// What stands for the number of the repetition.
const NUMBER: &str = "{n}";

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
    about("existing", "lines", "what was there when conn began: `open`, `accept`, `listen`"),
    about("process", "tables", "`process.NAME = { … }`: the processes"),
];

/// Keys of a process.
pub(super) const PROCESS_KEYS: [About; 14] = [
    about("exe", "a path", "its executable; without it `/usr/bin/NAME`. `/memfd:NAME` is a memfd"),
    about("comm", "text", "its own name; without it the last part of `exe`"),
    about("args", "texts", "its arguments, the first is its name"),
    about("user", "a name", "its user; without it `root`"),
    about("uid", "a number", "its user's id; without it 0 of `root`, 1000 of others"),
    about("unit", "a unit", "its systemd unit, such as `nginx.service`"),
    about("container", "an id or a name", "its container"),
    about(
        "parent",
        "a process",
        "who started it: a process of this test, a path, or just a name; without it process 1",
    ),
    about("cwd", "a path", "its working directory"),
    about("tty", "a terminal", "such as `pts/3`; without it none"),
    about("exe_flag", "flags", "`deleted`, `writable`"),
    about("sha256", "64 digits", "the hash of its executable"),
    about(
        "replaced",
        "`no`, `other` or `gone`",
        "what the path of its executable leads to; known soon after it used the network",
    ),
    about("exists", "true", "it was there before conn began; others start when a line first names them"),
];

/// Reads tests. `rules`: those that there are, with whether they are in force.
pub(super) struct Reader<'a> {
    pub(super) texts: &'a Texts,
    pub(super) problems: &'a mut Problems,
    /// `None`: not all rules could be read, and what is missing is not told.
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
            let before = self.problems.len();
            self.steps(key, &lines.node, script, Some(n), steps);
            if self.problems.len() > before {
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

    fn processes(&mut self, node: &Node) -> BTreeMap<String, Cast> {
        let mut processes = BTreeMap::new();
        let Value::Table(fields) = &node.value else {
            let takes = "a table for each: process.bash = { exe = \"/usr/bin/bash\" }";
            self.problems.push(node.wrong("process", takes));
            return processes;
        };
        for field in fields {
            if field.name.is_empty() || field.name == "?" || field.name.contains(char::is_whitespace) {
                let help = "a name without blanks, by which lines name the process";
                let message = format!("{} is no name of a process", quoted(&field.name));
                self.problems.push(Problem::new(&field.at, message, help));
            }
            if let Some(cast) = self.process(field) {
                processes.insert(field.name.clone(), cast);
            }
        }
        for field in fields {
            if is_own_ancestor(&field.name, &processes) {
                let message = format!("{} is its own ancestor", quoted(&field.name));
                self.problems.push(Problem::new(&field.at, message, "change the `parent` of one of them"));
            }
        }
        processes
    }

    fn process(&mut self, field: &Field) -> Option<Cast> {
        let Value::Table(fields) = &field.node.value else {
            let takes = "a table: { exe = \"/usr/bin/bash\", user = \"www-data\" }";
            self.problems.push(field.node.wrong(&field.name, takes));
            return None;
        };
        self.keys(fields, &PROCESS_KEYS, "a process");
        let mut text = |key: &str| {
            let field = find(fields, key)?;
            self.keep(field.node.text(key, "a text in quotes")).map(str::to_owned)
        };
        let exe = text("exe").or_else(|| Some(format!("/usr/bin/{}", field.name)));
        let (comm, user, unit, container) = (text("comm"), text("user"), text("unit"), text("container"));
        let (parent, cwd, tty) = (text("parent"), text("cwd"), text("tty"));
        let replaced = find(fields, "replaced").and_then(|field| self.named(field, "replaced"));
        let sha256 = find(fields, "sha256").and_then(|field| self.sha256(&field.node));
        let uid = find(fields, "uid").and_then(|field| self.uid(&field.node));
        let exists = find(fields, "exists").and_then(|field| self.keep(field.node.bool("exists")));
        let args = find(fields, "args").map(|field| {
            let takes = "an array of texts, e.g. [\"sh\", \"-i\"]";
            let nodes = self.keep(field.node.array("args", takes)).unwrap_or_default();
            nodes.iter().filter_map(|node| self.keep(node.text("args", takes)).map(str::to_owned)).collect()
        });
        let (mut deleted, mut writable) = (false, false);
        if let Some(field) = find(fields, "exe_flag") {
            for node in field.node.one_or_more() {
                let field = Field { node: node.clone(), ..field.clone() };
                match self.named(&field, "exe_flag") {
                    Some(ExeFlag::Deleted) => deleted = true,
                    Some(ExeFlag::Writable) => writable = true,
                    Some(ExeFlag::Memfd) => {
                        let help = "write exe = \"/memfd:NAME\"";
                        self.problems.push(Problem::new(&node.at, "a memfd is one by its path", help));
                    }
                    None => {}
                }
            }
        }
        let is_memfd = exe.as_deref().is_some_and(|exe| exe.starts_with("/memfd:"));
        Some(Cast {
            comm,
            args,
            user,
            uid,
            unit,
            container,
            parent,
            cwd,
            tty: tty.map_or(Tty::None, |tty| Tty::Named(tty.into())),
            deleted: deleted || is_memfd,
            writable,
            sha256,
            replaced,
            exists: exists.unwrap_or(false),
            exe,
        })
    }

    fn named<T: Named>(&mut self, field: &Field, key: &str) -> Option<T> {
        let known = names::all::<T>();
        let text = self.keep(field.node.text(key, &format!("one of {}", known.join(", "))))?;
        let found = names::from_name(text);
        if found.is_none() {
            let near = nearest(text, known.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            let help = format!("{near}`{key}` is one of {}", known.join(", "));
            self.problems.push(Problem::new(&field.node.at, format!("unknown {}", quoted(text)), help));
        }
        found
    }

    fn uid(&mut self, node: &Node) -> Option<u32> {
        let uid = match node.value {
            Value::Integer(Some(uid)) => u32::try_from(uid).ok(),
            _ => None,
        };
        if uid.is_none() {
            self.problems.push(Problem::new(&node.at, "this is no user id", "write a whole number from 0"));
        }
        uid
    }

    fn sha256(&mut self, node: &Node) -> Option<Sha256> {
        let text = self.keep(node.text("sha256", "64 hexadecimal digits in quotes"))?;
        let digit = |at: usize| char::from(*text.as_bytes().get(at)?).to_digit(16);
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            match (digit(2 * at), digit(2 * at + 1)) {
                (Some(high), Some(low)) if text.len() == 64 => *byte = (high << 4 | low) as u8,
                _ => {
                    let help = "write the 64 hexadecimal digits that sha256sum prints";
                    self.problems.push(Problem::new(&node.at, "this is no SHA-256", help));
                    return None;
                }
            }
        }
        Some(hash)
    }
}

/// Whether following parents leads back to it.
fn is_own_ancestor(name: &str, processes: &BTreeMap<String, Cast>) -> bool {
    let parent = |name: &str| processes.get(name).and_then(|cast| cast.parent.as_deref());
    let mut above = parent(name);
    for _ in 0..processes.len() {
        match above {
            Some(found) if found == name => return true,
            Some(found) => above = parent(found),
            None => return false,
        }
    }
    false
}

/// The rules that there are, with whether they are in force.
pub(super) fn rules(drafts: &[Draft]) -> HashMap<&str, bool> {
    let enabled = |draft: &Draft| match draft.get("enabled").map(|field| &field.node.value) {
        Some(Value::Bool(enabled)) => *enabled,
        _ => true,
    };
    drafts.iter().filter(|draft| draft.is_named()).map(|draft| (draft.id.as_str(), enabled(draft))).collect()
}
