//! A list as lines of JSON: [`super::wire`] has their keys.

use std::sync::Arc;

use super::model::{HeldBy, Listed, Listing, SCHEMA_VERSION, Selection};
use super::wire::{Connection, Head, Holder, List, Listener, Note, Socket};
use crate::event::community;
use crate::event::json::StreamIdentity;
use crate::event::json::process::shape;
use crate::event::names::{self, Named};
use crate::event::time::Rfc3339;
use crate::event::wire::{Text, encode};
use crate::flow::model::{Direction, Method, Source};
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
    let mut ts = Vec::new();
    Rfc3339::default().write(wall, &mut ts);
    let ts = String::from_utf8_lossy(&ts);
    let writer = Writer { ts: &ts, at: listing.ended, identity, boot8: identity.boot8() };
    let about = List {
        head: writer.head(),
        kind: "list".into(),
        began_boot_ns: listing.began.into(),
        selection: asked.selection.name().into(),
        filter: asked.filter.as_str().into(),
        sockets: listing.sockets.len() as u64,
        notes: listing.notes.len() as u64,
    };
    encode(&about, out);
    out.push(b'\n');
    for note in &listing.notes {
        encode(&Note { head: writer.head(), kind: "note".into(), text: note.to_string().into() }, out);
        out.push(b'\n');
    }
    for listed in &listing.sockets {
        if listed.listens() {
            encode(&writer.listener(listed), out);
        } else {
            encode(&writer.connection(listed), out);
        }
        out.push(b'\n');
    }
}

struct Writer<'a> {
    ts: &'a str,
    at: BootNs,
    identity: &'a StreamIdentity,
    boot8: String,
}

impl<'a> Writer<'a> {
    fn head(&self) -> Head<'a> {
        Head {
            schema: SCHEMA_VERSION,
            ts: self.ts.into(),
            boot_ns: self.at.into(),
            host: self.identity.host.as_str().into(),
            boot_id: self.identity.boot_id.as_str().into(),
        }
    }

    fn connection(&self, listed: &'a Listed) -> Connection<'a> {
        let (socket, traffic) = (&listed.socket, listed.socket.traffic);
        let id = community::id(socket.local, socket.remote);
        Connection {
            head: self.head(),
            kind: "connection".into(),
            socket: self.socket(listed),
            community_id: id.map(|id| String::from_utf8_lossy(&id).into_owned().into()),
            dir: socket.direction.unwrap_or(Direction::Unknown).name().into(),
            raddr: socket.remote.ip(),
            rport: port(socket.remote.port()),
            recv_queue: socket.recv_queue,
            send_queue: socket.send_queue,
            bytes_in: traffic.map(|traffic| traffic.bytes_in),
            bytes_out: traffic.map(|traffic| traffic.bytes_out),
            retransmits: traffic.and_then(|traffic| traffic.retransmits),
            srtt_us: traffic.map(|traffic| traffic.srtt_us),
        }
    }

    fn listener(&self, listed: &'a Listed) -> Listener<'a> {
        let socket = &listed.socket;
        let unit = listed.socket_unit.as_deref().map(Text::from);
        Listener {
            head: self.head(),
            kind: "listener".into(),
            socket: self.socket(listed),
            v6only: socket.v6only,
            socket_unit: if listed.is_systemds() { Some(unit) } else { unit.map(Some) },
            accept_queue: socket.recv_queue,
            backlog: socket.send_queue,
        }
    }

    fn socket(&self, listed: &'a Listed) -> Socket<'a> {
        let socket = &listed.socket;
        let method = listed.no_holder().map_or(Method::FdTable, |why| Method::Unknown(why.reason()));
        Socket {
            cookie: socket.cookie.map(|cookie| format!("{cookie:x}").into()),
            inode: Some(socket.inode.into()).filter(|inode| *inode != 0),
            state: Named::name(socket.state).into(),
            proto: socket.transport.name().into(),
            family: if socket.local.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
            mapped: socket.mapped,
            laddr: socket.local.ip(),
            lport: port(socket.local.port()),
            device: socket.device.as_deref().map(|device| device.name().into()),
            netns: socket.netns.0,
            source: Source::Snapshot.name().into(),
            age: listed.age(self.at).map(|age| age.shape()),
            uid: socket.uid,
            method: names::method(method).into(),
            reason: match method {
                Method::Unknown(reason) => Some(reason.name().into()),
                _ => None,
            },
            holders: listed.holders.iter().map(|holder| self.holder(holder)).collect(),
        }
    }

    fn holder(&self, holder: &'a HeldBy) -> Holder<'a> {
        let process = holder.process.as_ref().map(|process: &'a Arc<_>| shape(&self.boot8, process));
        Holder { pid: holder.pid.0, fds: holder.fds.clone(), process }
    }
}

/// Port 0 is none.
const fn port(port: u16) -> Option<u16> {
    if port == 0 { None } else { Some(port) }
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
