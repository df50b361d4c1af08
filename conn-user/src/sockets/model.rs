//! Every socket of a snapshot, with the processes that hold it.

use std::sync::Arc;

use crate::event::age::Age;
use crate::filter::HeldSocket;
use crate::flow::snapshot::model::{NoHolder, Note, SnapSocket, Snapshot, TcpState};
use crate::process::info::ProcessInfo;
use crate::process::socket_units::SocketUnits;
use crate::process::users::Users;
use crate::units::{BootNs, Pid};

/// Version of the list's schema; a field that changes its meaning or goes away raises it, a new field does not.
pub const SCHEMA_VERSION: u32 = 1;

/// The sockets of a machine at an instant.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// When the first socket was asked for.
    pub began: BootNs,
    /// When the last answer had come: the time of the list, and of the ages in it.
    pub ended: BootNs,
    /// The sockets.
    pub sockets: Vec<Listed>,
    /// What could not be seen.
    pub notes: Vec<Note>,
}

/// A socket and its holders.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The socket; its own list of holders is empty.
    pub socket: SnapSocket,
    /// The processes that hold it, the oldest first: of a server, the one that made the socket.
    pub holders: Vec<HeldBy>,
    /// Of a listener that process 1 holds: the unit for which it listens, where that is known.
    pub socket_unit: Option<Arc<str>>,
    /// Of a socket of which no process was found: the name of its user, where that is known.
    pub user: Option<Arc<[u8]>>,
}

/// A process that holds a socket.
#[derive(Clone, Debug)]
pub struct HeldBy {
    /// Its id.
    pub pid: Pid,
    /// What is known of it; `None`: it was gone before it could be looked at.
    pub process: Option<Arc<ProcessInfo>>,
    /// Its descriptors of the socket, ascending.
    pub fds: Vec<u32>,
}

/// Which sockets a list shows, by state: the choices of ss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Selection {
    /// Connections; neither those that only linger in the kernel (TIME_WAIT) nor half-open ones (SYN_RECV).
    #[default]
    Connected,
    /// Listeners.
    Listening,
    /// Everything.
    All,
}

impl Selection {
    /// Whether a socket in this state is shown.
    pub const fn takes(self, state: TcpState) -> bool {
        match self {
            Self::All => true,
            Self::Listening => matches!(state, TcpState::Listen),
            Self::Connected => {
                !matches!(state, TcpState::Listen | TcpState::Close | TcpState::TimeWait | TcpState::SynRecv)
            }
        }
    }

    /// Its name in a saved list.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Listening => "listening",
            Self::All => "all",
        }
    }
}

impl Listing {
    /// Joins a snapshot with its processes; `who` answers for (process id, start in whole ticks).
    pub fn of(snapshot: Snapshot, mut who: impl FnMut(Pid, BootNs) -> Option<Arc<ProcessInfo>>) -> Self {
        let sockets = snapshot.sockets.into_iter().map(|socket| Listed::of(socket, &mut who)).collect();
        Self { began: snapshot.began, ended: snapshot.ended, sockets, notes: snapshot.notes }
    }

    /// Names the units for which process 1 listens.
    pub fn name_socket_units(&mut self, units: &mut SocketUnits) {
        for listed in self.sockets.iter_mut().filter(|listed| listed.is_systemds()) {
            listed.socket_unit = units.unit_of(listed.socket.local);
        }
    }
}

impl Listing {
    /// Names the users of sockets of which no process was found.
    pub fn name_users(&mut self, users: &mut Users) {
        let not_found = |listed: &&mut Listed| listed.no_holder() == Some(NoHolder::NotFound);
        for listed in self.sockets.iter_mut().filter(not_found) {
            listed.user = users.name(listed.socket.uid);
        }
    }
}

impl Listed {
    fn of(mut socket: SnapSocket, who: &mut impl FnMut(Pid, BootNs) -> Option<Arc<ProcessInfo>>) -> Self {
        let mut all = std::mem::take(&mut socket.holders);
        all.sort_unstable_by_key(|holder| (holder.start, holder.pid, holder.fd));
        let mut holders: Vec<HeldBy> = Vec::new();
        for same in all.chunk_by(|one, other| (one.start, one.pid) == (other.start, other.pid)) {
            let (pid, start) = (same[0].pid, same[0].start);
            let mut fds: Vec<u32> = same.iter().map(|holder| holder.fd).collect();
            fds.dedup();
            holders.push(HeldBy { pid, process: who(pid, start), fds });
        }
        Self { socket, holders, socket_unit: None, user: None }
    }

    /// Whether it listens.
    pub const fn listens(&self) -> bool {
        matches!(self.socket.state, TcpState::Listen)
    }

    /// Whether process 1 listens: then it is another unit's business.
    pub fn is_systemds(&self) -> bool {
        self.listens() && self.owner().is_some_and(|owner| owner.pid == Pid(1))
    }

    /// The oldest holder that is known.
    pub fn owner(&self) -> Option<&Arc<ProcessInfo>> {
        self.holders.iter().find_map(|holder| holder.process.as_ref())
    }

    /// Why nobody holds it, if nobody does.
    pub fn no_holder(&self) -> Option<NoHolder> {
        if self.holders.is_empty() { self.socket.no_holder.or(Some(NoHolder::NotFound)) } else { None }
    }

    /// How old it is at `at`, as far as that is known.
    pub fn age(&self, at: BootNs) -> Option<Age> {
        self.socket.born.as_ref().map(|born| Age::of(born, at))
    }
}

impl HeldSocket for Listed {
    fn socket(&self) -> &SnapSocket {
        &self.socket
    }

    fn socket_unit(&self) -> Option<&str> {
        self.socket_unit.as_deref()
    }

    fn holders(&self) -> impl Iterator<Item = Option<&ProcessInfo>> {
        self.holders.iter().map(|holder| holder.process.as_deref())
    }

    fn no_holder(&self) -> Option<NoHolder> {
        self.no_holder()
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::event::samples;
    use crate::flow::snapshot::model::Holder;
    use crate::sockets::samples::connection;

    #[test]
    fn descriptors_are_gathered_by_process_and_the_oldest_comes_first() {
        let holder = |pid, start, fd| Holder { pid: Pid(pid), start: BootNs(start), fd };
        let mut socket = connection();
        socket.holders = smallvec![
            holder(9, 20, 7),
            holder(8, 30, 3),
            holder(9, 20, 4),
            holder(9, 20, 7),
            holder(9, 10, 5)
        ];
        let who = |pid: Pid, start: BootNs| (start.0 != 10).then(|| samples::process(pid.0, b"x", "/x", &[]));
        let listing = Listing::of(Snapshot { sockets: vec![socket], ..Snapshot::default() }, who);
        let listed = &listing.sockets[0];
        let all: Vec<_> = listed.holders.iter().map(|held| (held.pid.0, held.fds.clone())).collect();
        assert_eq!(all, [(9, vec![5]), (9, vec![4, 7]), (8, vec![3])]);
        assert!(listed.holders[0].process.is_none() && listed.socket.holders.is_empty());
        assert_eq!(listed.owner().map(|process| process.pid), Some(Pid(9)));
        assert_eq!(listed.no_holder(), None);
    }

    #[test]
    fn selections_are_those_of_ss() {
        let shown = |selection: Selection| {
            (1..=11)
                .filter(|n| TcpState::from_number(*n).is_some_and(|state| selection.takes(state)))
                .collect()
        };
        let (connected, listening, all): (Vec<u8>, Vec<u8>, Vec<u8>) =
            (shown(Selection::Connected), shown(Selection::Listening), shown(Selection::All));
        assert_eq!(connected, [1, 2, 4, 5, 8, 9, 11]);
        assert_eq!(listening, [10]);
        assert_eq!(all.len(), 11);
    }
}
