//! What a rule may say: the keys of every rule, and those of each kind and question. The documentation is made of this.

use crate::event::alert::RuleKind;
use crate::event::model::EventKind;

/// A key of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it takes, for people.
    pub(super) takes: &'static str,
    /// What holds without it.
    pub(super) default: Without,
    pub(super) meaning: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    /// The key must be there.
    Required,
    /// As if it were this.
    Is(&'static str),
}

/// A kind with a question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kind: RuleKind,
    /// `find`; `None`: the kind has one question only.
    pub(super) find: Option<&'static str>,
    pub(super) meaning: &'static str,
    /// Kinds of events that its `match` is asked about.
    pub(super) events: &'static [EventKind],
    /// Its own keys.
    pub(super) keys: &'static [Key],
}

const fn key(name: &'static str, takes: &'static str, default: Without, meaning: &'static str) -> Key {
    Key { name, takes, default, meaning }
}

use self::Without::{Is, Required};

const TIME: &str = "a time";
const COUNT: &str = "a number";
const BOOL: &str = "true or false";

/// Keys of every rule.
pub(super) const COMMON: &[Key] = &[
    key("id", "a name", Required, "names the rule: `a-z`, `0-9`, `_`, `-` and dots"),
    key(
        "kind",
        "a kind",
        Required,
        "what sort of anomaly it finds: `path`, `process`, `server`, `long` or `missing`",
    ),
    key(
        "find",
        "a question",
        Required,
        "what it asks (not `long` and `missing`, which ask one thing only; may be left out with `baseline = true`)",
    ),
    key("title", "text", Is("the id"), "what it finds, one line; alerts show it"),
    key("why", "text", Is(""), "why it exists"),
    key("tune", "text", Is(""), "what to do when it is right and unwanted"),
    key("severity", "a severity", Is("`medium`"), "`info`, `low`, `medium`, `high` or `critical`"),
    key("match", "a filter", Required, "which events it looks at; `\"\"` is all that its question is about"),
    key("except", "a filter, or several", Is("none"), "which of these it does not"),
    key(
        "covers",
        "ids of rules",
        Is("none"),
        "while an alert of this rule about a connection is open, findings of these rules about the same connection that are not more severe are counted as its repeats",
    ),
    key("attack", "ATT&CK ids", Is("none"), "technique ids, e.g. `[\"T1071\", \"T1059.004\"]`"),
    key(
        "throttle",
        TIME,
        Is("`1h`, of `missing` `0s`"),
        "the same finding is reported once in this time; `\"0s\"`: each time",
    ),
    key("enabled", "true or false", Is("`true`"), "whether it is active"),
];

/// Keys that an override may set.
pub(super) const OVERRIDABLE: &[&str] = &[
    "enabled", "severity", "except", "throttle", "learn", "within", "limit", "window", "score", "at_least",
    "apart", "levels", "count", "every", "grace", "received", "answered", "sent",
];

const CONNECTIONS: &[EventKind] = &[EventKind::Connect, EventKind::Accept, EventKind::Established];
const OPEN: &[EventKind] = &[EventKind::Accept, EventKind::Established];
const ACCEPTED: &[EventKind] = &[EventKind::Accept, EventKind::Established];
const LISTEN: &[EventKind] = &[EventKind::Listen];
const USES: &[EventKind] =
    &[EventKind::Connect, EventKind::Accept, EventKind::Established, EventKind::Listen];
const EXEC: &[EventKind] = &[EventKind::Exec];

const fn path(find: &'static str, meaning: &'static str, keys: &'static [Key]) -> Shape {
    Shape { kind: RuleKind::Path, find: Some(find), meaning, events: CONNECTIONS, keys }
}

const fn process(find: &'static str, meaning: &'static str, events: &'static [EventKind]) -> Shape {
    Shape { kind: RuleKind::Process, find: Some(find), meaning, events, keys: &[] }
}

/// Without `find`, a rule of this kind with `baseline = true` asks this.
pub(super) const fn baseline_question(kind: RuleKind) -> Option<&'static str> {
    match kind {
        RuleKind::Path => Some("first-seen"),
        RuleKind::Process => Some("network"),
        RuleKind::Server => Some("listener"),
        RuleKind::Long | RuleKind::Missing | RuleKind::Health => None,
    }
}

/// Keys of `spawn` and `spawn-beside`.
const SPAWN: &[Key] = &[
    key("holds", "a filter", Required, "which connections"),
    key(
        "received",
        TIME,
        Is("any time"),
        "only connections that received data, or were established, at most so long before the execution",
    ),
    key(
        "answered",
        TIME,
        Is("none"),
        "with `received`: the severity is `low` unless data are sent after those received, at most so long after the execution",
    ),
];

const fn server(find: &'static str, meaning: &'static str, events: &'static [EventKind]) -> Shape {
    Shape { kind: RuleKind::Server, find: Some(find), meaning, events, keys: &[] }
}

/// Every kind with each of its questions.
pub(super) const SHAPES: &[Shape] = &[
    path("forbidden", "A connection that matches is opened or accepted.", &[]),
    path(
        "first-seen",
        "A connection is the first of its sort since conn began.",
        &[
            key(
                "by",
                "names of facts",
                Is("`[\"unit\", \"dir\", \"zone\", \"port\"]`"),
                "what makes two connections the same sort: `exe`, `unit`, `user`, `zone`, `net`, `ip`, `port`, `dir`",
            ),
            key(
                "learn",
                TIME,
                Is("`1h`"),
                "so long after the start everything is learnt and nothing reported",
            ),
            key(
                "baseline",
                BOOL,
                Is("`false`"),
                "what is known is the [baseline](#baselines), in the place of `by` and `learn`",
            ),
        ],
    ),
    path(
        "pivot",
        "A process that a matching connection reached, or a descendant of it, opens one that matches `to`.",
        &[
            key("to", "a filter", Required, "which connections out"),
            key("within", TIME, Is("`10m`"), "so long after the end of the accepted one still"),
            key(
                "own",
                BOOL,
                Is("`true`"),
                "whether the process that was reached counts itself, and not only what it started since",
            ),
        ],
    ),
    path(
        "fan-out",
        "One process, or the children of one, have more than `limit` distinct peers, or ports of one peer, in a `window`.",
        &[
            key(
                "of",
                "`peers`, `ports`, `peers-of-children` or `ports-of-children`",
                Is("`peers`"),
                "what is counted; `-of-children`: of all children of one process together, and of theirs down to the third program",
            ),
            key("limit", COUNT, Required, "how many are normal"),
            key("window", TIME, Is("`1m`"), "in which time"),
        ],
    ),
    path(
        "volume",
        "A program sends more to one remote address than it ever did, and at least `sent`.",
        &[
            key("sent", "a number of bytes", Required, "how much, on one connection or within the `window`"),
            key("window", TIME, Is("`1h`"), "in which time"),
        ],
    ),
    path(
        "beacon",
        "One process connects to one peer at regular intervals.",
        &[
            key("score", "a number from 0 to 1", Is("`0.9`"), "how regular from which on; 1 is a clock"),
            key("at_least", COUNT, Is("`20`"), "fewest calls that are judged, 4 to 64"),
            key("apart", TIME, Is("`0s`"), "connections that are less apart are one call"),
        ],
    ),
    Shape {
        keys: &[
            key(
                "baseline",
                BOOL,
                Is("`false`"),
                "only one whose program is not in the [baseline](#baselines)",
            ),
            key(
                "probe",
                TIME,
                Is("none"),
                "an outgoing connection that fails, or closes within this time without data, raises nothing",
            ),
        ],
        ..process("network", "A process that matches opens, accepts or listens.", USES)
    },
    process(
        "replaced",
        "A process that matches uses the network while the path of its executable leads to another file, or to none.",
        USES,
    ),
    process(
        "deleted",
        "A process that matches uses the network, and its executable is deleted, before or soon after; an upgrade does not count: root or the owner of the running file has put another one in its place.",
        USES,
    ),
    process("stdio", "A program is executed whose standard input or output is a TCP connection.", EXEC),
    process(
        "parent-stdio",
        "A program is executed whose parent's standard input or output is a TCP connection, and not its own.",
        EXEC,
    ),
    process("exec", "A program that matches is executed, whether or not it uses the network.", EXEC),
    Shape {
        keys: SPAWN,
        ..process(
            "spawn",
            "A program is executed by a process that has a connection which `holds` matches, or by a near descendant of one.",
            EXEC,
        )
    },
    Shape {
        keys: SPAWN,
        ..process(
            "spawn-beside",
            "A program is executed by a process whose sibling, or the sibling of a near ancestor, has a connection which `holds` matches.",
            EXEC,
        )
    },
    Shape {
        keys: &[key("baseline", BOOL, Is("`false`"), "only one that is not in the [baseline](#baselines)")],
        ..server("listener", "Something that matches listens, or did at the start.", LISTEN)
    },
    server("takeover", "Another executable listens where one listened before.", LISTEN),
    server(
        "join",
        "A process of another executable or user listens beside others at the same place (`SO_REUSEPORT`).",
        LISTEN,
    ),
    server(
        "widened",
        "An executable that listened on loopback only listens on a wider address, at the same port.",
        LISTEN,
    ),
    server("accept", "A listener that matches accepts its first connection.", ACCEPTED),
    Shape {
        kind: RuleKind::Long,
        find: None,
        meaning: "A connection is open for longer than each of its levels.",
        events: OPEN,
        keys: &[
            key(
                "levels",
                "times, ascending",
                Required,
                "e.g. `[\"1h\", \"4h\", { after = \"12h\", severity = \"high\" }]`; the first has the severity of the rule, each further one is a step more severe unless it says otherwise",
            ),
            key(
                "sum",
                "true or false",
                Is("`false`"),
                "not each connection, but all of one executable and peer together",
            ),
        ],
    },
    Shape {
        kind: RuleKind::Missing,
        find: None,
        meaning: "Something that is expected is absent.",
        events: &[EventKind::Listen, EventKind::Connect, EventKind::Accept, EventKind::Established],
        keys: &[
            key("expect", "`listener` or `connection`", Required, "what must be there"),
            key("count", COUNT, Is("`1`"), "how many at least"),
            key(
                "every",
                TIME,
                Is("none"),
                "of connections, instead of `count`: one must be opened or accepted at least once in this time",
            ),
            key("grace", TIME, Is("`30s`"), "how long it may be absent, e.g. for a restart"),
        ],
    },
];

impl Shape {
    /// The keys that a rule of it may have.
    pub(super) fn every_key(&self) -> impl Iterator<Item = &'static Key> {
        let find = self.find.is_some();
        COMMON.iter().filter(move |key| find || key.name != "find").chain(self.keys)
    }

    /// `kind = "path", find = "pivot"`.
    pub(super) fn words(&self) -> String {
        use crate::event::names::Named as _;
        let kind = self.kind.name();
        self.find
            .map_or_else(|| format!("kind `{kind}`"), |find| format!("kind `{kind}` that finds `{find}`"))
    }
}

/// The key of any rule with this name.
pub(super) fn any_key(name: &str) -> bool {
    COMMON.iter().chain(SHAPES.iter().flat_map(|shape| shape.keys)).any(|key| key.name == name)
}
