//! The sockets of this machine with who holds them, as `conn list` has them.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::filter::Filter;
use crate::flow::born::Born;
use crate::flow::snapshot::model::SnapSocket;
use crate::flow::snapshot::{self, SnapshotError, SnapshotOptions};
use crate::flow::table::Begun;
use crate::process::ProcessTable;
use crate::process::files::FileWorkers;
use crate::process::inspect::Inspector;
use crate::process::procfs::ProcFs;
use crate::process::socket_units::SocketUnits;
use crate::process::users::Users;
use crate::rules::defaults;
use crate::sockets::sort::Sort;
use crate::sockets::{Listing, Selection, sort};

/// How long to wait for what takes long to find out (the hashes of executables). What is not known by then is null.
const PATIENCE: Duration = Duration::from_secs(3);
/// Sockets that an agent is asked for at once: it answers between two batches of records.
const BATCH: usize = 1_024;

/// Which sockets, and what of them.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// By state.
    pub selection: Selection,
    /// By filter.
    pub filter: &'a Filter,
    /// In which order.
    pub sort: Option<Sort>,
    /// Wait for what takes long to find out.
    pub facts: bool,
}

/// Why there is no list.
#[derive(Debug, Error)]
pub enum ListError {
    /// The sockets cannot be listed.
    #[error("listing the sockets: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A thread cannot be started.
    #[error("starting a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Takes a snapshot, and leaves in it what is wanted. `begun` answers when what the sockets of these keys carry began, as far as
/// somebody saw it; `None`: nobody did.
///
/// # Errors
/// When nothing can be read.
pub fn list(
    wanted: Wanted<'_>,
    begun: &mut dyn FnMut(Vec<u64>) -> Vec<Option<Begun>>,
) -> Result<Listing, ListError> {
    let mut snapshot = snapshot::take(&SnapshotOptions::default())?;
    // Before anything is found out about who holds them.
    snapshot.sockets.retain(|socket| wanted.selection.takes(socket.state));
    for sockets in snapshot.sockets.chunks_mut(BATCH) {
        let known = begun(sockets.iter().map(|socket| socket.key().unwrap_or(0)).collect());
        for (socket, begun) in sockets.iter_mut().zip(known) {
            if let Some(begun) = begun {
                date(socket, &begun);
            }
        }
    }
    let files = FileWorkers::processes().unwrap_or_else(|_| FileWorkers::threads());
    let tools = defaults::tool_names().unwrap_or_default();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let inspector = Inspector::start_with_tools(&ProcFs::default(), files, true, &tools)?;
    let mut processes = ProcessTable::default().with_inspector(inspector);
    let mut listing = Listing::of(snapshot, |pid, start| processes.seen(pid, start));
    listing.name_socket_units(&mut SocketUnits::default());
    listing.name_users(&mut Users::default());
    if wanted.facts {
        processes.settle(PATIENCE);
    }
    let at = listing.ended;
    listing.sockets.retain(|listed| wanted.filter.matches_socket(listed, at));
    sort::sort(&mut listing.sockets, wanted.sort, at);
    Ok(listing)
}

/// Gives a socket the age that somebody saw. One socket may have several connections, one after the other.
fn date(socket: &mut SnapSocket, begun: &Begun) {
    if begun.remote.is_some_and(|remote| remote != socket.remote) {
        return;
    }
    let seen: Born = begun.born;
    socket.born = Some(socket.born.as_ref().map_or(seen, |own| seen.narrowed_by(own)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::born::BornBy;
    use crate::sockets::samples;
    use crate::units::BootNs;

    #[test]
    fn what_was_seen_is_the_age_of_that_connection_only() {
        let mut socket = samples::connection();
        let before = socket.born;
        let born = Born::seen(BootNs(1_234));
        date(&mut socket, &Begun { born, remote: Some("192.0.2.1:9".parse().expect("an address")) });
        assert_eq!(socket.born, before, "an earlier one of this socket");
        let remote = Some(socket.remote);
        date(&mut socket, &Begun { born, remote });
        assert_eq!(socket.born, Some(born));
        // From the start of the agent an interval is known, and now another one.
        let mut socket = samples::connection();
        let own = socket.born.expect("an interval");
        let seen = Born {
            earliest: BootNs(0),
            latest: BootNs(own.latest.0 - 1),
            earliest_by: BornBy::Boot,
            latest_by: BornBy::Snapshot,
        };
        date(&mut socket, &Begun { born: seen, remote });
        let born = socket.born.expect("an interval");
        assert_eq!((born.earliest, born.earliest_by), (own.earliest, own.earliest_by));
        assert_eq!((born.latest, born.latest_by), (seen.latest, BornBy::Snapshot));
    }
}
