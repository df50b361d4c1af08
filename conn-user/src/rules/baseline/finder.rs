//! Whose an event is, and what the baseline knows of them.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::Baseline;
use crate::event::model::Event;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::rules::detector::{connection, listener};

/// Most names that are remembered; then it begins anew.
const NAMES_MAX: usize = 16_384;

/// Places of units or executables.
pub(super) type Found = SmallVec<[u32; 4]>;

/// Who uses the network, as entries name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'e> {
    /// The service, or the socket unit for which systemd listens; `None`: the process is in none.
    pub unit: Option<&'e [u8]>,
    /// The path of the executable; `None`: it is not known, but the unit is.
    pub exe: Option<&'e [u8]>,
}

/// Whether a process of conn connects to itself, or listens, on loopback: each start makes such connections, at other ports, to see
/// that all hooks deliver. The agent does not report its own; those of a second one are no habit of this host.
pub fn is_self_test(event: &Event) -> bool {
    let (owner, local) = match (connection(event), listener(event)) {
        (Some(conn), _) => (&conn.owner, conn.local),
        (None, Some(listener)) => (&listener.owner, listener.local),
        (None, None) => return false,
    };
    local.ip().is_loopback() && owner.process.as_ref().is_some_and(|process| process.exe_is_conn)
}

impl<'e> User<'e> {
    /// Who an event of a connection or listener is of; `None`: that is not known, or neither a service nor an executable, or it is conn
    /// that tests itself.
    pub fn of(event: &'e Event) -> Option<Self> {
        if is_self_test(event) {
            return None;
        }
        if let Some(conn) = connection(event) {
            return conn.owner.process.as_deref().and_then(Self::of_process);
        }
        let listener = listener(event)?;
        let process = listener.owner.process.as_deref()?;
        let socket_unit = listener.socket_unit.as_deref().filter(|_| listener.is_systemds());
        match socket_unit {
            Some(unit) => Some(Self { unit: Some(unit.as_bytes()), exe: process.exe.as_deref() }),
            None => Self::of_process(process),
        }
    }

    /// A session or another scope is no service: what runs there is distinguished by its executable. The name of a process is
    /// its own choice and says nothing.
    pub fn of_process(process: &'e ProcessInfo) -> Option<Self> {
        let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
        let user =
            Self { unit: unit.filter(|unit| unit.ends_with(b".service")), exe: process.exe.as_deref() };
        (user.unit.is_some() || user.exe.is_some()).then_some(user)
    }

    /// The name by which it is looked up.
    pub const fn name(&self) -> &'e [u8] {
        match (self.unit, self.exe) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => b"",
        }
    }
}

/// Remembers which names of the baseline a name fits: there may be many globs.
#[derive(Clone, Debug, Default)]
pub(in crate::rules) struct Finder {
    units: HashMap<Box<[u8]>, Found>,
    exes: HashMap<Box<[u8]>, Found>,
}

impl Finder {
    /// Where the baseline has what it knows of a user.
    pub(in crate::rules) fn find(&mut self, baseline: &Baseline, user: User<'_>) -> &[u32] {
        let names = if user.unit.is_some() { &mut self.units } else { &mut self.exes };
        let name = user.name();
        if !names.contains_key(name) {
            if names.len() >= NAMES_MAX {
                names.clear();
            }
            names.insert(name.into(), baseline.find(user));
        }
        names.get(name).map_or(&[], |found| found)
    }
}
