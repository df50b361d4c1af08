//! How and when a connection ended.

use conn_common::record::{Sock, SockEndRecord};

use super::actors::{At, BACKEND, KERNEL, LOST, hook_actor};
use super::ends::transport;
use super::how::{self, state};
use super::model::{Actor, Change, EndedHow, Ending, Traffic, Transport};
use super::store::{Conn, known};
use crate::process::ProcessTable;
use crate::units::BootNs;

/// How and when a connection ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: BootNs,
    pub(super) how: EndedHow,
    pub(super) errno: u16,
    pub(super) closer: Actor,
    pub(super) traffic: Option<Traffic>,
}

/// The end of a connection that may still be accepted.
#[derive(Clone, Debug)]
pub(super) struct EndState {
    pub(super) end: End,
    /// A file belonged to the socket: somebody had accepted it.
    pub(super) had_socket: bool,
}

impl End {
    /// The end of a connection whose last records were lost, found out at this time.
    pub(super) const fn unseen(at: BootNs) -> Self {
        Self { at, how: EndedHow::Unseen, errno: 0, closer: LOST, traffic: None }
    }

    /// The end that a transition to CLOSE reports.
    pub(super) fn of_transition(record: &SockEndRecord, at: At, procs: &mut ProcessTable) -> Self {
        let sock = &record.sock;
        let ended = how::ended(sock);
        // A worker of the kernel, or whoever gives up the lock, ends an MPTCP connection for the network, and sets the error
        // afterwards (`mptcp_worker`, `mptcp_release_cb`, `__mptcp_subflow_error_report` in net/mptcp/protocol.c).
        let closer = match (ended.by_task, transport(sock)) {
            (true, Transport::Mptcp) => BACKEND,
            (true, Transport::Tcp) => hook_actor(at, &record.task, procs),
            (false, _) => KERNEL,
        };
        Self {
            at: at.boot,
            how: ended.how,
            errno: sock.err,
            closer,
            traffic: how::traffic(sock, &record.counters),
        }
    }

    /// The end that a close by this process reports.
    pub(super) fn of_close(record: &SockEndRecord, at: BootNs, closer: Actor) -> Self {
        let sock = &record.sock;
        let traffic = how::traffic(sock, &record.counters);
        Self { at, how: how::closed(sock), errno: errno_of_close(sock), closer, traffic }
    }

    /// The change that reports it.
    pub(super) fn change(self, conn: &Conn) -> impl FnOnce(super::model::ConnEvent) -> Change {
        let begun = known(conn.established).or(known(conn.accepted));
        let ending = Ending {
            how: self.how,
            errno: self.errno,
            closer: self.closer,
            duration: begun.map(|begun| self.at.since(begun)),
            traffic: self.traffic,
        };
        |event| Change::Close(event, ending)
    }
}

/// The error of a close: before the last transition it is the application's to read, not how the connection ended.
const fn errno_of_close(sock: &Sock) -> u16 {
    if sock.new_state == state::CLOSE { sock.err } else { 0 }
}
