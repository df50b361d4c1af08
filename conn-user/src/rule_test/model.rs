//! A rule test as it was read: its processes, what happens, and which alerts are expected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::alert::{Phase, Severity};
use crate::flow::model::{EndedHow, Scope, Traffic};
use crate::host::interfaces::Device;
use crate::process::identity::{Replaced, Sha256, Tty};
use crate::process::info::ExitStatus;
use crate::units::DurationNs;

/// A test of rules: `[[test]]` of a rule file.
#[derive(Clone, Debug)]
pub struct RuleTest {
    /// Its name.
    pub name: String,
    /// The file that contains it.
    pub file: PathBuf,
    /// The line on which it starts, from 1.
    pub line: usize,
    /// Ids of the rules whose alerts count; empty: the alerts of every rule count.
    pub rules: Vec<String>,
    /// Ids of disabled rules that are enabled for this test.
    pub enable: Vec<String>,
    /// The processes, by the names that the lines use.
    pub processes: BTreeMap<String, TestProcess>,
    /// Connections, listeners and programs that existed when conn started.
    pub existing: Vec<Step>,
    /// The events, in order.
    pub events: Vec<Step>,
    /// The expected alerts, in order.
    pub expect: Vec<Expected>,
}

/// A process of a test. What the test does not specify has its usual value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestProcess {
    /// Path of the executable; `None`: unknown.
    pub exe: Option<String>,
    /// Its comm; `None`: the last part of `exe`.
    pub comm: Option<String>,
    /// Its arguments; `None`: the last part of `exe` alone.
    pub args: Option<Vec<String>>,
    /// Whether it has more arguments than are known.
    pub args_truncated: bool,
    /// Name of its user; `None`: `root` if `uid` is 0.
    pub user: Option<String>,
    /// User id; `None`: 0 for `root`, 1000 for others.
    pub uid: Option<u32>,
    /// The login uid; `None`: no login.
    pub login_uid: Option<u32>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// The id or name of its container.
    pub container: Option<String>,
    /// The process that started it, by its name; `None`: process 1.
    pub parent: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Terminal.
    pub tty: Tty,
    /// Whether its executable is deleted.
    pub deleted: bool,
    /// Whether its executable is world-writable.
    pub writable: bool,
    /// The program of this host of which its executable is a copy.
    pub copy_of: Option<String>,
    /// Whether its own user can write its executable.
    pub user_writable: bool,
    /// Whether the host has another file, or none, at the path of its executable.
    pub foreign: bool,
    /// Whether it is conn itself.
    pub conn: bool,
    /// SHA-256 of its executable.
    pub sha256: Option<Sha256>,
    /// The result of comparing its executable with the file at its path.
    pub replaced: Option<Replaced>,
    /// Whether it existed when conn started.
    pub exists: bool,
}

/// A line of a test.
#[derive(Clone, Debug)]
pub struct Step {
    /// The text of the line.
    pub text: String,
    /// What it means.
    pub act: Act,
}

/// The number of a connection or listener of a test, from 0.
pub(super) type FlowNo = usize;

/// A process by its name in the test; `None`: unknown.
pub(super) type Who = Option<String>;

/// What a line makes happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Time passes.
    Pass(DurationNs),
    /// A process opens a connection.
    Connect {
        /// The number of the connection or listener.
        flow: FlowNo,
        /// The process.
        who: Who,
        /// Local end; `None`: any.
        local: Option<SocketAddr>,
        /// Remote end.
        remote: SocketAddr,
        /// The interface that the socket is bound to.
        device: Option<Arc<Device>>,
        /// Whether it is established at once.
        established: bool,
    },
    /// A process accepts a connection.
    Accept {
        /// The number of the connection or listener.
        flow: FlowNo,
        /// The process.
        who: Who,
        /// Local end.
        local: SocketAddr,
        /// Remote end.
        remote: SocketAddr,
        /// The interface that the socket is bound to.
        device: Option<Arc<Device>>,
    },
    /// The handshake of a connection completes.
    Established(FlowNo),
    /// The attempt fails with this `errno`; 0: cancelled.
    Failed(FlowNo, u16),
    /// A connection ends.
    Close {
        /// The number of the connection or listener.
        flow: FlowNo,
        /// How it ends.
        how: EndedHow,
        /// The bytes transferred.
        traffic: Traffic,
    },
    /// Data are transferred over a connection.
    Data {
        /// The number of the connection or listener.
        flow: FlowNo,
        /// The bytes transferred.
        traffic: Traffic,
    },
    /// A process listens.
    Listen {
        /// The number of the connection or listener.
        flow: FlowNo,
        /// The process.
        who: Who,
        /// The address.
        local: SocketAddr,
        /// The interface and the protocol to which it is limited.
        scope: Scope,
    },
    /// A listener ends.
    Unlisten(FlowNo),
    /// A process executes its program.
    Exec {
        /// The process.
        who: String,
        /// The connection that is its standard input or output.
        stdio: Option<FlowNo>,
        /// The connection that is its parent's standard input or output.
        parent_stdio: Option<FlowNo>,
        /// Only for a program that already ran: the process that exchanges data with its standard input and
        /// output.
        peer: Option<String>,
    },
    /// A process ends.
    Exit(String, ExitStatus),
    /// This number of records is lost.
    Gap(u64),
}

/// An expected alert. What it does not specify may have any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The text of the expectation.
    pub text: String,
    /// Raised, escalated or resolved.
    pub phase: Phase,
    /// The id of the rule.
    pub rule: String,
    /// Severity.
    pub severity: Option<Severity>,
    /// When it is reported, since the start of the test.
    pub at: Option<DurationNs>,
    /// What it is about.
    pub on: Option<On>,
    /// Evidence that it must have: name and value, as alerts write them.
    pub with: Vec<(String, String)>,
}

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A connection or a listener.
    Flow(FlowNo),
    /// A process: that of the alert, or the owner of its connection or listener.
    Process(String),
}
