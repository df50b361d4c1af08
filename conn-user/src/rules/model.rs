//! A rule, compiled: what it looks at and what it asks.

use std::sync::Arc;

use crate::event::alert::{RuleRef, Severity};
use crate::filter::Filter;
use crate::units::DurationNs;

/// A rule. Its kind is that of `detect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What alerts say of it.
    pub about: Arc<RuleRef>,
    /// Severity of its alerts when they are raised.
    pub severity: Severity,
    /// Which events it looks at.
    pub matches: Filter,
    /// Which of these it does not.
    pub except: Box<[Filter]>,
    /// Ids of rules whose findings about a connection are only counted while an alert of this rule about it is open.
    pub covers: Arc<[Box<str>]>,
    /// For how long the same finding is not reported again.
    pub throttle: DurationNs,
    /// What it asks.
    pub detect: Detect,
    /// What its author says of it.
    pub advice: Advice,
}

/// What people are reported a rule. Any two are equal: a rule with other words is the same rule, and goes on.
#[derive(Clone, Debug, Default)]
pub struct Advice {
    /// Why it exists.
    pub why: Box<str>,
    /// What to do when it is right and unwanted.
    pub tune: Box<str>,
}

impl PartialEq for Advice {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// What a rule asks of the events that it looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Detect {
    /// Kind `path`.
    Path(PathRule),
    /// Kind `process`.
    Process(ProcessRule),
    /// Kind `server`.
    Server(ServerRule),
    /// Kind `long`.
    Long(LongRule),
    /// Kind `missing`.
    Missing(MissingRule),
}

/// `find = …` of a rule of kind `path`.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRule {
    /// `"forbidden"`: whatever matches.
    Forbidden,
    /// `"first-seen"`: the first of its sort since the agent began, after `learn` has passed. A sort is made by `by`.
    FirstSeen {
        /// What makes two connections the same path.
        by: Box<[PathKey]>,
        /// So long after the start everything is learnt and nothing reported; what is there at the start is learnt too.
        learn: DurationNs,
    },
    /// `"first-seen"` with `baseline`: one that the baseline does not have.
    Unlearned,
    /// `"pivot"`: a process that a matching connection reached (or its descendant) opens one that matches `to`.
    Pivot {
        /// Which connections out are a pivot's.
        to: Filter,
        /// How long after the accepted connection's end still.
        within: DurationNs,
        /// The process that was reached counts itself, and not only what it started since.
        own: bool,
    },
    /// `"fan-out"`: more than `limit` distinct peers or ports for one process within `window`.
    FanOut {
        /// What is counted.
        of: FanOutOf,
        /// How many are normal.
        limit: u32,
        /// The window.
        window: DurationNs,
    },
    /// `"volume"`: one program sends more to one remote address than it ever did, and at least `sent`.
    Volume {
        /// Bytes, on one connection or within the window.
        sent: u64,
        /// The window.
        window: DurationNs,
    },
    /// `"beacon"`: connections of one process to one peer at regular intervals.
    Beacon {
        /// Score (0 to 1) from which it is reported.
        score: f64,
        /// Fewest calls that are judged.
        at_least: u32,
        /// Connections that are less apart are one call.
        apart: DurationNs,
    },
}

/// What is the same of two connections on the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathKey {
    /// `"exe"`: path of the executable.
    Exe,
    /// `"unit"`: systemd unit, or the executable where there is none.
    Unit,
    /// `"user"`: user id.
    User,
    /// `"zone"`: most specific zone of the remote address.
    Zone,
    /// `"net"`: /24 or /64 of the remote address.
    Net,
    /// `"ip"`: the remote address.
    Ip,
    /// `"port"`: port of the side that was connected to.
    Port,
    /// `"dir"`: direction.
    Direction,
}

/// What a fan-out rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FanOutOf {
    /// `"peers"`: remote addresses.
    Peers,
    /// `"ports"`: ports of one remote address.
    Ports,
    /// `"peers-of-children"`: remote addresses of all children of one process.
    PeersOfChildren,
    /// `"ports-of-children"`: ports of one remote address, of all children of one process.
    PortsOfChildren,
}

impl FanOutOf {
    /// Returns the name of the evidence.
    pub const fn counted(self) -> &'static str {
        if self.is_of_ports() { "ports" } else { "peers" }
    }

    /// Returns whether the ports of each peer are counted, and not the peers.
    pub const fn is_of_ports(self) -> bool {
        matches!(self, Self::Ports | Self::PortsOfChildren)
    }

    /// Returns whether the children of a process are counted together.
    pub const fn is_of_children(self) -> bool {
        matches!(self, Self::PeersOfChildren | Self::PortsOfChildren)
    }
}

/// `find = …` of a rule of kind `process`.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessRule {
    /// `"network"`: a matching process opens, accepts or listens.
    Network,
    /// `"network"` with `probe`: as that, but a connection that fails or closes within this time without data does not count.
    Probe(DurationNs),
    /// `"network"` with `baseline`: one whose program the baseline does not have.
    Unlearned,
    /// `"replaced"`: a matching process uses the network whose executable's path leads to another file now, or to none.
    Replaced,
    /// `"deleted"`: a matching process uses the network, and its executable was deleted; an upgrade does not count.
    Deleted,
    /// `"stdio"`: a program is executed whose standard input or output is a TCP connection.
    Stdio,
    /// `"parent-stdio"`: a program is executed whose parent's standard input or output is one, and not its own.
    ParentStdio,
    /// `"exec"`: a matching program is executed.
    Exec,
    /// `"spawn"`: a matching program is executed by a process with a connection, or below one.
    Spawn {
        /// Which connections.
        holds: Filter,
        /// `"spawn-beside"`: the connection is that of a child of an ancestor.
        beside: bool,
        /// Only connections that received data, or were established, at most so long before the execution; `None`: any.
        received: Option<DurationNs>,
        /// Severity is low unless data were sent after what was received, at most so long after the execution; `None`: it is that of the rule.
        answered: Option<DurationNs>,
    },
}

/// `find = …` of a rule of kind `server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerRule {
    /// `"listener"`: whatever matches.
    Listener,
    /// `"listener"` with `baseline`: one that the baseline does not have.
    Unlearned,
    /// `"takeover"`: another executable listens at a place where one listened before.
    Takeover,
    /// `"join"`: a process of another executable or user listens beside others at the same place (`SO_REUSEPORT`).
    Join,
    /// `"widened"`: an executable that listened on loopback only listens on a wider address, at the same port.
    Widened,
    /// `"accept"`: the first connection that a matching listener accepts.
    Accept,
}

/// A rule of kind `long`.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRule {
    /// Open longer than each of these, ascending, with the severity from then on.
    pub levels: Box<[(DurationNs, Severity)]>,
    /// `sum = true`: not each connection, but all of one executable and peer together.
    pub sum: bool,
}

/// A rule of kind `missing`.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingRule {
    /// What must be there.
    pub expect: Expect,
    /// How long it may be absent.
    pub grace: DurationNs,
}

/// What must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// `expect = "listener"`: at least so many matching listeners.
    Listeners(u32),
    /// `expect = "connection"`: at least so many matching connections open.
    Open(u32),
    /// `expect = "connection"`, `every`: a matching connection established or accepted at least once in this time.
    Every(DurationNs),
}

impl Rule {
    /// Whether it judges by the baseline.
    pub const fn asks_baseline(&self) -> bool {
        matches!(
            self.detect,
            Detect::Path(PathRule::Unlearned)
                | Detect::Process(ProcessRule::Unlearned)
                | Detect::Server(ServerRule::Unlearned)
        )
    }

    /// Whether it asks, besides what its filters name, in which zone an address is: any zone that changes changes the answer.
    pub fn asks_zones(&self) -> bool {
        matches!(&self.detect, Detect::Path(PathRule::FirstSeen { by, .. }) if by.contains(&PathKey::Zone))
    }

    /// Whether one of its filters asks for facts that are found out in the background.
    pub fn needs_late_facts(&self) -> bool {
        self.matches.needs_late_facts() || self.except.iter().any(Filter::needs_late_facts)
    }

    /// Whether its filters look at the hash of an executable.
    pub fn needs_hashes(&self) -> bool {
        self.matches.needs_hashes() || self.except.iter().any(Filter::needs_hashes)
    }

    /// Whether its filters let an event pass.
    pub fn selects(&self, event: &crate::event::model::Event) -> bool {
        self.matches.matches(event) && !self.excepts(event)
    }

    /// Whether one of its exceptions holds for an event.
    pub fn excepts(&self, event: &crate::event::model::Event) -> bool {
        self.except.iter().any(|except| except.matches(event))
    }
}
