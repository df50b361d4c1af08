//! The connections that live, and the keys of those that ended.
//!
//! A slab holds the living; an index leads from the socket's key to its place in it. The key of an ended connection
//! stays in the index for a while, so that a second end is known as such.

use std::collections::VecDeque;
use std::sync::Arc;

use conn_common::record::{Sock, SockFlags};

use super::actors::BEFORE_ATTACH;
use super::born::Born;
use super::devices::Devices;
use super::ending::EndState;
use super::ends::{Ends, transport};
use super::model::{Actor, ConnEvent, ConnId, Direction, Source, Transport};
use crate::process::hash::IntMap;
use crate::units::{BootNs, NetNs};

/// A connection. Times of 0 are not known.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) key: u64,
    pub(super) begun: BootNs,
    pub(super) established: BootNs,
    pub(super) accepted: BootNs,
    pub(super) owner: Actor,
    pub(super) listener: Option<Arc<Actor>>,
    pub(super) ends: Ends,
    pub(super) netns: u32,
    /// Index of the interface that the socket is bound to, 0: none.
    pub(super) device: u32,
    pub(super) direction: Direction,
    pub(super) transport: Transport,
    pub(super) source: Source,
    /// When it was established, if it was there before it was seen.
    pub(super) born: Option<Born>,
    /// The kernel's own socket.
    pub(super) kernel: bool,
    /// A snapshot found it past its beginning: established (outgoing), or accepted (incoming).
    pub(super) under_way: bool,
    /// Its connect is not reported yet: the port is missing.
    pub(super) held: bool,
    /// It ended before anybody accepted it, but may still be accepted.
    pub(super) dead: Option<Box<EndState>>,
}

/// What names a socket, and what kind it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct What {
    pub(super) key: u64,
    pub(super) netns: u32,
    pub(super) ends: Ends,
    /// Index of the interface that the socket is bound to, 0: none.
    pub(super) device: u32,
    pub(super) transport: Transport,
    /// The kernel's own socket.
    pub(super) kernel: bool,
}

impl Conn {
    /// A connection of which only the socket is known, from a record.
    pub(super) fn new(id: u64, sock: &Sock, direction: Direction, source: Source) -> Self {
        let what = What {
            key: sock.key,
            netns: sock.netns,
            ends: Ends::of(sock),
            device: sock.device,
            transport: transport(sock),
            kernel: sock.flags & SockFlags::KERNEL != 0,
        };
        Self::of(id, what, direction, source)
    }

    /// A connection of which only the socket is known.
    pub(super) fn of(id: u64, what: What, direction: Direction, source: Source) -> Self {
        Self {
            id,
            key: what.key,
            begun: BootNs(0),
            established: BootNs(0),
            accepted: BootNs(0),
            owner: BEFORE_ATTACH,
            listener: None,
            ends: what.ends,
            netns: what.netns,
            device: what.device,
            direction,
            transport: what.transport,
            source,
            born: None,
            kernel: what.kernel,
            under_way: false,
            held: false,
            dead: None,
        }
    }

    /// Takes over what a record reports beyond what is known: of a connection of the snapshot, whose socket it is.
    pub(super) fn learn(&mut self, sock: &Sock) {
        self.ends.complete(&Ends::of(sock));
        self.bind(sock);
        self.kernel |= sock.flags & SockFlags::KERNEL != 0;
    }

    /// Takes the interface that the socket is bound to by now.
    pub(super) fn bind(&mut self, sock: &Sock) {
        if sock.device != 0 {
            self.device = sock.device;
        }
    }

    /// Incoming, and not known to be accepted.
    pub(super) fn waits(&self) -> bool {
        self.direction == Direction::In && self.accepted.0 == 0 && !self.under_way
    }

    /// Outgoing, and not known to be established.
    pub(super) fn connecting(&self) -> bool {
        self.direction == Direction::Out && self.established.0 == 0 && !self.under_way
    }

    pub(super) fn event(&self, devices: &Devices) -> ConnEvent {
        ConnEvent {
            id: ConnId(self.id),
            direction: self.direction,
            transport: self.transport,
            local: self.ends.local(),
            remote: self.ends.remote(),
            mapped: self.ends.mapped,
            device: devices.named(self.netns, self.device),
            netns: NetNs(self.netns),
            source: self.source,
            born: self.born,
            kernel_socket: self.kernel,
            owner: self.owner.clone(),
            listener: self.listener.as_ref().map(|listener| (**listener).clone()),
            begun: self.begun,
            established: known(self.established),
        }
    }
}

/// A time that is known.
pub(super) fn known(at: BootNs) -> Option<BootNs> {
    (at.0 != 0).then_some(at)
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A connection that lives, at this place.
    Live(u32),
    /// One that ended.
    Ended {
        /// Its number.
        id: u64,
        /// It was reported as never accepted, but may still be accepted.
        acceptable: bool,
    },
    /// Nothing.
    Unknown,
}

/// Marks an index entry as ended; the rest is the connection's number.
const ENDED: u64 = 1 << 63;
/// With [`ENDED`]: see [`Found::Ended`].
const ACCEPTABLE: u64 = 1 << 62;
const ID: u64 = ACCEPTABLE - 1;

/// Most connections that are remembered by address and by ends, see [`Store::find`].
const ALIASES_MAX: usize = 16_384;

/// Most connections that wait to be asked for by [`Store::take_forgotten`].
const FORGOTTEN_MAX: usize = 1024;

/// The slab of living connections with its index.
#[derive(Debug)]
pub(super) struct Store {
    index: IntMap<u64, u64>,
    /// The places of connections by their numbers.
    by_id: IntMap<u64, u32>,
    slab: Vec<Option<Conn>>,
    free: Vec<u32>,
    ended: VecDeque<(u64, u64)>,
    aliases: IntMap<(u32, Ends), u64>,
    /// Of a snapshot, by network namespace and ends: connections whose records have another key than the snapshot.
    renamed: IntMap<(u32, Ends), u64>,
    hand: u32,
    /// Connections that were taken out without an end, since somebody asked.
    forgotten: Vec<Conn>,
    max: usize,
    max_ended: usize,
}

impl Store {
    pub(super) fn new(max: usize, max_ended: usize) -> Self {
        Self {
            index: IntMap::default(),
            by_id: IntMap::default(),
            slab: Vec::new(),
            free: Vec::new(),
            ended: VecDeque::new(),
            aliases: IntMap::default(),
            renamed: IntMap::default(),
            hand: 0,
            forgotten: Vec::new(),
            max: max.clamp(1, u32::MAX as usize),
            max_ended,
        }
    }

    pub(super) fn live(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    #[cfg(test)]
    pub(super) fn indexed(&self) -> usize {
        self.index.len()
    }

    /// The connection of this socket.
    ///
    /// A socket may be seen under its address first (a kprobe or a system call on a socket whose cookie nobody had
    /// asked for, see `Sock::key`) and under its cookie later. Such connections are also found by their ends.
    #[inline]
    pub(super) fn find(&mut self, sock: &Sock) -> Found {
        match self.find_key(sock.key) {
            // The kernel gives an address again: what ended there may be an earlier socket.
            Found::Ended { .. } if self.is_renamed(sock) => self.find_renamed(sock),
            Found::Unknown if !self.aliases.is_empty() && sock.flags & SockFlags::ADDRESS_KEY == 0 => {
                self.find_alias(sock)
            }
            Found::Unknown if !self.renamed.is_empty() => self.find_renamed(sock),
            found => found,
        }
    }

    #[cold]
    fn find_alias(&mut self, sock: &Sock) -> Found {
        let Some(address) = self.aliases.remove(&(sock.netns, Ends::of(sock))) else { return Found::Unknown };
        let Some(value) = self.index.remove(&address) else { return Found::Unknown };
        self.index.insert(sock.key, value);
        if value & ENDED != 0 {
            self.remember(sock.key, value & ID);
            return Found::Ended { id: value & ID, acceptable: value & ACCEPTABLE != 0 };
        }
        let place = value as u32;
        if let Some(conn) = self.get_mut(place) {
            conn.key = sock.key;
        }
        Found::Live(place)
    }

    fn is_renamed(&self, sock: &Sock) -> bool {
        sock.flags & SockFlags::ADDRESS_KEY != 0
            && !self.renamed.is_empty()
            && self.renamed.contains_key(&(sock.netns, Ends::of(sock)))
    }

    #[cold]
    fn find_renamed(&mut self, sock: &Sock) -> Found {
        let ends = (sock.netns, Ends::of(sock));
        let Some(key) = self.renamed.remove(&ends) else { return Found::Unknown };
        match self.index.remove(&key) {
            Some(value) if value & ENDED == 0 => {
                self.index.insert(sock.key, value);
                let place = value as u32;
                if let Some(conn) = self.get_mut(place) {
                    conn.key = sock.key;
                }
                Found::Live(place)
            }
            _ => Found::Unknown,
        }
    }

    /// Lets a connection of a snapshot, whose records have another key, be found by its ends.
    pub(super) fn rename(&mut self, netns: u32, ends: Ends, key: u64) {
        self.renamed.insert((netns, ends), key);
    }

    /// What a key leads to.
    #[inline]
    pub(super) fn find_key(&self, key: u64) -> Found {
        match self.index.get(&key) {
            Some(&value) if value & ENDED == 0 => Found::Live(value as u32),
            Some(&value) => Found::Ended { id: value & ID, acceptable: value & ACCEPTABLE != 0 },
            None => Found::Unknown,
        }
    }

    /// Every connection that lives, with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Conn)> {
        (0..).zip(&self.slab).filter_map(|(place, conn)| Some((place, conn.as_ref()?)))
    }

    /// Lets a connection that was found under the socket's address be found by its ends too.
    pub(super) fn alias(&mut self, sock: &Sock) {
        if sock.flags & SockFlags::ADDRESS_KEY != 0 && self.aliases.len() < ALIASES_MAX {
            self.aliases.insert((sock.netns, Ends::of(sock)), sock.key);
        }
    }

    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&Conn> {
        self.slab.get(place as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Conn> {
        self.slab.get_mut(place as usize)?.as_mut()
    }

    /// The connection at this place, if it is still the one with this number.
    pub(super) fn get_same(&mut self, place: u32, id: u64) -> Option<&mut Conn> {
        self.get_mut(place).filter(|conn| conn.id == id)
    }

    /// Whether the next insertion needs an eviction, and of which place. It goes round the slab, so what it evicts is
    /// about the oldest.
    pub(super) fn eviction_candidate(&mut self) -> Option<u32> {
        if self.live() < self.max {
            return None;
        }
        self.hand = if self.hand as usize + 1 < self.slab.len() { self.hand + 1 } else { 0 };
        Some(self.hand)
    }

    /// Whether the next insertion needs an eviction.
    pub(super) fn is_full(&self) -> bool {
        self.live() >= self.max
    }

    /// Adds a connection; its key leads to it from now on.
    pub(super) fn insert(&mut self, conn: Conn) -> u32 {
        let (key, id) = (conn.key, conn.id);
        let place = if let Some(place) = self.free.pop() {
            self.slab[place as usize] = Some(conn);
            place
        } else {
            self.slab.push(Some(conn));
            (self.slab.len() - 1) as u32
        };
        self.index.insert(key, u64::from(place));
        self.by_id.insert(id, place);
        place
    }

    /// Takes a connection out and forgets its key.
    pub(super) fn forget(&mut self, place: u32) -> Option<Conn> {
        let conn = self.slab.get_mut(place as usize)?.take()?;
        self.free.push(place);
        self.index.remove(&conn.key);
        self.by_id.remove(&conn.id);
        if self.forgotten.len() < FORGOTTEN_MAX {
            self.forgotten.push(conn.clone());
        }
        Some(conn)
    }

    /// The connection with this number.
    pub(super) fn by_id(&self, id: u64) -> Option<&Conn> {
        self.get(*self.by_id.get(&id)?)
    }

    /// The connections that were taken out without an end since the last call.
    pub(super) fn take_forgotten(&mut self) -> Vec<Conn> {
        std::mem::take(&mut self.forgotten)
    }

    /// Takes a connection out and remembers that it ended.
    pub(super) fn end(&mut self, place: u32, acceptable: bool) -> Option<Conn> {
        let conn = self.slab.get_mut(place as usize)?.take()?;
        self.free.push(place);
        self.by_id.remove(&conn.id);
        self.mark_ended(conn.key, conn.id, acceptable);
        Some(conn)
    }

    /// Remembers that the connection of this key ended.
    pub(super) fn mark_ended(&mut self, key: u64, id: u64, acceptable: bool) {
        let value = ENDED | (id & ID) | if acceptable { ACCEPTABLE } else { 0 };
        let again = self.index.insert(key, value).is_some_and(|old| old & !ACCEPTABLE == value & !ACCEPTABLE);
        if !again {
            self.remember(key, id);
        }
    }

    fn remember(&mut self, key: u64, id: u64) {
        self.ended.push_back((key, id));
        while self.ended.len() > self.max_ended {
            let Some((key, id)) = self.ended.pop_front() else { break };
            // The key may have begun a new connection meanwhile.
            if self.index.get(&key).is_some_and(|&value| value & ENDED != 0 && value & ID == id) {
                self.index.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million connections are within 200 MB.
    #[test]
    fn a_connection_is_small() {
        let size = size_of::<Option<Conn>>();
        assert!(size <= 176, "{size} bytes");
    }
}
