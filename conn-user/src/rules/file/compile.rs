//! From a draft to a rule. Goes on behind an error, so that all of them are reported.

use std::collections::HashSet;
use std::sync::Arc;

use super::draft::Draft;
use super::error::{At, Problem, Problems};
use super::shape::{SHAPES, Shape, baseline_question};
use super::text::Texts;
use super::value::{Field, Node, Value, find};
use crate::event::alert::{RuleKind, RuleRef, Severity};
use crate::event::names::Named;
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::filter::{Filter, Names};
use crate::rules::model::{
    Advice, Detect, Expect, FanOutOf, LongRule, MissingRule, PathKey, PathRule, ProcessRule, Rule, ServerRule,
};
use crate::units::DurationNs;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Most levels of a rule.
const LEVELS_MAX: usize = 16;

/// What rules are compiled with.
pub(super) struct Compiler<'a> {
    pub(super) names: &'a Names,
    pub(super) texts: &'a Texts,
    pub(super) problems: &'a mut Problems,
    /// Ids of rules that a rule may cover: those of all files, and the built-in ones.
    pub(super) ids: HashSet<&'a str>,
}

impl Compiler<'_> {
    /// The rule and whether it is active; `None`: something is wrong with it.
    pub(super) fn rule(&mut self, draft: &Draft) -> Option<(Rule, bool)> {
        let before = self.problems.len();
        let shape = self.shape(draft);
        self.keys(draft, shape);
        let severity = self.named(draft, "severity").unwrap_or(Severity::Medium);
        let detect = match shape {
            Some(shape) => self.detect(draft, shape, severity),
            None => {
                self.values(draft, severity);
                None
            }
        };
        let matches = self.matches(draft, shape);
        let except = draft.except.iter().filter_map(|node| self.filter("except", node)).collect();
        let throttle = self.duration(draft, "throttle", true);
        let enabled = self.bool(draft, "enabled").unwrap_or(true);
        let title = self.text(draft, "title").filter(|title| !title.is_empty()).unwrap_or(&draft.id);
        let attack = self.attack(draft);
        let covers = self.covers(draft);
        let mut text = |name: &str| -> Box<str> { self.text(draft, name).unwrap_or_default().into() };
        let advice = Advice { why: text("why"), tune: text("tune") };
        // Only now: one error hides no other.
        let (shape, detect, matches) = (shape?, detect?, matches?);
        let rule = Rule {
            about: Arc::new(RuleRef {
                id: draft.id.as_str().into(),
                kind: shape.kind,
                title: title.into(),
                attack,
            }),
            severity: match &detect {
                Detect::Long(LongRule { levels, .. }) => levels.first().map_or(severity, |(_, first)| *first),
                _ => severity,
            },
            matches,
            except,
            covers,
            throttle: throttle.unwrap_or(match shape.kind {
                // Each absence is one of its own, and has had its grace.
                RuleKind::Missing => DurationNs(0),
                _ => DurationNs(HOUR),
            }),
            detect,
            advice,
        };
        (self.problems.len() == before).then_some((rule, enabled))
    }

    fn shape(&mut self, draft: &Draft) -> Option<&'static Shape> {
        // Alerts of the other kind are about conn itself.
        let kinds = RuleKind::ALL.iter().filter(|kind| **kind != RuleKind::Health);
        let known: Vec<(&'static str, RuleKind)> = kinds.map(|kind| (kind.name(), *kind)).collect();
        if draft.get("kind").is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            return self.lacks(draft, "kind", &format!("one of {}", names.join(", ")));
        }
        let kind = self.one_of(draft, "kind", &known)?;
        let mut shapes = SHAPES.iter().filter(|shape| shape.kind == kind);
        let finds: Vec<&str> = shapes.clone().filter_map(|shape| shape.find).collect();
        if finds.is_empty() {
            return shapes.next();
        }
        let Some(field) = draft.get("find") else {
            if draft.is_true("baseline")
                && let Some(question) = baseline_question(kind)
            {
                return shapes.find(|shape| shape.find == Some(question));
            }
            return self.lacks(draft, "find", &format!("one of {}", finds.join(", ")));
        };
        let find = self.keep(field.node.text("find", &format!("one of {}", finds.join(", "))))?;
        let shape = shapes.find(|shape| shape.find == Some(find));
        if shape.is_none() {
            self.unknown(&field.node.at, find, &format!("a rule of kind `{}` finds", kind.name()), &finds);
        }
        shape
    }

    pub(super) fn lacks<T>(&mut self, draft: &Draft, key: &str, takes: &str) -> Option<T> {
        let message = match draft.id.as_str() {
            "" => format!("this rule has no `{key}`"),
            id => format!("the rule {} has no `{key}`", quoted(id)),
        };
        self.problems.push(Problem::new(&draft.at, message, format!("`{key}` takes {takes}")));
        None
    }

    /// Reads the values that rules of any shape have, for what is wrong with them.
    fn values(&mut self, draft: &Draft, severity: Severity) {
        for key in ["learn", "within", "grace", "apart"] {
            self.duration(draft, key, true);
        }
        self.duration(draft, "window", false);
        self.duration(draft, "probe", false);
        self.duration(draft, "received", false);
        self.duration(draft, "answered", false);
        self.bool(draft, "own");
        self.read(draft, "limit", |node| node.count("limit"));
        self.read(draft, "sent", |node| node.bytes("sent"));
        self.read(draft, "score", |node| node.score("score"));
        self.read(draft, "at_least", judged);
        self.bool(draft, "sum");
        self.bool(draft, "baseline");
        self.fan_out_of(draft);
        self.by(draft);
        self.levels(draft, severity);
        self.expect(draft);
        for key in ["to", "holds"] {
            if let Some(field) = draft.get(key) {
                self.filter(key, &field.node);
            }
        }
    }

    fn detect(&mut self, draft: &Draft, shape: &Shape, severity: Severity) -> Option<Detect> {
        let count = |this: &mut Self, key: &str| this.read(draft, key, |node| node.count(key));
        let baseline = self.bool(draft, "baseline").unwrap_or(false);
        Some(match (shape.kind, shape.find) {
            (RuleKind::Path, Some("forbidden")) => Detect::Path(PathRule::Forbidden),
            (RuleKind::Path, Some("first-seen")) if baseline => {
                for field in ["by", "learn"].into_iter().filter_map(|key| draft.get(key)) {
                    let message = format!("`{}` has no meaning with a baseline", field.name);
                    let help = "the entries of the baseline say what is known; leave it out";
                    self.problems.push(Problem::new(&field.at, message, help));
                }
                Detect::Path(PathRule::Unlearned)
            }
            (RuleKind::Path, Some("first-seen")) => {
                let learn = self.duration(draft, "learn", true).unwrap_or(DurationNs(HOUR));
                Detect::Path(PathRule::FirstSeen { by: self.by(draft)?, learn })
            }
            (RuleKind::Path, Some("pivot")) => {
                let within = self.duration(draft, "within", true).unwrap_or(DurationNs(10 * MINUTE));
                let own = self.bool(draft, "own").unwrap_or(true);
                let to = draft.get("to")?;
                Detect::Path(PathRule::Pivot { to: self.filter("to", &to.node)?, within, own })
            }
            (RuleKind::Path, Some("fan-out")) => {
                let of = self.fan_out_of(draft);
                let window = self.duration(draft, "window", false).unwrap_or(DurationNs(MINUTE));
                let limit = count(self, "limit")?;
                Detect::Path(PathRule::FanOut { of: of.unwrap_or(FanOutOf::Peers), limit, window })
            }
            (RuleKind::Path, Some("volume")) => {
                let window = self.duration(draft, "window", false).unwrap_or(DurationNs(HOUR));
                let sent = self.read(draft, "sent", |node| node.bytes("sent"))?;
                Detect::Path(PathRule::Volume { sent, window })
            }
            (RuleKind::Path, _) => Detect::Path(PathRule::Beacon {
                score: self.read(draft, "score", |node| node.score("score")).unwrap_or(0.9),
                at_least: self.read(draft, "at_least", judged).unwrap_or(20),
                apart: self.duration(draft, "apart", true).unwrap_or(DurationNs(0)),
            }),
            (RuleKind::Process, Some("network")) if baseline => Detect::Process(ProcessRule::Unlearned),
            (RuleKind::Process, Some("network")) => {
                Detect::Process(match self.duration(draft, "probe", false) {
                    Some(within) => ProcessRule::Probe(within),
                    None => ProcessRule::Network,
                })
            }
            (RuleKind::Process, Some("replaced")) => Detect::Process(ProcessRule::Replaced),
            (RuleKind::Process, Some("deleted")) => Detect::Process(ProcessRule::Deleted),
            (RuleKind::Process, Some("stdio")) => Detect::Process(ProcessRule::Stdio),
            (RuleKind::Process, Some("parent-stdio")) => Detect::Process(ProcessRule::ParentStdio),
            (RuleKind::Process, Some("exec")) => Detect::Process(ProcessRule::Exec),
            (RuleKind::Process, find) => {
                let holds = draft.get("holds")?;
                let holds = self.filter("holds", &holds.node)?;
                let received = self.duration(draft, "received", false);
                let answered = self.duration(draft, "answered", false);
                let beside = find == Some("spawn-beside");
                Detect::Process(ProcessRule::Spawn { holds, beside, received, answered })
            }
            (RuleKind::Server, Some("listener")) if baseline => Detect::Server(ServerRule::Unlearned),
            (RuleKind::Server, Some("listener")) => Detect::Server(ServerRule::Listener),
            (RuleKind::Server, Some("takeover")) => Detect::Server(ServerRule::Takeover),
            (RuleKind::Server, Some("join")) => Detect::Server(ServerRule::Join),
            (RuleKind::Server, Some("widened")) => Detect::Server(ServerRule::Widened),
            (RuleKind::Server, _) => Detect::Server(ServerRule::Accept),
            (RuleKind::Long, _) => {
                let sum = self.bool(draft, "sum").unwrap_or(false);
                Detect::Long(LongRule { levels: self.levels(draft, severity)?, sum })
            }
            // There is no shape of the kind `health`.
            (RuleKind::Health, _) => return None,
            (RuleKind::Missing, _) => {
                let grace = self.duration(draft, "grace", true).unwrap_or(DurationNs(30 * SECOND));
                Detect::Missing(MissingRule { expect: self.expect(draft)?, grace })
            }
        })
    }

    fn fan_out_of(&mut self, draft: &Draft) -> Option<FanOutOf> {
        let known = [
            ("peers", FanOutOf::Peers),
            ("ports", FanOutOf::Ports),
            ("peers-of-children", FanOutOf::PeersOfChildren),
            ("ports-of-children", FanOutOf::PortsOfChildren),
        ];
        self.one_of(draft, "of", &known)
    }

    fn by(&mut self, draft: &Draft) -> Option<Box<[PathKey]>> {
        let known = [
            ("exe", PathKey::Exe),
            ("unit", PathKey::Unit),
            ("user", PathKey::User),
            ("zone", PathKey::Zone),
            ("net", PathKey::Net),
            ("ip", PathKey::Ip),
            ("port", PathKey::Port),
            ("dir", PathKey::Direction),
        ];
        let Some(field) = draft.get("by") else {
            return Some([PathKey::Unit, PathKey::Direction, PathKey::Zone, PathKey::Port].into());
        };
        let takes = "an array of names, e.g. [\"unit\", \"zone\", \"port\"]";
        let nodes = self.keep(field.node.array("by", takes))?;
        if nodes.is_empty() {
            let message = "`by` is empty: all connections would be of one sort";
            self.problems.push(Problem::new(&field.node.at, message, format!("write {takes}")));
            return None;
        }
        let mut keys = Vec::new();
        for node in nodes {
            if let Some(key) = self.choose("by", node, &known)
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
        Some(keys.into())
    }

    fn levels(&mut self, draft: &Draft, severity: Severity) -> Option<Box<[(DurationNs, Severity)]>> {
        let field = draft.get("levels")?;
        let takes = "an array of times, e.g. [\"1h\", \"4h\", { after = \"12h\", severity = \"high\" }]";
        let nodes = self.keep(field.node.array("levels", takes))?;
        let problem = if nodes.is_empty() {
            Some("`levels` is empty".to_owned())
        } else if nodes.len() > LEVELS_MAX {
            Some(format!("there are more than {LEVELS_MAX} levels"))
        } else {
            None
        };
        if let Some(message) = problem {
            self.problems.push(Problem::new(&field.node.at, message, format!("write {takes}")));
            return None;
        }
        let mut levels: Vec<(DurationNs, Severity)> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some((after, own)) = self.level(node, takes) else { continue };
            let step = levels.last().map_or(severity, |(_, last)| above(*last));
            if levels.last().is_some_and(|(last, _)| *last >= after) {
                let message = "this level is not longer than the one before it";
                self.problems.push(Problem::new(&node.at, message, "levels ascend"));
            }
            levels.push((after, own.unwrap_or(step)));
        }
        Some(levels.into())
    }

    fn level(&mut self, node: &Node, takes: &str) -> Option<(DurationNs, Option<Severity>)> {
        let Value::Table(fields) = &node.value else {
            let after = match node.value {
                Value::Text(_) => node.duration("levels", false),
                _ => Err(node.wrong("levels", takes)),
            };
            return Some((self.keep(after)?, None));
        };
        for field in fields.iter().filter(|field| !matches!(field.name.as_str(), "after" | "severity")) {
            let help = "a level has `after` and `severity`";
            self.problems.push(Problem::new(&field.at, format!("unknown key {}", quoted(&field.name)), help));
        }
        let Some(after) = find(fields, "after") else {
            self.problems.push(Problem::new(&node.at, "this level has no `after`", format!("write {takes}")));
            return None;
        };
        let severity = find(fields, "severity").and_then(|field| self.name_of(field));
        Some((self.keep(after.node.duration("after", false))?, severity))
    }

    fn expect(&mut self, draft: &Draft) -> Option<Expect> {
        let listeners = self.one_of(draft, "expect", &[("listener", true), ("connection", false)]);
        let count = self.read(draft, "count", |node| node.count("count"));
        let every = self.duration(draft, "every", false);
        let listeners = listeners?;
        let refuse = match (draft.get("every"), draft.get("count")) {
            (Some(field), _) if listeners => {
                Some((field, "a listener has no `every`", "a listener is there or not; use `grace`"))
            }
            (Some(field), Some(_)) => {
                Some((field, "`every` and `count` are two rules", "write one rule for each"))
            }
            _ => None,
        };
        if let Some((field, message, help)) = refuse {
            self.problems.push(Problem::new(&field.at, message, help));
        }
        Some(match every {
            Some(every) if !listeners => Expect::Every(every),
            _ if listeners => Expect::Listeners(count.unwrap_or(1)),
            _ => Expect::Open(count.unwrap_or(1)),
        })
    }

    fn attack(&mut self, draft: &Draft) -> Box<[Box<str>]> {
        let Some(field) = draft.get("attack") else { return Box::default() };
        let takes = "an array of technique ids, e.g. [\"T1071\", \"T1059.004\"]";
        let Some(nodes) = self.keep(field.node.array("attack", takes)) else { return Box::default() };
        let mut ids = Vec::new();
        for node in nodes {
            let Some(text) = self.keep(node.text("attack", takes)) else { continue };
            if is_technique(text) {
                ids.push(text.into());
            } else {
                let message = format!("{} is no technique of ATT&CK", quoted(text));
                self.problems.push(Problem::new(&node.at, message, format!("write {takes}")));
            }
        }
        ids.into()
    }

    fn covers(&mut self, draft: &Draft) -> Arc<[Box<str>]> {
        let Some(field) = draft.get("covers") else { return Arc::default() };
        let takes = "an array of ids of rules, e.g. [\"process.spawn\"]";
        let Some(nodes) = self.keep(field.node.array("covers", takes)) else { return Arc::default() };
        let mut ids: Vec<Box<str>> = Vec::new();
        for node in nodes {
            let Some(id) = self.keep(node.text("covers", takes)) else { continue };
            if self.ids.contains(id) {
                ids.push(id.into());
            } else {
                let near = nearest(id, self.ids.iter().copied());
                let help =
                    near.map_or_else(|| format!("write {takes}"), |near| format!("did you mean `{near}`?"));
                self.problems.push(Problem::new(&node.at, format!("there is no rule {}", quoted(id)), help));
            }
        }
        ids.into()
    }

    fn matches(&mut self, draft: &Draft, shape: Option<&Shape>) -> Option<Filter> {
        let field = draft.get("match")?;
        let filter = self.filter("match", &field.node)?;
        if let Some(shape) = shape
            && !shape.events.iter().any(|kind| filter.may_match(*kind))
        {
            let kinds: Vec<&str> = shape.events.iter().map(|kind| kind.name()).collect();
            let message = "no event that this rule looks at can match";
            let help = format!("it looks at {}: {}", kinds.join(", "), shape.meaning);
            self.problems.push(Problem::new(&field.node.at, message, help));
        }
        Some(filter)
    }

    fn filter(&mut self, key: &str, node: &Node) -> Option<Filter> {
        let takes = "a filter in quotes, e.g. 'dir:out raddr:external'";
        let text = self.keep(node.text(key, takes))?;
        match Filter::with_names(text, self.names) {
            Ok(filter) => Some(filter),
            Err(error) => {
                let at = self.texts.within(&node.at, text, error.span.clone());
                self.problems.push(Problem::of_filter(error, at));
                None
            }
        }
    }

    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn read<T>(&mut self, draft: &Draft, key: &str, read: impl Fn(&Node) -> Result<T, Problem>) -> Option<T> {
        let field = draft.get(key)?;
        self.keep(read(&field.node))
    }

    fn text<'d>(&mut self, draft: &'d Draft, key: &str) -> Option<&'d str> {
        let field = draft.get(key)?;
        self.keep(field.node.text(key, "a text in quotes"))
    }

    fn bool(&mut self, draft: &Draft, key: &str) -> Option<bool> {
        self.read(draft, key, |node| node.bool(key))
    }

    fn duration(&mut self, draft: &Draft, key: &str, zero: bool) -> Option<DurationNs> {
        self.read(draft, key, |node| node.duration(key, zero))
    }

    fn named<T: Named>(&mut self, draft: &Draft, key: &str) -> Option<T> {
        draft.get(key).and_then(|field| self.name_of(field))
    }

    fn name_of<T: Named>(&mut self, field: &Field) -> Option<T> {
        let known: Vec<(&str, T)> = T::ALL.iter().map(|value| (value.name(), *value)).collect();
        self.choose(&field.name, &field.node, &known)
    }

    fn one_of<T: Copy>(&mut self, draft: &Draft, key: &str, known: &[(&'static str, T)]) -> Option<T> {
        let field = draft.get(key)?;
        self.choose(key, &field.node, known)
    }

    fn choose<T: Copy>(&mut self, key: &str, node: &Node, known: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = self.keep(node.text(key, &format!("one of {}", names.join(", "))))?;
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            self.unknown(&node.at, text, &format!("`{key}` is one of"), &names);
        }
        found
    }

    fn unknown(&mut self, at: &At, word: &str, what: &str, known: &[&str]) {
        let near = nearest(word, known.iter().copied());
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        let help = format!("{near}{what} {}", known.join(", "));
        self.problems.push(Problem::new(at, format!("unknown {}", quoted(word)), help));
    }
}

/// As many connections as the detector can judge by, and keeps.
fn judged(node: &Node) -> Result<u32, Problem> {
    let count = node.count("at_least")?;
    if (4..=64).contains(&count) {
        return Ok(count);
    }
    Err(Problem::new(&node.at, format!("`at_least` cannot be {count}"), "write a whole number from 4 to 64"))
}

/// The next severity.
fn above(severity: Severity) -> Severity {
    Severity::ALL.iter().copied().find(|other| *other > severity).unwrap_or(Severity::Critical)
}

/// `T` and four digits, perhaps a dot and three.
fn is_technique(text: &str) -> bool {
    let digits =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = text.strip_prefix('T') else { return false };
    match rest.split_once('.') {
        Some((main, sub)) => digits(main, 4) && digits(sub, 3),
        None => digits(rest, 4),
    }
}
