//! Which program a process runs, as detectors report one from another.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use crate::event::alert::Value;
use crate::flow::model::{ConnEvent, ListenEvent, Method, UnknownReason};
use crate::process::info::{ProcessInfo, TICK_NS};
use crate::units::{BootNs, Pid};

/// The path of the executable, or the name of the process where that is not known.
pub(super) fn name(process: &ProcessInfo) -> &[u8] {
    process.exe.as_deref().unwrap_or(&process.comm)
}

/// The program of the process that started this one.
pub(super) fn parent(process: &ProcessInfo) -> Option<&[u8]> {
    process.ancestors.first().map(|parent| parent.exe.as_deref().unwrap_or(&parent.comm))
}

/// `sshd[1]`, `bash[2]`, `ssh[3]`: from so many above the process down to it.
pub(super) fn chain(process: &ProcessInfo, depth: usize) -> Value {
    let name = |comm: &[u8], pid: Pid| {
        let mut text = comm.to_vec();
        text.extend_from_slice(format!("[{pid}]").as_bytes());
        Value::Text(text.into())
    };
    let above = process.ancestors.iter().take(depth).rev().map(|one| name(&one.comm, one.pid));
    Value::List(above.chain([name(&process.comm, process.pid)]).collect())
}

/// Whose connection it is, as far as two are compared: the program's, or the host's where the program is not known.
pub(super) fn of_connection(conn: &ConnEvent) -> (Option<&[u8]>, Option<IpAddr>) {
    match conn.owner.process.as_deref() {
        Some(process) => (Some(name(process)), None),
        None => (None, Some(conn.local.ip())),
    }
}

/// The host that stands for its programs: in the recording of a network sensor, which has many hosts and no processes.
pub(super) fn host(conn: &ConnEvent) -> Option<IpAddr> {
    let is_sensors = conn.owner.method == Method::Unknown(UnknownReason::NoProcesses);
    is_sensors.then(|| conn.local.ip())
}

/// Identifies a process by its id and its start in ticks of /proc: a lineage may know no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProcessKey(u32, u64);

impl ProcessKey {
    pub(super) const fn new(pid: Pid, start: BootNs) -> Self {
        Self(pid.0, start.0 / TICK_NS)
    }
}

/// Returns a key for what identifies a finding, the same in every run. The hash is a slow one that withstands
/// collisions, because whoever starts a process chooses its names.
pub(super) fn key(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A name of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service<'a> {
    /// Its unit, without the type.
    Unit(&'a [u8]),
    /// Its executable.
    Program(&'a [u8]),
}

/// Who listens, as far as two listeners are compared.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) process: Arc<ProcessInfo>,
    /// The unit for which process 1 listens.
    socket_unit: Option<Arc<str>>,
}

impl Server {
    /// Who owns the listener; `None`: that is not known.
    pub(super) fn of(listener: &ListenEvent) -> Option<Self> {
        let process = Arc::clone(listener.owner.process.as_ref()?);
        let socket_unit = listener.socket_unit.clone().filter(|_| listener.is_systemds());
        Some(Self { process, socket_unit })
    }

    /// Whether both are the same service: of the same executable (whichever file has its path now) or of the same unit. A
    /// socket unit is the service that it is for, by its name.
    pub(super) fn is_same_service(&self, other: &Self) -> bool {
        if let (Some(own), Some(others)) = (self.unit(), other.unit())
            && own == others
        {
            return true;
        }
        // Process 1 listens for many.
        self.socket_unit.is_none()
            && other.socket_unit.is_none()
            && name(&self.process) == name(&other.process)
    }

    /// What this service is called: two are the same ([`Self::is_same_service`]) if they have one of these in common.
    pub(super) fn services(&self) -> impl Iterator<Item = Service<'_>> {
        let unit = self.unit().map(Service::Unit);
        let program = self.socket_unit.is_none().then(|| Service::Program(name(&self.process)));
        unit.into_iter().chain(program)
    }

    /// The unit without its type: `ssh` of `ssh.socket` and of `ssh.service`. A session or a slice is no service.
    fn unit(&self) -> Option<&[u8]> {
        let unit = match &self.socket_unit {
            Some(unit) => unit.as_bytes(),
            None => self.process.placement.as_deref()?.unit.as_deref()?,
        };
        unit.strip_suffix(b".service").or_else(|| unit.strip_suffix(b".socket"))
    }
}
