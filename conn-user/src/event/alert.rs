//! Alerts: what rules say of events, and how they live.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::flow::model::{ConnEvent, ListenEvent, Source};
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, NetNs};

/// A number that names an alert in one run of the agent, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertId(pub u64);

/// Where an alert stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It begins.
    Raised,
    /// What it reports got worse: a longer time, a higher level.
    Escalated,
    /// What it reports is over.
    Resolved,
}

/// How bad it is if an alert is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it some day.
    Low,
    /// Look at it today.
    Medium,
    /// Look at it now.
    High,
    /// Somebody is probably in.
    Critical,
}

/// The kinds of anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleKind {
    /// A connection takes an unusual path.
    Path,
    /// A process uses the network that has no business with it.
    Process,
    /// Something listens that should not.
    Server,
    /// A connection is open for long.
    Long,
    /// A listener or a connection is absent.
    Missing,
    /// Something is wrong with the agent itself. No rule file has such rules.
    Health,
}

/// What an alert says of its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Its id, unique among the rules.
    pub id: Box<str>,
    /// Its kind.
    pub kind: RuleKind,
    /// What it finds, for people, one line.
    pub title: Box<str>,
    /// ATT&CK technique ids, e.g. `T1071`.
    pub attack: Box<[Box<str>]>,
}

/// What an alert is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A connection, with its owner.
    Connection(Box<ConnEvent>),
    /// A listener, with its owner.
    Listener(Box<ListenEvent>),
    /// A process.
    Process(Arc<ProcessInfo>),
    /// Nothing that is there: something absent, or the agent itself; the rule says what.
    Absence,
}

/// A fact that the rule judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Its name in JSON and text: `open_for`, `peers`, `limit`.
    pub name: Cow<'static, str>,
    /// What it is.
    pub value: Value,
}

/// The value of a piece of evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text; attacker-controlled bytes are allowed.
    Text(Box<[u8]>),
    /// A count.
    Number(u64),
    /// A duration.
    Duration(DurationNs),
    /// A measure between 0 and 1.
    Score(f64),
    /// An end of a connection; port 0: an address alone.
    End(SocketAddr),
    /// A process.
    Process(Arc<ProcessInfo>),
    /// Several.
    List(Vec<Value>),
}

/// Whether everything was seen in the span that an alert judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Everything.
    All,
    /// Nothing before this instant: the agent was not there.
    Since(BootNs),
    /// So many records were lost in it: what the alert says may be wrong.
    Except {
        /// Lost records.
        lost: u64,
        /// The tables were right again when the alert was raised: only what began and ended in a loss is missing.
        repaired: bool,
    },
    /// Something was lost, and it is not known any more what.
    Unknown,
}

/// One step in the life of an alert.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Which.
    pub id: AlertId,
    /// Which step.
    pub phase: Phase,
    /// The severity at this step.
    pub severity: Severity,
    /// The rule.
    pub rule: Arc<RuleRef>,
    /// What it is about, as it was when the alert was raised.
    pub subject: Subject,
    /// What the rule judged by.
    pub evidence: Vec<Evidence>,
    /// Whether everything was seen in the span that it judges.
    pub covered: Covered,
    /// The smallest exception that suppresses it: a filter for the rule's `except`. `None`: no filter can, or
    /// only one so wide that it is not offered for a critical alert.
    pub suppress: Option<Box<str>>,
    /// When this step was found.
    pub at: BootNs,
    /// When it was raised.
    pub raised: BootNs,
    /// How often the same was found since the alert was last reported, and not reported.
    pub repeats: u64,
}

impl Evidence {
    /// A fact of this name.
    pub const fn new(name: &'static str, value: Value) -> Self {
        Self { name: Cow::Borrowed(name), value }
    }

    /// A text.
    pub fn text(name: &'static str, text: impl Into<Box<[u8]>>) -> Self {
        Self::new(name, Value::Text(text.into()))
    }

    /// A count.
    pub const fn number(name: &'static str, number: u64) -> Self {
        Self::new(name, Value::Number(number))
    }

    /// A duration.
    pub const fn duration(name: &'static str, duration: DurationNs) -> Self {
        Self::new(name, Value::Duration(duration))
    }
}

impl Subject {
    /// Whence the connection or listener that it is about is known.
    pub const fn source(&self) -> Option<Source> {
        match self {
            Self::Connection(conn) => Some(conn.source),
            Self::Listener(listener) => Some(listener.source),
            Self::Process(_) | Self::Absence => None,
        }
    }

    /// The network namespace of its socket, or else of the process, where known.
    pub fn netns(&self) -> Option<NetNs> {
        match self {
            Self::Connection(conn) => Some(conn.netns),
            Self::Listener(listener) => Some(listener.netns),
            Self::Process(process) => process.identity.state()?.netns,
            Self::Absence => None,
        }
    }

    /// The process that it is about, where known.
    pub fn process(&self) -> Option<&Arc<ProcessInfo>> {
        match self {
            Self::Connection(conn) => conn.owner.process.as_ref(),
            Self::Listener(listener) => listener.owner.process.as_ref(),
            Self::Process(process) => Some(process),
            Self::Absence => None,
        }
    }
}
