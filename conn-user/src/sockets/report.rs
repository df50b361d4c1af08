//! The difference of two lists, as a table for people and as lines of JSON.

use super::diff::{Changed, Difference};
use super::model::SCHEMA_VERSION;
use super::restart::Restarted;
use super::saved::{About, Saved, SavedSocket};
use super::table::{self, Cell, Column, Row};
use super::text::write_processes;
use crate::event::address::write_int;
use crate::event::json::{write_key, write_text};
use crate::event::words::{direction, unshown};
use crate::host::interfaces::Device;

const COLUMNS: [Column; 8] = [Column { title: "", right: false, spare: 0 }; 8];

const RESTARTED: &str = " restarted, ";

/// Appends a line for each difference, and the numbers.
pub fn write_table(difference: &Difference<'_>, color: bool, out: &mut Vec<u8>) {
    let mut rows = Vec::new();
    for socket in &difference.vanished {
        rows.push(row("-", socket, None, b"\x1b[31m"));
    }
    for socket in &difference.appeared {
        rows.push(row("+", socket, None, b"\x1b[32m"));
    }
    for changed in &difference.changed {
        rows.push(row("~", changed.new, Some(changed), b"\x1b[33m"));
    }
    for service in &difference.restarted {
        rows.push(restarted(service));
    }
    if !color {
        for row in &mut rows {
            row.color = None;
        }
    }
    table::write(&COLUMNS, &rows, false, None, out);
    let counts = [
        (difference.appeared.len(), " appeared, "),
        (difference.vanished.len(), " vanished, "),
        (difference.changed.len(), " changed, "),
        (difference.restarted.len(), RESTARTED),
        (difference.same, " the same\n"),
    ];
    for (count, what) in counts {
        // Restarts are rare, and scripts read this line.
        if count == 0 && what == RESTARTED {
            continue;
        }
        write_int(count, out);
        out.extend_from_slice(what.as_bytes());
    }
}

fn row(
    sign: &'static str,
    socket: &SavedSocket,
    changed: Option<&Changed<'_>>,
    color: &'static [u8],
) -> Row<8> {
    let mut cells: [Cell; 8] = Default::default();
    let [first, state, dir, process, user, local, remote, details] = &mut cells;
    first.text(sign);
    state.text(socket.state.name());
    dir.text(direction(socket.direction));
    write_holders(socket, process);
    if let Some(holder) = socket.holders.first() {
        match (&holder.user, holder.uid) {
            (Some(name), _) => user.word(name),
            (None, Some(uid)) => user.number(uid),
            (None, None) => {}
        }
    }
    let device = socket.device.as_deref().map(Device::new);
    local.end_over(socket.local, device.as_ref());
    if socket.direction.is_some() {
        remote.end_over(socket.remote, device.as_ref());
    }
    if let Some(holder) = socket.holders.first() {
        match &holder.exe {
            Some(exe) => details.word(exe),
            None => details.text("?"),
        }
        if holder.exe_deleted {
            details.text(" (deleted)");
        }
    }
    if let Some(device) = unshown(device.as_ref(), &[socket.local, socket.remote]) {
        details.text("  device=");
        details.word(device.name().as_bytes());
    }
    if let Some(changed) = changed {
        if changed.state {
            details.text("  was ");
            details.text(changed.old.state.name());
        }
        if changed.owner {
            details.text("  was held by ");
            write_holders(changed.old, details);
            if let Some(exe) = changed.old.holders.first().and_then(|holder| holder.exe.as_deref()) {
                details.text(" ");
                details.word(exe);
            }
        }
    }
    Row { cells, color: Some(color) }
}

/// A service by its first listener, and the addresses on which it listens as before.
fn restarted(service: &Restarted<'_>) -> Row<8> {
    let (Some(old), Some(new)) = (service.old.first(), service.new.first()) else {
        return Row { cells: Default::default(), color: None };
    };
    let mut row = row("~", new, None, b"\x1b[33m");
    let [_, _, _, _, _, _, _, details] = &mut row.cells;
    details.text("  restarted, was ");
    write_holders(old, details);
    let others = service.new.iter().skip(1);
    for (at, other) in others.enumerate() {
        details.text(if at == 0 { "  listens as before, also on " } else { ", " });
        details.end(other.local);
    }
    row
}

fn write_holders(socket: &SavedSocket, cell: &mut Cell) {
    write_processes(socket.holders.iter().map(|holder| (holder.pid, holder.comm.as_deref())), cell);
}

/// Appends a line for each note and each difference, and one with the numbers. The sockets are the lines of the lists.
pub fn write_json(difference: &Difference<'_>, old: &Saved, new: &Saved, out: &mut Vec<u8>) {
    for note in &difference.notes {
        begin("note", out);
        write_text(b"text", note.as_bytes(), out);
        out.extend_from_slice(b"}\n");
    }
    for (kind, sockets) in [("vanished", &difference.vanished), ("appeared", &difference.appeared)] {
        for socket in sockets {
            begin(kind, out);
            write_socket(b"socket", socket, out);
            out.extend_from_slice(b"}\n");
        }
    }
    for changed in &difference.changed {
        begin("changed", out);
        write_key(b"changes", out);
        let names = [(changed.state, "\"state\""), (changed.owner, "\"owner\"")];
        let names: Vec<_> = names.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        out.push(b'[');
        out.extend_from_slice(names.join(",").as_bytes());
        out.push(b']');
        write_socket(b"old", changed.old, out);
        write_socket(b"new", changed.new, out);
        out.extend_from_slice(b"}\n");
    }
    for service in &difference.restarted {
        begin("restarted", out);
        write_sockets(b"old", &service.old, out);
        write_sockets(b"new", &service.new, out);
        out.extend_from_slice(b"}\n");
    }
    begin("summary", out);
    for (key, count) in [
        (&b"appeared"[..], difference.appeared.len()),
        (b"vanished", difference.vanished.len()),
        (b"changed", difference.changed.len()),
        (b"restarted", difference.restarted.len()),
        (b"same", difference.same),
    ] {
        write_key(key, out);
        write_int(count, out);
    }
    write_about(b"old", &old.about, out);
    write_about(b"new", &new.about, out);
    out.extend_from_slice(b"}\n");
}

fn schema(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"schema\":");
    write_int(SCHEMA_VERSION, out);
}

fn begin(kind: &str, out: &mut Vec<u8>) {
    schema(out);
    write_text(b"kind", kind.as_bytes(), out);
}

fn write_socket(key: &[u8], socket: &SavedSocket, out: &mut Vec<u8>) {
    write_key(key, out);
    out.extend_from_slice(socket.json.as_bytes());
}

fn write_sockets(key: &[u8], sockets: &[&SavedSocket], out: &mut Vec<u8>) {
    write_key(key, out);
    let all: Vec<&str> = sockets.iter().map(|socket| socket.json.as_str()).collect();
    out.push(b'[');
    out.extend_from_slice(all.join(",").as_bytes());
    out.push(b']');
}

fn write_about(key: &[u8], about: &About, out: &mut Vec<u8>) {
    write_key(key, out);
    schema(out);
    write_text(b"ts", about.ts.as_bytes(), out);
    write_text(b"host", about.host.as_bytes(), out);
    write_text(b"boot_id", about.boot_id.as_bytes(), out);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::event::escape;
    use crate::flow::snapshot::model::TcpState;
    use crate::sockets::diff::diff;
    use crate::sockets::samples::{self, golden};

    fn lists() -> (Saved, Saved) {
        let old = Saved::read(samples::json().as_bytes()).expect("a list");
        let mut new = old.clone();
        let mut other = new.sockets.remove(0);
        other.local.set_port(41_000);
        new.sockets.push(other);
        new.sockets[0].holders.remove(0);
        new.sockets[3].state = TcpState::TimeWait;
        new.sockets.remove(6);
        let activated =
            new.sockets.iter_mut().find(|socket| socket.local.port() == 22 && socket.direction.is_none());
        let activated = activated.expect("a listener");
        activated.cookie = Some("77".to_owned());
        activated.holders[0].pid = 4711;
        activated.holders[0].id = Some("another".to_owned());
        new.about.filter = "\x1b[2J".to_owned();
        (old, new)
    }

    #[test]
    fn golden_table() {
        let (old, new) = lists();
        let mut out = Vec::new();
        write_table(&diff(&old, &new), false, &mut out);
        write_table(&diff(&old, &new), true, &mut out);
        golden("diff.txt", &String::from_utf8(out).expect("UTF-8").replace('\x1b', "^["));
    }

    #[test]
    fn every_line_of_json_is_an_object() {
        let (old, new) = lists();
        let found = diff(&old, &new);
        let mut out = Vec::new();
        write_json(&found, &old, &new, &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
        let summary = lines.last().expect("a last line");
        for kind in ["appeared", "vanished", "changed", "restarted"] {
            assert_eq!(summary[kind], count(kind), "{kind}");
        }
        assert_eq!(count("note"), found.notes.len());
        assert_eq!(lines.iter().filter(|line| line["socket"].is_object()).count(), 3);
        assert!(!text.lines().any(|line| line.chars().any(|c| c.is_control() || escape::is_hidden(c))));
    }
}
