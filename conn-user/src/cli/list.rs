//! `conn list`: every socket, and who holds it.

use std::time::Duration;

use anyhow::Context as _;

use super::args::{Environment, Exit, ListArgs, ListOptions};
use super::machine;
use super::messages::{emit, note};
use crate::clock::Clock;
use crate::flow::snapshot::{self, SnapshotOptions};
use crate::host::netns_names::NetNsNames;
use crate::process::ProcessTable;
use crate::process::files::FileWorkers;
use crate::process::inspect::Inspector;
use crate::process::procfs::ProcFs;
use crate::process::socket_units::SocketUnits;
use crate::process::users::Users;
use crate::rules::defaults;
use crate::sockets::text::TextOptions;
use crate::sockets::{Listing, json, sort, text};

/// How long to wait for what takes long to find out (the hashes of executables). What is not known by then is null.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs `conn list`.
///
/// # Errors
/// When nothing can be read, or the output cannot be written; wrong usage is reported here.
pub fn run(args: &ListArgs) -> anyhow::Result<Exit> {
    let options = match args.resolve(Environment::of_process()) {
        Ok(options) => options,
        Err(error) => {
            emit(error);
            return Ok(Exit::Usage);
        }
    };
    if args.udp {
        note("TCP sockets only: -u lists nothing more");
    }
    let listing = list(&options)?;
    for one in &listing.notes {
        note(one);
    }
    let mut out = Vec::new();
    if options.json {
        let wall = Clock::now().wall(listing.ended);
        json::write(&listing, &options.asked, &machine::identity()?, wall, &mut out);
    } else {
        let (width, netns) = (machine::terminal_width(), machine::own_netns());
        let shown = TextOptions { color: options.color, width, netns };
        text::write(&listing, shown, &mut NetNsNames::of_machine(), &mut out);
    }
    super::print(&out)
}

/// Takes a snapshot, and leaves in it what is asked for.
fn list(options: &ListOptions) -> anyhow::Result<Listing> {
    let mut snapshot = snapshot::take(&SnapshotOptions::default()).context("listing the sockets")?;
    // Before anything is found out about who holds them.
    snapshot.sockets.retain(|socket| options.asked.selection.takes(socket.state));
    let files = FileWorkers::processes().unwrap_or_else(|_| FileWorkers::threads());
    let tools = defaults::tool_names().unwrap_or_default();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let inspector = Inspector::start_with_tools(&ProcFs::default(), files, true, &tools);
    let inspector = inspector.context("starting a thread")?;
    let mut processes = ProcessTable::default().with_inspector(inspector);
    let mut listing = Listing::of(snapshot, |pid, start| processes.seen(pid, start));
    listing.name_socket_units(&mut SocketUnits::default());
    listing.name_users(&mut Users::default());
    // The table shows nothing that takes long to find out; a filter may ask for it.
    if options.json || !options.filter.is_empty() {
        processes.settle(PATIENCE);
    }
    let at = listing.ended;
    listing.sockets.retain(|listed| options.filter.matches_socket(listed, at));
    sort::sort(&mut listing.sockets, options.sort, listing.ended);
    Ok(listing)
}
