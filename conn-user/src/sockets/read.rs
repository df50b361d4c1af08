//! A list read back as what it was written from: an agent answers with the lines of JSON, and who asked makes the table.
//!
//! What JSON does not carry is not there afterwards: the index of an interface, and the names of users, which are those of this
//! machine.

use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;
use thiserror::Error;

use super::model::{HeldBy, Listed, Listing, SCHEMA_VERSION};
use super::wire::{Connection, Holder, List, Listener, Note, Socket};
use crate::event::names::{self, Named};
use crate::event::read::process_of;
use crate::event::wire::Age;
use crate::flow::born::Born;
use crate::flow::model::Traffic;
use crate::flow::snapshot::model::{NoHolder, SnapSocket};
use crate::host::interfaces::Device;
use crate::units::{BootNs, NetNs, Pid};

/// A list that was read.
#[derive(Debug, Default)]
pub struct ReadList {
    /// The sockets. What could not be seen is in [`Self::notes`].
    pub listing: Listing,
    /// What could not be seen, for people.
    pub notes: Vec<String>,
}

/// Why lines are no list.
#[derive(Debug, Error)]
pub enum ListError {
    /// They cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is none of a list.
    #[error("line {line} of the list: {what}")]
    Line {
        /// Which.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The list is cut.
    #[error("the list is cut: it has {found} of {announced} lines")]
    Cut {
        /// How many there should be.
        announced: u64,
        /// How many there are.
        found: u64,
    },
}

impl ReadList {
    /// Reads the lines that [`super::json::write`] writes.
    ///
    /// # Errors
    /// When they cannot be read, or are none.
    pub fn read(mut from: impl BufRead) -> Result<Self, ListError> {
        let mut list = Self::default();
        let (mut text, mut line, mut announced, mut found) = (String::new(), 0, 0, 0);
        while {
            text.clear();
            from.read_line(&mut text)?
        } > 0
        {
            line += 1;
            let wrong = |what: String| ListError::Line { line, what };
            if line == 1 {
                let about: List<'_> = parse(&text).map_err(wrong)?;
                if about.head.schema != SCHEMA_VERSION {
                    return Err(wrong(format!("it is of version {} of the schema", about.head.schema)));
                }
                announced = about.sockets + about.notes;
                list.listing.began = about.began_boot_ns.into();
                list.listing.ended = about.head.boot_ns.into();
                continue;
            }
            found += u64::from(list.line(&text).map_err(wrong)?);
        }
        if line == 0 || announced != found {
            return Err(ListError::Cut { announced, found });
        }
        Ok(list)
    }

    /// Whether the line is one of those that the first one announces.
    fn line(&mut self, text: &str) -> Result<bool, String> {
        #[derive(serde::Deserialize)]
        struct Kind {
            kind: String,
        }
        let at = self.listing.ended;
        match parse::<Kind>(text)?.kind.as_str() {
            "note" => self.notes.push(parse::<Note<'_>>(text)?.text.to_string()),
            "connection" => {
                let mut of: Connection<'_> = parse(text)?;
                let mut listed = listed(&mut of.socket, at)?;
                let socket = &mut listed.socket;
                socket.direction = Some(named("dir", &of.dir)?);
                socket.remote = SocketAddr::new(of.raddr, of.rport.unwrap_or(0));
                (socket.recv_queue, socket.send_queue) = (of.recv_queue, of.send_queue);
                socket.traffic = match (of.bytes_in, of.bytes_out, of.srtt_us) {
                    (Some(bytes_in), Some(bytes_out), Some(srtt_us)) => {
                        Some(Traffic { bytes_in, bytes_out, retransmits: of.retransmits, srtt_us })
                    }
                    _ => None,
                };
                self.listing.sockets.push(listed);
            }
            "listener" => {
                let mut of: Listener<'_> = parse(text)?;
                let mut listed = listed(&mut of.socket, at)?;
                listed.socket.v6only = of.v6only;
                (listed.socket.recv_queue, listed.socket.send_queue) = (of.accept_queue, of.backlog);
                listed.socket_unit = of.socket_unit.flatten().map(|unit| (*unit).into());
                self.listing.sockets.push(listed);
            }
            // A later version may have other lines.
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A socket, without what only a connection or only a listener has.
fn listed(of: &mut Socket<'_>, at: BootNs) -> Result<Listed, String> {
    let local = SocketAddr::new(of.laddr, of.lport.unwrap_or(0));
    let unspecified: IpAddr =
        if of.laddr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let cookie = of.cookie.as_ref().map(|cookie| u64::from_str_radix(cookie, 16));
    let socket = SnapSocket {
        cookie: cookie.transpose().map_err(|error| error.to_string())?,
        inode: u32::try_from(of.inode.unwrap_or(0)).unwrap_or(0),
        netns: NetNs(of.netns),
        state: named("state", &of.state)?,
        transport: named("proto", &of.proto)?,
        local,
        remote: SocketAddr::new(unspecified, 0),
        mapped: of.mapped,
        v6only: false,
        device: of.device.as_ref().map(|device| Arc::new(Device::new(device))),
        device_index: 0,
        uid: of.uid,
        recv_queue: 0,
        send_queue: 0,
        direction: None,
        traffic: None,
        holders: SmallVec::new(),
        no_holder: of.reason.as_deref().and_then(no_holder),
        born: of.age.as_ref().map(|age| born(age, at)).transpose()?,
    };
    let holders = std::mem::take(&mut of.holders).into_iter().map(holder).collect::<Result<_, _>>()?;
    Ok(Listed { socket, holders, socket_unit: None, user: None })
}

fn holder(of: Holder<'_>) -> Result<HeldBy, String> {
    let process = of.process.map(process_of).transpose().map_err(|error| error.to_string())?;
    Ok(HeldBy { pid: Pid(of.pid), process: process.map(Arc::new), fds: of.fds })
}

fn born(of: &Age<'_>, at: BootNs) -> Result<Born, String> {
    let back = |age: u64| BootNs(at.0.saturating_sub(age));
    Ok(Born {
        earliest: of.at_most_ns.map_or(BootNs(0), back),
        latest: back(of.at_least_ns),
        earliest_by: named("at_most_by", &of.at_most_by)?,
        latest_by: named("at_least_by", &of.at_least_by)?,
    })
}

fn no_holder(reason: &str) -> Option<NoHolder> {
    [NoHolder::NotAccepted, NoHolder::Orphan, NoHolder::TimeWait, NoHolder::NotFound]
        .into_iter()
        .find(|why| why.reason().name() == reason)
}

fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn named<T: Named>(key: &str, value: &str) -> Result<T, String> {
    names::from_name(value).ok_or_else(|| format!("{value:?} is not a value of `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::samples::identity;
    use crate::host::netns_names::NetNsNames;
    use crate::sockets::json::{self, Asked};
    use crate::sockets::text::{self, TextOptions};
    use crate::sockets::{Selection, samples};

    fn table(listing: &Listing) -> String {
        let options = TextOptions { netns: Some(NetNs(4_026_531_840)), ..TextOptions::default() };
        let mut out = Vec::new();
        text::write(listing, options, &mut NetNsNames::default(), &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_list_that_was_read_is_the_same_table_and_the_same_json() {
        let (listing, lines) = (samples::listing(), samples::json());
        let read = ReadList::read(lines.as_bytes()).expect("a list");
        assert_eq!(table(&read.listing), table(&listing));
        assert_eq!(read.notes, listing.notes.iter().map(ToString::to_string).collect::<Vec<_>>());
        let (mut again, asked) = (Vec::new(), Asked { selection: Selection::All, filter: String::new() });
        let listing = Listing { notes: listing.notes, ..read.listing };
        json::write(&listing, &asked, &identity(), samples::WALL, &mut again);
        assert_eq!(String::from_utf8(again).expect("UTF-8"), lines);
    }

    #[test]
    fn a_list_that_is_cut_or_none_is_an_error() {
        let lines = samples::json();
        let cut = lines.trim_end().rsplit_once('\n').expect("lines").0;
        assert!(matches!(ReadList::read(cut.as_bytes()), Err(ListError::Cut { .. })));
        assert!(matches!(ReadList::read(&b""[..]), Err(ListError::Cut { .. })));
        assert!(matches!(ReadList::read(&b"{}\n"[..]), Err(ListError::Line { line: 1, .. })));
        let wrong = lines.replace("\"state\":\"listen\"", "\"state\":\"lost\"");
        let error = ReadList::read(wrong.as_bytes()).expect_err("a wrong name").to_string();
        assert!(error.contains("\"lost\" is not a value of `state`"), "{error}");
    }
}
