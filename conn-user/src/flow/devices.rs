//! Names of the interfaces that sockets are bound to.
//!
//! A record has the index alone (`skc_bound_dev_if`). Its name is that of a network namespace for a while: interfaces are renamed,
//! and the number of a namespace is used again soon (`proc_alloc_inum`). So the name is asked for when a connection or listener
//! begins, unless it was asked for just before, and its events wait for the answer.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use conn_common::record::{Sock, Task};

use super::model::{Change, FlowEvent};
use super::resolve::DeviceQuery;
use super::snapshot::model::Snapshot;
use crate::host::interfaces::Device;
use crate::process::ProcessTable;
use crate::process::hash::{IntBuild, IntMap};
use crate::units::{BootNs, DurationNs, NetNs, Pid};

/// How long a name is used for what begins without asking again.
const FRESH: DurationNs = DurationNs(1_000_000_000);
/// Most names that are remembered; beyond it all are asked for again.
const KNOWN_MAX: usize = 4096;

/// For how long look-ups may be ahead of their share of the time: a process that was just seen may be gone soon, and its namespace with
/// it.
const AHEAD: DurationNs = DurationNs(100_000_000);

/// A network namespace and an index.
type Place = (u32, u32);

/// An interface.
#[derive(Clone, Debug)]
struct Known {
    device: Arc<Device>,
    /// When its name was asked for; 0: no answer came.
    asked: BootNs,
}

/// Remembers names, and the events that wait for one.
#[derive(Debug)]
pub(super) struct Devices {
    known: IntMap<Place, Known>,
    /// What has to be asked for, and since when.
    wanted: Vec<(BootNs, DeviceQuery)>,
    waiting: VecDeque<FlowEvent>,
    /// The numbers of the connections and listeners of these events.
    held: HashSet<u64, IntBuild>,
    /// When look-ups will have taken no more than their share of the time.
    settled_at: BootNs,
    /// Most events that wait.
    max_waiting: usize,
    /// Events that did not wait for their answer: limit reached.
    released_early: u64,
}

impl Devices {
    /// Returns a memory without names, for which at most so many events wait.
    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            known: IntMap::default(),
            wanted: Vec::new(),
            waiting: VecDeque::new(),
            held: HashSet::default(),
            settled_at: BootNs(0),
            max_waiting,
            released_early: 0,
        }
    }

    /// Takes note of the interface that the socket of a beginning is bound to, if it is.
    #[inline]
    pub(super) fn seen_first(&mut self, sock: &Sock, task: &Task, at: BootNs, procs: &mut ProcessTable) {
        if sock.device != 0 {
            // The process may be gone soon; in a container its ancestors are in the same namespace.
            let pids = || {
                let process = procs.resolve(task, at);
                [process.pid].into_iter().chain(process.ancestors.iter().map(|above| above.pid)).collect()
            };
            self.seen((sock.netns, sock.device), at, true, pids);
        }
    }

    /// Takes note of the interface in a record that begins nothing.
    #[inline]
    pub(super) fn seen_later(&mut self, sock: &Sock, task: Option<&Task>, at: BootNs) {
        if sock.device != 0 {
            let pids = || task.map(|task| Pid(task.tgid)).into_iter().collect();
            self.seen((sock.netns, sock.device), at, false, pids);
        }
    }

    /// Takes note that a socket is bound to an interface. What `begins` needs a fresh name. `pids` are processes that may be in the
    /// namespace.
    fn seen(&mut self, place: Place, at: BootNs, begins: bool, pids: impl FnOnce() -> Vec<Pid>) {
        let (netns, index) = place;
        match self.known.get_mut(&place) {
            Some(known) if !begins || (known.asked.0 != 0 && at.since(known.asked) < FRESH) => return,
            Some(known) => known.asked = at,
            None => {
                self.make_room();
                self.known.insert(place, Known { device: Arc::new(Device::of_index(index)), asked: at });
            }
        }
        if !self.wanted.iter().any(|(_, query)| query.is_of(place)) {
            self.wanted.push((at, DeviceQuery { netns: NetNs(netns), index, pids: pids() }));
        }
    }

    /// Takes the names of the interfaces that the sockets of a snapshot are bound to.
    pub(super) fn found_all(&mut self, snapshot: &Snapshot) {
        for socket in &snapshot.sockets {
            if let Some(device) = &socket.device {
                self.found((socket.netns.0, socket.device_index), device, snapshot.ended);
            }
        }
    }

    fn found(&mut self, place: Place, device: &Arc<Device>, at: BootNs) {
        if !self.wanted.iter().any(|(_, query)| query.is_of(place)) {
            self.make_room();
            self.known.insert(place, Known { device: Arc::clone(device), asked: at });
        }
    }

    /// The interface with this index; `None`: 0, which is none. Without a name it has its index in the place of one.
    pub(super) fn named(&self, netns: u32, index: u32) -> Option<Arc<Device>> {
        if index == 0 {
            return None;
        }
        let known = self.known.get(&(netns, index)).map(|known| Arc::clone(&known.device));
        Some(known.unwrap_or_else(|| Arc::new(Device::of_index(index))))
    }

    /// Keeps back those of the events from `first` on whose interface is being asked for, or that follow one that waits.
    #[inline]
    pub(super) fn keep_back(&mut self, first: usize, out: &mut Vec<FlowEvent>) {
        if !self.wanted.is_empty() && first < out.len() {
            self.keep_back_some(first, out);
        }
        let waiting = self.waiting.len();
        if waiting > self.max_waiting {
            self.released_early += waiting as u64;
            self.settle([], out);
        }
    }

    #[cold]
    fn keep_back_some(&mut self, first: usize, out: &mut Vec<FlowEvent>) {
        let (known, wanted) = (&self.known, &self.wanted);
        let is_wanted = |device: &Arc<Device>| {
            let same = |query: &DeviceQuery| {
                known
                    .get(&(query.netns.0, query.index))
                    .is_some_and(|known| Arc::ptr_eq(&known.device, device))
            };
            wanted.iter().any(|(_, query)| same(query))
        };
        let held = &mut self.held;
        let waits = |event: &mut FlowEvent| {
            let id = id_of(&event.change);
            // A program may have bound its socket to another one since.
            let waits =
                device_of(&mut event.change).is_some_and(|device| is_wanted(device)) || held.contains(&id);
            if waits {
                held.insert(id);
            }
            waits
        };
        self.waiting.extend(out.extract_if(first.., waits));
    }

    /// When names have to be asked for. `None`: all are known.
    pub(super) fn due(&self) -> Option<BootNs> {
        let begin = BootNs(self.settled_at.0.saturating_sub(AHEAD.0));
        self.wanted.first().map(|(since, _)| begin.max(*since))
    }

    /// Takes note of a look-up that must be a part of the time not larger than one in `share`.
    pub(super) fn took(&mut self, now: BootNs, took: DurationNs, share: u64) {
        self.settled_at = BootNs(self.settled_at.max(now).0.saturating_add(took.0.saturating_mul(share)));
    }

    /// Events that did not wait for their answer: limit reached.
    pub(super) const fn released_early(&self) -> u64 {
        self.released_early
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What has to be asked for.
    pub(super) fn queries(&self) -> Vec<DeviceQuery> {
        self.wanted.iter().map(|(_, query)| query.clone()).collect()
    }

    /// Takes the answers to [`Self::queries`], in their order, and releases the events. What has no answer keeps the name that it had.
    pub(super) fn settle(
        &mut self,
        answers: impl IntoIterator<Item = Option<Device>>,
        out: &mut Vec<FlowEvent>,
    ) {
        let mut named: Vec<(Arc<Device>, Arc<Device>)> = Vec::new();
        let answers = answers.into_iter().chain(std::iter::repeat_with(|| None));
        for ((_, query), answer) in self.wanted.drain(..).zip(answers) {
            let Some(known) = self.known.get_mut(&(query.netns.0, query.index)) else { continue };
            match answer {
                Some(device) if device != *known.device => {
                    let before = std::mem::replace(&mut known.device, Arc::new(device));
                    named.push((before, Arc::clone(&known.device)));
                }
                Some(_) => {}
                None => known.asked = BootNs(0),
            }
        }
        self.held.clear();
        for mut event in self.waiting.drain(..) {
            if let Some(device) = device_of(&mut event.change)
                && let Some((_, name)) = named.iter().find(|(before, _)| Arc::ptr_eq(before, device))
            {
                *device = Arc::clone(name);
            }
            out.push(event);
        }
    }

    fn make_room(&mut self) {
        if self.known.len() >= KNOWN_MAX {
            let wanted = &self.wanted;
            self.known.retain(|place, _| wanted.iter().any(|(_, query)| query.is_of(*place)));
        }
    }
}

/// The number of the connection or listener.
fn id_of(change: &Change) -> u64 {
    let conn = change.connection().map(|conn| conn.id);
    conn.or_else(|| change.listener().map(|listener| listener.id)).map_or(0, |id| id.0)
}

/// The interface that the socket of an event is bound to.
fn device_of(change: &mut Change) -> Option<&mut Arc<Device>> {
    match change {
        Change::Connect(conn)
        | Change::Accept(conn)
        | Change::Established(conn)
        | Change::Failed(conn, _)
        | Change::Close(conn, _) => conn.device.as_mut(),
        Change::Listen(listener) | Change::Unlisten(listener, _) => listener.scope.as_mut()?.device.as_mut(),
    }
}
