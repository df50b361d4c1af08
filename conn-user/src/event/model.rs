//! The public event: what every output, filter and rule sees.

use std::sync::Arc;

use smallvec::SmallVec;

use super::alert::Alert;
use super::degraded::Degraded;
use super::heartbeat::Heartbeat;
use crate::flow::model::{Change, ConnEvent};
use crate::flow::sample::Sample;
use crate::kernel::gap::Gap;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, Pid, WallNs};

/// Version of the event schema; a field that changes its meaning or goes away raises it, a new field does not.
pub const SCHEMA_VERSION: u32 = 1;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Number in this run, from 1, without holes in the unfiltered stream; 0: it is not counted, but reports what was
    /// there when the run began, or what only a recording needs.
    pub seq: u64,
    /// When the kernel saw it.
    pub boot: BootNs,
    /// The same instant on the wall clock.
    pub wall: WallNs,
    /// What happened.
    pub body: EventBody,
}

/// What happened.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all events are the large one: a box would cost each an allocation"
)]
pub enum EventBody {
    /// A connection or a listener changed.
    Flow(Change),
    /// A process executed a program.
    Exec(ProcEvent),
    /// A process exited.
    Exit(ProcEvent, ExitStatus),
    /// Records were lost.
    Gap(Gap),
    /// After a loss the tables were compared with the kernel's sockets: from here on they are right again.
    Repair(Repair),
    /// The agent does less than it should.
    Degraded(Degraded),
    /// The agent is alive.
    Heartbeat(Heartbeat),
    /// A rule found something, or what it found got worse or is over.
    Alert(Box<Alert>),
    /// The run began. First in a recording, and only there; what was there already follows as events with the number 0.
    Start(Start),
    /// Facts of a process that the background found became known. For recordings and for other judges of the stream, with the number 0.
    Facts(Facts),
    /// A connection was sampled for a rule. For recordings and for other judges of the stream, with the number 0.
    Sample(Sample),
    /// Timers of rules fired up to this instant, which no other event shows. Only in a recording, with the number 0.
    Clock,
}

/// The beginning of a run. The event's own time is that from which on its rules judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Since when everything is seen: when the programs were attached.
    pub attached: BootNs,
    /// Facts that the background finds are reported by [`EventBody::Facts`]. Older recordings have none.
    pub has_facts: bool,
}

/// The tables were repaired after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// When the snapshot began that shows it: losses until then are repaired. What began and ended in one of them stays missing.
    pub seen: BootNs,
}

/// Facts that became known: those of [`ProcessInfo::identity`].
#[derive(Clone, Debug)]
pub struct Facts {
    /// The process, with what is known now.
    pub process: Arc<ProcessInfo>,
    /// Nothing more is being found out of it.
    pub is_settled: bool,
}

/// The kinds of events, for `--kind`, filters and the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// See [`Change::Connect`].
    Connect,
    /// See [`Change::Accept`].
    Accept,
    /// See [`Change::Established`].
    Established,
    /// See [`Change::Failed`].
    Failed,
    /// See [`Change::Close`].
    Close,
    /// See [`Change::Listen`].
    Listen,
    /// See [`Change::Unlisten`].
    Unlisten,
    /// See [`EventBody::Exec`].
    Exec,
    /// See [`EventBody::Exit`].
    Exit,
    /// See [`EventBody::Gap`].
    Gap,
    /// See [`EventBody::Repair`].
    Repair,
    /// See [`EventBody::Degraded`].
    Degraded,
    /// See [`EventBody::Heartbeat`].
    Heartbeat,
    /// See [`EventBody::Alert`].
    Alert,
    /// See [`EventBody::Start`].
    Start,
    /// See [`EventBody::Facts`].
    Facts,
    /// See [`EventBody::Sample`].
    Sample,
    /// See [`EventBody::Clock`].
    Clock,
}

impl EventKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::Connect,
        Self::Accept,
        Self::Established,
        Self::Failed,
        Self::Close,
        Self::Listen,
        Self::Unlisten,
        Self::Exec,
        Self::Exit,
        Self::Gap,
        Self::Repair,
        Self::Degraded,
        Self::Heartbeat,
        Self::Alert,
        Self::Start,
        Self::Facts,
        Self::Sample,
        Self::Clock,
    ];

    /// Whether a stream shows them whatever it is asked for: they say what it lacks.
    pub const fn is_always_shown(self) -> bool {
        matches!(self, Self::Gap | Self::Degraded)
    }

    /// Whether events of this kind are only in a recording: nothing happened.
    pub const fn is_of_recording(self) -> bool {
        matches!(self, Self::Start | Self::Facts | Self::Sample | Self::Clock)
    }

    /// The name in JSON, text and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Established => "established",
            Self::Failed => "failed",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Unlisten => "unlisten",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Gap => "gap",
            Self::Repair => "repair",
            Self::Degraded => "degraded",
            Self::Heartbeat => "heartbeat",
            Self::Alert => "alert",
            Self::Start => "start",
            Self::Facts => "facts",
            Self::Sample => "sample",
            Self::Clock => "clock",
        }
    }
}

impl EventBody {
    /// The kind of this event.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Flow(Change::Connect(_)) => EventKind::Connect,
            Self::Flow(Change::Accept(_)) => EventKind::Accept,
            Self::Flow(Change::Established(_)) => EventKind::Established,
            Self::Flow(Change::Failed(..)) => EventKind::Failed,
            Self::Flow(Change::Close(..)) => EventKind::Close,
            Self::Flow(Change::Listen(_)) => EventKind::Listen,
            Self::Flow(Change::Unlisten(..)) => EventKind::Unlisten,
            Self::Exec(_) => EventKind::Exec,
            Self::Exit(..) => EventKind::Exit,
            Self::Gap(_) => EventKind::Gap,
            Self::Repair(_) => EventKind::Repair,
            Self::Degraded(_) => EventKind::Degraded,
            Self::Heartbeat(_) => EventKind::Heartbeat,
            Self::Alert(_) => EventKind::Alert,
            Self::Start(_) => EventKind::Start,
            Self::Facts(_) => EventKind::Facts,
            Self::Sample(_) => EventKind::Sample,
            Self::Clock => EventKind::Clock,
        }
    }
}

/// A process event.
#[derive(Clone, Debug)]
pub struct ProcEvent {
    /// The process after it.
    pub process: Arc<ProcessInfo>,
    /// Of an exec: the TCP connection that is its standard input or output, as it was opened or accepted.
    pub stdio: Option<Box<ConnEvent>>,
    /// Of an exec without: the TCP connection that is the standard input or output of its parent.
    pub parent_stdio: Option<Box<ConnEvent>>,
    /// Of a program that was executed before the rules began: the processes (id and start) that exchange data with its standard
    /// input and output over pipes, FIFOs, pseudo-terminals or socket pairs, also through others.
    pub stdio_peers: SmallVec<[(Pid, BootNs); 1]>,
}

impl ProcEvent {
    /// An event without connections.
    pub fn new(process: Arc<ProcessInfo>) -> Self {
        Self { process, stdio: None, parent_stdio: None, stdio_peers: SmallVec::new() }
    }
}
