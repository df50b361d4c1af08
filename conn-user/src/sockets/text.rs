//! A list as a table for people.
//!
//! What comes from other programs is escaped ([`crate::event::escape`]), like in events.

use super::model::{Listed, Listing};
use super::table::{self, Cell, Column, Row};
use crate::event::age::Age;
use crate::event::human;
use crate::event::names::Named as _;
use crate::event::words::{direction, unshown};
use crate::flow::model::Transport;
use crate::flow::snapshot::model::{NoHolder, TcpState};
use crate::host::netns_names::NetNsNames;
use crate::process::info::ProcessInfo;
use crate::process::placement::Runtime;
use crate::units::{BootNs, DurationNs, NetNs};

/// How to show a list.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// Use colour.
    pub color: bool,
    /// Columns of the terminal; `None`: everything is shown.
    pub width: Option<usize>,
    /// The network namespace that needs no mention: the reader's own.
    pub netns: Option<NetNs>,
}

const fn column(title: &'static str, right: bool, spare: u8) -> Column {
    Column { title, right, spare }
}

/// Who, since when and to where is what a list is for.
const COLUMNS: [Column; 12] = [
    column("STATE", false, 0),
    column("DIR", false, 1),
    column("PROCESS", false, 0),
    column("USER", false, 2),
    column("UNIT", false, 3),
    column("AGE", true, 0),
    column("LOCAL", false, 0),
    column("REMOTE", false, 0),
    column("IN", true, 4),
    column("OUT", true, 5),
    column("RTT", true, 6),
    column("EXE", false, 0),
];

/// Appends the table, with network namespaces by these names.
pub fn write(listing: &Listing, options: TextOptions, namespaces: &mut NetNsNames, out: &mut Vec<u8>) {
    let mut rows = Vec::with_capacity(listing.sockets.len());
    for listed in &listing.sockets {
        rows.push(row(listed, listing.ended, options, namespaces));
    }
    table::write(&COLUMNS, &rows, true, options.width, out);
}

fn row(listed: &Listed, at: BootNs, options: TextOptions, namespaces: &mut NetNsNames) -> Row<12> {
    let socket = &listed.socket;
    let mut cells: [Cell; 12] = Default::default();
    let [state, dir, process, user, unit, age, local, remote, bytes_in, bytes_out, rtt, exe] = &mut cells;
    state.text(socket.state.name());
    dir.text(direction(socket.direction));
    write_holders(listed, process);
    match listed.owner() {
        Some(owner) => {
            write_user(owner, user);
            write_unit(listed, owner, unit);
        }
        // Without a holder the socket's own user may still be a trace.
        None if listed.no_holder() == Some(NoHolder::NotFound) => match &listed.user {
            Some(name) => user.word(name),
            None => user.number(socket.uid),
        },
        None => {}
    }
    if let Some(known) = listed.age(at).filter(Age::is_known) {
        let is_narrow = options.width.is_some_and(|width| width < 100);
        age.with(|out| if is_narrow { known.write_short(out) } else { known.write_text("", out) });
    }
    let device = socket.device.as_deref();
    local.end_over(socket.local, device);
    if !listed.listens() {
        remote.end_over(socket.remote, device);
    }
    if let Some(traffic) = socket.traffic {
        bytes_in.with(|out| human::write_bytes(traffic.bytes_in, out));
        bytes_out.with(|out| human::write_bytes(traffic.bytes_out, out));
        if traffic.srtt_us > 0 {
            rtt.with(|out| human::write_duration(DurationNs(u64::from(traffic.srtt_us) * 1_000), out));
        }
    }
    // Where it goes below the row it must be worth a line.
    let has_room = options.width.is_none_or(|width| width >= 160);
    if let Some(owner) = listed.owner().filter(|owner| has_room || owner.exe_says_more()) {
        exe.exe(owner);
    }
    write_details(listed, options, namespaces, exe);
    Row { cells, color: color(listed).filter(|_| options.color) }
}

/// `nginx[812] +4`: the oldest of each name, and how many there are besides.
fn write_holders(listed: &Listed, cell: &mut Cell) {
    let holders = listed.holders.iter();
    let named =
        holders.map(|holder| (holder.pid.0, holder.process.as_ref().map(|process| &process.comm[..])));
    write_processes(named, cell);
}

/// Process ids, and names where they are known.
pub(super) fn write_processes<'a>(
    processes: impl ExactSizeIterator<Item = (u32, Option<&'a [u8]>)>,
    cell: &mut Cell,
) {
    let all = processes.len();
    let mut shown: Vec<Option<&[u8]>> = Vec::new();
    for (pid, name) in processes {
        if shown.contains(&name) || shown.len() >= 3 {
            continue;
        }
        if !shown.is_empty() {
            cell.text(",");
        }
        match name {
            Some(name) => cell.word(name),
            None => cell.text("?"),
        }
        cell.text("[");
        cell.number(pid);
        cell.text("]");
        shown.push(name);
    }
    match all - shown.len() {
        0 if all == 0 => cell.text("-"),
        0 => {}
        more => {
            cell.text(" +");
            cell.number(more);
        }
    }
}

fn write_user(process: &ProcessInfo, cell: &mut Cell) {
    match &process.user {
        Some(name) => cell.word(name),
        None => cell.number(process.uid),
    }
}

/// The socket unit, the container, or else the unit.
fn write_unit(listed: &Listed, process: &ProcessInfo, cell: &mut Cell) {
    if let Some(unit) = &listed.socket_unit {
        return cell.word(unit.as_bytes());
    }
    let Some(place) = &process.placement else { return };
    if let Some(container) = &place.container {
        cell.text(container.runtime.map_or("container", Runtime::name));
        cell.text(":");
        cell.word(container.short_id());
    } else if let Some(unit) = place.user_unit.as_ref().or(place.unit.as_ref()) {
        cell.word(unit);
    }
}

/// What is out of the ordinary.
fn write_details(listed: &Listed, options: TextOptions, namespaces: &mut NetNsNames, cell: &mut Cell) {
    let begin = |cell: &mut Cell| {
        if !cell.is_empty() {
            cell.text("  ");
        }
    };
    let socket = &listed.socket;
    match listed.no_holder() {
        None | Some(NoHolder::TimeWait) => {}
        Some(why) => {
            begin(cell);
            cell.text(match why {
                NoHolder::NotAccepted => "not accepted yet",
                NoHolder::Orphan | NoHolder::TimeWait => "orphan",
                NoHolder::NotFound => "no process found",
            });
        }
    }
    if socket.transport == Transport::Mptcp {
        begin(cell);
        cell.text("mptcp");
    }
    if socket.mapped {
        begin(cell);
        cell.text("mapped");
    }
    if socket.v6only && listed.listens() && socket.local.ip().is_unspecified() {
        begin(cell);
        cell.text("v6only");
    }
    if let Some(device) = unshown(socket.device.as_deref(), &[socket.local, socket.remote]) {
        begin(cell);
        cell.text("device=");
        cell.word(device.name().as_bytes());
    }
    if options.netns.is_some_and(|own| own != socket.netns) {
        begin(cell);
        cell.text("netns=");
        match namespaces.name(socket.netns) {
            Some(name) => cell.word(name),
            None => cell.number(socket.netns.0),
        }
    }
    if listed.listens() {
        if socket.recv_queue > 0 {
            begin(cell);
            cell.text("accept queue ");
            cell.number(socket.recv_queue);
            cell.text("/");
            cell.number(socket.send_queue);
        }
        return;
    }
    for (name, bytes) in [("recv-q ", socket.recv_queue), ("send-q ", socket.send_queue)] {
        if bytes > 0 {
            begin(cell);
            cell.text(name);
            cell.number(bytes);
        }
    }
}

/// Colour is a signal, not a decoration: an SGR sequence for a whole line.
fn color(listed: &Listed) -> Option<&'static [u8]> {
    let deleted = listed.owner().is_some_and(|process| process.exe_is_deleted());
    match (listed.socket.state, listed.no_holder()) {
        _ if deleted => Some(b"\x1b[31m"),
        (_, Some(NoHolder::NotFound)) => Some(b"\x1b[31m"),
        (TcpState::Listen, _) => Some(b"\x1b[33m"),
        (TcpState::Established | TcpState::SynSent | TcpState::SynRecv, _) => None,
        _ => Some(b"\x1b[2m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::escape;
    use crate::sockets::samples::{self, golden};

    fn shown(options: TextOptions) -> String {
        let mut out = Vec::new();
        write(&samples::listing(), options, &mut NetNsNames::default(), &mut out);
        String::from_utf8(out).expect("text is UTF-8")
    }

    #[test]
    fn golden_table() {
        let netns = Some(NetNs(4_026_531_840));
        let options = TextOptions { netns, ..TextOptions::default() };
        golden("list.txt", &shown(options));
        golden("list.color.txt", &shown(TextOptions { color: true, ..options }).replace('\x1b', "^["));
        golden("list.80.txt", &shown(TextOptions { width: Some(80), ..options }));
        golden("list.120.txt", &shown(TextOptions { width: Some(120), ..options }));
    }

    #[test]
    fn every_socket_is_one_harmless_line() {
        let text = shown(TextOptions::default());
        assert_eq!(text.lines().count(), 1 + samples::listing().sockets.len());
        assert!(!text.lines().any(|line| line.chars().any(|c| c.is_control() || escape::is_hidden(c))));
    }
}
