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
    /// The file in which it stands.
    pub file: PathBuf,
    /// The line of it, from 1.
    pub line: usize,
    /// Ids of the rules whose alerts count; none: those of every rule.
    pub rules: Vec<String>,
    /// Ids of rules that are off and are on for this test.
    pub enable: Vec<String>,
    /// The processes, by their names in the lines.
    pub processes: BTreeMap<String, TestProcess>,
    /// What was there when conn began.
    pub existing: Vec<Step>,
    /// What happens.
    pub events: Vec<Step>,
    /// The alerts, in their order.
    pub expect: Vec<Expected>,
}

/// A process of a test. What is not said is what is usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestProcess {
    /// Path of the executable; `None`: it is not known.
    pub exe: Option<String>,
    /// Its own name; `None`: the last part of `exe`.
    pub comm: Option<String>,
    /// Its arguments; `None`: the last part of `exe` alone.
    pub args: Option<Vec<String>>,
    /// There are more arguments than are known.
    pub args_truncated: bool,
    /// Name of its user; `None`: `root` if `uid` is 0.
    pub user: Option<String>,
    /// Its user's id; `None`: 0 of `root`, 1000 of others.
    pub uid: Option<u32>,
    /// The user id it logged in with; `None`: it did not.
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
    /// Its executable is deleted.
    pub deleted: bool,
    /// Everybody may write its executable.
    pub writable: bool,
    /// The program of the host that its executable is a copy of.
    pub copy_of: Option<String>,
    /// Its own user may write its executable.
    pub user_writable: bool,
    /// The host has another file at the path of its executable, or none.
    pub foreign: bool,
    /// It is conn.
    pub conn: bool,
    /// SHA-256 of its executable.
    pub sha256: Option<Sha256>,
    /// What a comparison of its executable with its path will say.
    pub replaced: Option<Replaced>,
    /// It was there when conn began.
    pub exists: bool,
}

/// A line of a test.
#[derive(Clone, Debug)]
pub struct Step {
    /// As it was written.
    pub text: String,
    /// What it means.
    pub act: Act,
}

/// A connection or a listener of a test: the first is 0.
pub(super) type FlowNo = usize;

/// A process by its name in the test; `None`: it is not known who it is.
pub(super) type Who = Option<String>;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Time passes.
    Pass(DurationNs),
    /// A process opens a connection.
    Connect {
        /// Which.
        flow: FlowNo,
        /// Who.
        who: Who,
        /// Local end; `None`: any.
        local: Option<SocketAddr>,
        /// Remote end.
        remote: SocketAddr,
        /// The interface that the socket is bound to.
        device: Option<Arc<Device>>,
        /// It is established at once.
        established: bool,
    },
    /// A process accepts a connection.
    Accept {
        /// Which.
        flow: FlowNo,
        /// Who.
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
        /// Which.
        flow: FlowNo,
        /// How.
        how: EndedHow,
        /// What went over it.
        traffic: Traffic,
    },
    /// Data go over a connection.
    Data {
        /// Which.
        flow: FlowNo,
        /// How much.
        traffic: Traffic,
    },
    /// A process listens.
    Listen {
        /// Which.
        flow: FlowNo,
        /// Who.
        who: Who,
        /// Where.
        local: SocketAddr,
        /// What narrows it.
        scope: Scope,
    },
    /// A listener ends.
    Unlisten(FlowNo),
    /// A process executes its program.
    Exec {
        /// Who.
        who: String,
        /// The connection that is its standard input or output.
        stdio: Option<FlowNo>,
        /// The connection that is its parent's.
        parent_stdio: Option<FlowNo>,
        /// Of a program that ran before: the process that exchanges data with its standard input and output.
        peer: Option<String>,
    },
    /// A process ends.
    Exit(String, ExitStatus),
    /// So many records are lost.
    Gap(u64),
}

/// An alert that is expected. What is not said may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// As it was written.
    pub text: String,
    /// Which step.
    pub phase: Phase,
    /// The id of the rule.
    pub rule: String,
    /// How severe.
    pub severity: Option<Severity>,
    /// When, since the test began.
    pub at: Option<DurationNs>,
    /// About what.
    pub on: Option<On>,
    /// Evidence that it has, among other: name and value, as alerts write them.
    pub with: Vec<(String, String)>,
}

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A connection or a listener.
    Flow(FlowNo),
    /// A process: of its own, or of its connection or listener.
    Process(String),
}
