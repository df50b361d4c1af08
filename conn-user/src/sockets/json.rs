//! A list as lines of JSON: the keys, and their order, of `docs/list.md` and [`super::schema`].

use super::model::{HeldBy, Listed, Listing, SCHEMA_VERSION, Selection};
use crate::event::address::write_int;
use crate::event::json::process::{ProcessWriter, write_option};
use crate::event::json::{
    StreamIdentity, write_community_id, write_device, write_end, write_family, write_key, write_text,
    write_transport,
};
use crate::event::names::{self, Named};
use crate::event::time::Rfc3339;
use crate::flow::model::{Direction, Method, Source};
use crate::flow::snapshot::model::Note;
use crate::units::{BootNs, WallNs};

/// How a list was asked for; a saved list reports it, so that two of them can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// By state.
    pub selection: Selection,
    /// By filter, as it was written.
    pub filter: String,
}

/// Writes a list: a line about itself, one for each note, one for each socket. `wall` is the wall clock's time at
/// `listing.ended`.
pub fn write(listing: &Listing, asked: &Asked, identity: &StreamIdentity, wall: WallNs, out: &mut Vec<u8>) {
    let mut writer = Writer {
        head: head(identity, listing.ended, wall),
        at: listing.ended,
        processes: ProcessWriter::new(&identity.boot8()),
    };
    writer.about(listing, asked, out);
    for note in &listing.notes {
        writer.note(note, out);
    }
    for listed in &listing.sockets {
        writer.socket(listed, out);
    }
}

/// What every line begins with.
fn head(identity: &StreamIdentity, boot: BootNs, wall: WallNs) -> Vec<u8> {
    let mut head = b"{\"schema\":".to_vec();
    write_int(SCHEMA_VERSION, &mut head);
    head.extend_from_slice(b",\"ts\":\"");
    Rfc3339::default().write(wall, &mut head);
    head.extend_from_slice(b"\",\"ts_ns\":");
    write_int(wall.0, &mut head);
    head.extend_from_slice(b",\"boot_ns\":");
    write_int(boot.0, &mut head);
    write_text(b"host", identity.host.as_bytes(), &mut head);
    write_text(b"boot_id", identity.boot_id.as_bytes(), &mut head);
    head
}

struct Writer {
    head: Vec<u8>,
    at: BootNs,
    processes: ProcessWriter,
}

impl Writer {
    fn begin(&self, kind: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        write_text(b"kind", kind.as_bytes(), out);
    }

    fn about(&self, listing: &Listing, asked: &Asked, out: &mut Vec<u8>) {
        self.begin("list", out);
        number(b"began_boot_ns", Some(listing.began.0), out);
        write_text(b"selection", asked.selection.name().as_bytes(), out);
        write_text(b"filter", asked.filter.as_bytes(), out);
        number(b"sockets", Some(listing.sockets.len()), out);
        number(b"notes", Some(listing.notes.len()), out);
        out.extend_from_slice(b"}\n");
    }

    fn note(&self, note: &Note, out: &mut Vec<u8>) {
        self.begin("note", out);
        write_text(b"text", note.to_string().as_bytes(), out);
        out.extend_from_slice(b"}\n");
    }

    fn socket(&mut self, listed: &Listed, out: &mut Vec<u8>) {
        let socket = &listed.socket;
        self.begin(if listed.listens() { "listener" } else { "connection" }, out);
        match socket.cookie {
            Some(cookie) => write_text(b"cookie", format!("{cookie:x}").as_bytes(), out),
            None => null(b"cookie", out),
        }
        number(b"inode", Some(u64::from(socket.inode)).filter(|inode| *inode != 0), out);
        write_text(b"state", Named::name(socket.state).as_bytes(), out);
        if !listed.listens() {
            write_community_id(socket.local, socket.remote, out);
            write_text(b"dir", socket.direction.unwrap_or(Direction::Unknown).name().as_bytes(), out);
        }
        write_transport(socket.transport, out);
        write_family(socket.local.ip(), socket.mapped, out);
        write_end(b",\"laddr\":\"", b",\"lport\":", socket.local, out);
        write_device(socket.device.as_deref(), out);
        if listed.listens() {
            write_key(b"v6only", out);
            out.extend_from_slice(if socket.v6only { b"true" } else { b"false" });
            match &listed.socket_unit {
                Some(unit) => write_text(b"socket_unit", unit.as_bytes(), out),
                None if listed.is_systemds() => null(b"socket_unit", out),
                None => {}
            }
        } else {
            write_end(b",\"raddr\":\"", b",\"rport\":", socket.remote, out);
        }
        number(b"netns", Some(socket.netns.0), out);
        write_text(b"source", Source::Snapshot.name().as_bytes(), out);
        write_key(b"age", out);
        match listed.age(self.at) {
            Some(age) => age.write_json(out),
            None => out.extend_from_slice(b"null"),
        }
        number(b"uid", Some(socket.uid), out);
        if listed.listens() {
            number(b"accept_queue", Some(socket.recv_queue), out);
            number(b"backlog", Some(socket.send_queue), out);
        } else {
            number(b"recv_queue", Some(socket.recv_queue), out);
            number(b"send_queue", Some(socket.send_queue), out);
            let traffic = socket.traffic;
            number(b"bytes_in", traffic.map(|traffic| traffic.bytes_in), out);
            number(b"bytes_out", traffic.map(|traffic| traffic.bytes_out), out);
            number(b"retransmits", traffic.and_then(|traffic| traffic.retransmits), out);
            number(b"srtt_us", traffic.map(|traffic| traffic.srtt_us), out);
        }
        self.holders(listed, out);
        out.extend_from_slice(b"}\n");
    }

    fn holders(&mut self, listed: &Listed, out: &mut Vec<u8>) {
        let method = listed.no_holder().map_or(Method::FdTable, |why| Method::Unknown(why.reason()));
        write_text(b"method", names::method(method).as_bytes(), out);
        if let Method::Unknown(reason) = method {
            write_text(b"reason", reason.name().as_bytes(), out);
        }
        write_key(b"holders", out);
        out.push(b'[');
        for (at, holder) in listed.holders.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.holder(holder, out);
        }
        out.push(b']');
    }

    fn holder(&mut self, holder: &HeldBy, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"pid\":");
        write_int(holder.pid.0, out);
        write_key(b"fds", out);
        out.push(b'[');
        for (at, fd) in holder.fds.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_int(*fd, out);
        }
        out.push(b']');
        write_key(b"process", out);
        match &holder.process {
            Some(process) => self.processes.write(process, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
}

fn number(key: &[u8], value: Option<impl itoa::Integer>, out: &mut Vec<u8>) {
    write_key(key, out);
    write_option(value, out);
}

fn null(key: &[u8], out: &mut Vec<u8>) {
    write_key(key, out);
    out.extend_from_slice(b"null");
}

#[cfg(test)]
mod tests {
    use crate::sockets::samples::{self, golden};

    #[test]
    fn golden_lines() {
        golden("list.jsonl", &samples::json());
    }

    #[test]
    fn the_first_line_counts_the_others() {
        let lines: Vec<serde_json::Value> =
            samples::json().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let count = |kind: &[&str]| {
            lines.iter().filter(|line| kind.contains(&line["kind"].as_str().expect("a kind"))).count()
        };
        assert_eq!(lines[0]["kind"], "list");
        assert_eq!(lines[0]["sockets"], count(&["connection", "listener"]));
        assert_eq!(lines[0]["notes"], count(&["note"]));
    }
}
