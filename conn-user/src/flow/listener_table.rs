//! The listeners, and those that wait to be reported until their port is known.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::emitter::Emitter;
use super::limits::{FlowLimits, ListenerStats};
use super::listeners::{Listeners, Owners};
use super::model::{Actor, Change, Unlisten};
use super::resolve::PortQuery;
use super::store::{Store, known};
use crate::process::info::ProcessInfo;
use crate::units::BootNs;

/// A listener that is not reported yet.
#[derive(Clone, Debug)]
pub(super) struct HeldListen {
    /// When it is reported without its port.
    until: BootNs,
    /// When it is looked up next.
    next: BootNs,
    key: u64,
    id: u64,
    pub(super) query: PortQuery,
}

/// All listeners.
#[derive(Debug)]
pub(super) struct ListenerTable {
    pub(super) known: Listeners,
    held: VecDeque<HeldListen>,
    limits: FlowLimits,
    pub(super) stats: ListenerStats,
}

impl ListenerTable {
    pub(super) fn new(limits: FlowLimits) -> Self {
        Self { known: Listeners::default(), held: VecDeque::new(), limits, stats: ListenerStats::default() }
    }

    /// How many events wait.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// When a port has to be looked up, at the latest.
    pub(super) fn next_lookup(&self) -> Option<BootNs> {
        self.held.iter().map(|held| held.next).min()
    }

    /// Whether there is room for another listener. If not, that is counted: it is not remembered.
    pub(super) fn has_room(&mut self) -> bool {
        let has_room = self.known.len() < self.limits.listeners;
        if !has_room {
            self.stats.not_kept += 1;
        }
        has_room
    }

    /// Who listens for a connection to this end, see [`Listeners::owners`].
    pub(super) fn owners(
        &self,
        netns: u32,
        local: SocketAddr,
        device: u32,
        prefer: Option<&ProcessInfo>,
    ) -> Owners {
        self.known.owners(netns, local, device, prefer)
    }

    /// The owner of the listener, where it is one.
    pub(super) fn one_owner(
        &self,
        netns: u32,
        local: SocketAddr,
        device: u32,
        prefer: Option<&ProcessInfo>,
    ) -> Option<Arc<Actor>> {
        match self.owners(netns, local, device, prefer) {
            Owners::One(owner) => Some(owner),
            Owners::None | Owners::Several => None,
        }
    }

    /// Who listens for a connection to this end, which this process has accepted: the connection may show the port of a listener.
    pub(super) fn owners_of_accepted(
        &mut self,
        (netns, local, device): (u32, SocketAddr, u32),
        process: Option<&ProcessInfo>,
        emitter: &mut Emitter<'_>,
    ) -> Owners {
        let owners = self.owners(netns, local, device, process);
        if let (Owners::None, Some(process)) = (&owners, process)
            && let Some(key) = self.known.portless_of(netns, (local.ip(), device), process)
        {
            // Its own listener, whose port nothing has reported: the child shows it.
            let addr = self.known.get(key).map_or(local.ip(), |listener| listener.addr);
            self.settle(key, (addr, local.port()).into(), emitter);
            return self.owners(netns, local, device, Some(process));
        }
        owners
    }

    /// Holds a listener until its port is known.
    pub(super) fn hold(
        &mut self,
        key: u64,
        id: u64,
        at: BootNs,
        query: PortQuery,
        emitter: &mut Emitter<'_>,
    ) {
        self.held.push_back(HeldListen { until: self.limits.port_until(at), next: at, key, id, query });
        if self.held.len() > self.limits.held_listens()
            && let Some(oldest) = self.held.pop_front()
        {
            self.stats.released_early += 1;
            self.emit(oldest.key, emitter);
        }
    }

    /// The listeners whose port has to be looked up now.
    pub(super) fn lookups(&self, now: BootNs) -> Vec<HeldListen> {
        self.held.iter().filter(|held| held.next <= now).cloned().collect()
    }

    /// Takes the answer of a look-up.
    pub(super) fn looked_up(
        &mut self,
        held: &HeldListen,
        found: Option<SocketAddr>,
        now: BootNs,
        emitter: &mut Emitter<'_>,
    ) {
        if let Some(local) = found {
            let listener = self.known.get(held.key).filter(|listener| listener.id == held.id);
            let Some(listener) = listener else { return };
            if listener.port == 0 {
                self.known.settle(held.key, local);
            }
            self.emit(held.key, emitter);
        } else if held.until <= now {
            self.emit(held.key, emitter);
        } else if let Some(waiting) = self.held.iter_mut().find(|other| other.id == held.id) {
            // The hook runs before the kernel chooses the port and hashes the listener; it has done so long before the hold is over.
            waiting.next = waiting.until;
        }
    }

    /// The port of an auto-bound listener became known.
    pub(super) fn settle(&mut self, key: u64, local: SocketAddr, emitter: &mut Emitter<'_>) {
        self.known.settle(key, local);
        self.emit(key, emitter);
    }

    /// Reports a listener that waited for its port, with what is known now.
    fn emit(&mut self, key: u64, emitter: &mut Emitter<'_>) {
        let Some(listener) = self.known.get_mut(key).filter(|listener| !listener.reported) else {
            return;
        };
        listener.reported = true;
        let id = listener.id;
        emitter.listener(listener.since, listener, Change::Listen);
        self.held.retain(|held| held.id != id);
    }

    /// A listener ended. Its key is remembered among those of ended connections.
    pub(super) fn end(
        &mut self,
        (key, local): (u64, SocketAddr),
        closer: Actor,
        boot: BootNs,
        keys: &mut Store,
        emitter: &mut Emitter<'_>,
    ) {
        let Some(mut listener) = self.known.remove(key) else { return };
        keys.mark_ended(key, listener.id, false);
        if listener.port == 0 {
            listener.port = local.port();
        }
        if !listener.reported {
            emitter.listener(listener.since, &listener, Change::Listen);
            self.held.retain(|held| held.id != listener.id);
        }
        let duration = known(listener.since).map(|since| boot.since(since));
        emitter.listener(boot, &listener, |event| Change::Unlisten(event, Unlisten { closer, duration }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::actors::{BEFORE_ATTACH, KERNEL};
    use crate::flow::devices::Devices;
    use crate::flow::emitter::Ids;
    use crate::flow::listeners::Listener;
    use crate::flow::model::{FlowEvent, Source, Transport};
    use crate::flow::testing::{MS, text};
    use crate::units::{NetNs, Pid};

    /// The table, and what it is called with.
    struct Rig {
        table: ListenerTable,
        keys: Store,
        devices: Devices,
        ids: Ids,
        out: Vec<FlowEvent>,
    }

    impl Rig {
        fn new(limits: FlowLimits) -> Self {
            Self {
                table: ListenerTable::new(limits),
                keys: Store::new(limits.connections, limits.ended),
                devices: Devices::new(limits.held),
                ids: Ids::default(),
                out: Vec::new(),
            }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut ListenerTable, &mut Store, &mut Emitter<'_>) -> T) -> T {
            act(
                &mut self.table,
                &mut self.keys,
                &mut Emitter::new(&mut self.ids, &self.devices, &mut self.out),
            )
        }

        /// A listener at this instant whose port is not known.
        fn held(&mut self, key: u64, at: u64) {
            self.with(|table, _, emitter| {
                let id = emitter.next_id();
                table.known.insert(Listener {
                    id,
                    key,
                    netns: 1,
                    addr: [10, 0, 0, 1].into(),
                    port: 0,
                    transport: Transport::Tcp,
                    since: BootNs(at),
                    source: Source::Live,
                    born: None,
                    kernel: false,
                    owner: Arc::new(BEFORE_ATTACH),
                    narrows: None,
                    reported: false,
                });
                let query = PortQuery {
                    pid: Pid(10),
                    netns: NetNs(1),
                    cookie: key,
                    inode: 0,
                    v6: false,
                    local: None,
                    remote: None,
                };
                table.hold(key, id, BootNs(at), query, emitter);
            });
        }

        /// Answers all look-ups that are due.
        fn look_up(&mut self, now: u64, found: Option<&str>) -> Vec<String> {
            let found = found.map(|found| found.parse().expect("an address"));
            for held in self.table.lookups(BootNs(now)) {
                self.with(|table, _, emitter| table.looked_up(&held, found, BootNs(now), emitter));
            }
            self.out.drain(..).map(|event| text(&event)).collect()
        }
    }

    #[test]
    fn a_listener_is_reported_when_its_port_is_found() {
        let mut rig = Rig::new(FlowLimits::default());
        rig.held(7, 5 * MS);
        assert_eq!(rig.table.next_lookup(), Some(BootNs(5 * MS)), "at once");
        assert_eq!(
            rig.look_up(5 * MS, Some("10.0.0.1:80")),
            ["listen 1 10.0.0.1:80 by ?(Unknown(BeforeAttach))"]
        );
        assert_eq!((rig.table.held(), rig.table.next_lookup()), (0, None));
    }

    #[test]
    fn a_port_is_looked_up_twice() {
        let mut rig = Rig::new(FlowLimits::default());
        rig.held(7, 5 * MS);
        assert!(rig.look_up(5 * MS, None).is_empty());
        assert_eq!(rig.table.next_lookup(), Some(BootNs(25 * MS)));
        assert_eq!(rig.look_up(25 * MS, None), ["listen 1 10.0.0.1:0 by ?(Unknown(BeforeAttach))"]);
    }

    #[test]
    fn an_end_reports_a_listener_that_waits_and_its_key_is_remembered() {
        let mut rig = Rig::new(FlowLimits::default());
        rig.held(7, 5 * MS);
        rig.with(|table, keys, emitter| {
            let local = "10.0.0.1:80".parse().expect("an address");
            table.end((7, local), KERNEL, BootNs(6 * MS), keys, emitter);
            table.end((7, local), KERNEL, BootNs(7 * MS), keys, emitter);
        });
        assert_eq!((rig.out.len(), rig.table.held(), rig.keys.ended()), (2, 0, 1));
    }

    #[test]
    fn beyond_the_limits_listeners_are_reported_early_or_not_kept() {
        let mut rig = Rig::new(FlowLimits { held: 1, listeners: 2, ..FlowLimits::default() });
        rig.held(1, 5 * MS);
        assert!(rig.table.has_room());
        rig.held(2, 6 * MS);
        assert!(!rig.table.has_room());
        assert_eq!((rig.out.len(), rig.table.stats.released_early, rig.table.stats.not_kept), (1, 1, 1));
    }
}
