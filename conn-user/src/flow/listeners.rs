//! The listener table: who listens, by network namespace, port and address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::born::Born;
use super::devices::Devices;
use super::model::{Actor, ConnId, ListenEvent, Scope, Source, Transport};
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, NetNs};

/// What narrows a listener: a [`Scope`] by the index of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Narrows {
    /// Index of the interface that it is bound to, 0: none.
    pub(super) device: u32,
    pub(super) v6only: bool,
}

/// A listening socket.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) id: u64,
    pub(super) key: u64,
    pub(super) netns: u32,
    pub(super) addr: IpAddr,
    /// 0: not known yet.
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) since: BootNs,
    pub(super) source: Source,
    /// Since when it listens, if it did before it was seen.
    pub(super) born: Option<Born>,
    /// The kernel's own socket.
    pub(super) kernel: bool,
    pub(super) owner: Arc<Actor>,
    /// What narrows it; `None`: not known.
    pub(super) narrows: Option<Narrows>,
    /// Its listen event is out.
    pub(super) reported: bool,
}

impl Listener {
    pub(super) fn event(&self, devices: &Devices) -> ListenEvent {
        ListenEvent {
            id: ConnId(self.id),
            transport: self.transport,
            local: self.local(),
            netns: NetNs(self.netns),
            source: self.source,
            born: self.born,
            kernel_socket: self.kernel,
            owner: (*self.owner).clone(),
            // Reported by the station that knows the files of systemd.
            socket_unit: None,
            scope: self.narrows.map(|Narrows { device, v6only }| Scope {
                device: devices.named(self.netns, device),
                v6only,
            }),
        }
    }

    pub(super) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }

    fn owned_by(&self, process: &ProcessInfo) -> bool {
        self.owner.process.as_ref().is_some_and(|owner| owner.is_same(process))
    }

    /// How well the listener fits a connection to this address whose socket is bound to this interface. An accepted socket is bound
    /// where its listener is; one of a listener that is not may be, too (link-local addresses, VRF: `inet_request_bound_dev_if`,
    /// `tcp_v6_init_req`).
    fn fit(&self, addr: IpAddr, device: u32) -> u8 {
        let own = self.narrows.unwrap_or_default();
        if own.device != 0 && own.device != device {
            return 0;
        }
        // The address comes first (`__inet_lookup_listener`).
        match fit(self.addr, own.v6only, addr) {
            0 => 0,
            by_address => 2 * by_address + u8::from(own.device != 0),
        }
    }
}

/// How well a listener on address `own` fits a connection to `addr`, 0 for not at all: the kernel prefers the narrower
/// (`compute_score`, net/ipv4/inet_hashtables.c).
pub(super) fn fit(own: IpAddr, v6only: bool, addr: IpAddr) -> u8 {
    match (own, addr) {
        (own, other) if own == other && !own.is_unspecified() => 3,
        (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => 2,
        (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => 2,
        // Dual stack: `::` takes IPv4 too.
        (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && !v6only => 1,
        _ => 0,
    }
}

/// Who listens for a connection.
#[derive(Clone, Debug)]
pub(super) enum Owners {
    /// Nobody that is known.
    None,
    /// One process.
    One(Arc<Actor>),
    /// Several (SO_REUSEPORT), none of them asked for.
    Several,
}

/// All listeners that are known, and who made them listen.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_key: IntMap<u64, Listener>,
    by_port: IntMap<(u32, u16), Vec<u64>>,
}

impl Listeners {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get(&self, key: u64) -> Option<&Listener> {
        self.by_key.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Listener> {
        self.by_key.get_mut(&key)
    }

    pub(super) fn insert(&mut self, listener: Listener) {
        self.index(&listener);
        self.by_key.insert(listener.key, listener);
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Listener> {
        let listener = self.by_key.remove(&key)?;
        let place = (listener.netns, listener.port);
        if let Some(keys) = self.by_port.get_mut(&place) {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                self.by_port.remove(&place);
            }
        }
        Some(listener)
    }

    /// Gives the one listener of a snapshot at this address the key that its records have.
    pub(super) fn adopt(&mut self, netns: u32, local: SocketAddr, key: u64) {
        if self.by_key.contains_key(&key) {
            return;
        }
        let Some(keys) = self.by_port.get(&(netns, local.port())) else { return };
        let mut fits = keys.iter().filter_map(|key| self.by_key.get(key)).filter(|listener| {
            matches!(listener.source, Source::Snapshot | Source::Resync) && listener.addr == local.ip()
        });
        let (Some(old), None) = (fits.next().map(|listener| listener.key), fits.next()) else { return };
        if let Some(listener) = self.remove(old) {
            self.insert(Listener { key, ..listener });
        }
    }

    /// Whether there is a listener at exactly this address.
    pub(super) fn is_at(&self, netns: u32, local: SocketAddr) -> bool {
        self.by_port.get(&(netns, local.port())).is_some_and(|keys| {
            keys.iter().filter_map(|key| self.by_key.get(key)).any(|listener| listener.addr == local.ip())
        })
    }

    /// Every listener.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.by_key.values()
    }

    /// The port of an auto-bound listener became known, and perhaps its address.
    pub(super) fn settle(&mut self, key: u64, local: SocketAddr) {
        if let Some(mut listener) = self.remove(key) {
            listener.port = local.port();
            if !local.ip().is_unspecified() {
                listener.addr = local.ip();
            }
            self.insert(listener);
        }
    }

    fn index(&mut self, listener: &Listener) {
        self.by_port.entry((listener.netns, listener.port)).or_default().push(listener.key);
    }

    /// Who listens for a connection to this end whose socket is bound to this interface (0: to none). `prefer` is chosen where it is one
    /// of several.
    pub(super) fn owners(
        &self,
        netns: u32,
        local: SocketAddr,
        device: u32,
        prefer: Option<&ProcessInfo>,
    ) -> Owners {
        let Some(keys) = self.by_port.get(&(netns, local.port())) else { return Owners::None };
        let mut best = 0;
        let mut found: Option<&Listener> = None;
        let mut several = false;
        let mut preferred = false;
        for listener in keys.iter().filter_map(|key| self.by_key.get(key)) {
            let fit = listener.fit(local.ip(), device);
            if fit == 0 || fit < best {
                continue;
            }
            let wanted = prefer.is_some_and(|process| listener.owned_by(process));
            match found {
                Some(other) if fit == best => {
                    if preferred {
                        continue;
                    }
                    several |= match &other.owner.process {
                        Some(process) => !listener.owned_by(process),
                        None => true,
                    };
                }
                _ => several = false,
            }
            if fit > best || wanted || found.is_none() {
                found = Some(listener);
                preferred = wanted;
            }
            best = fit;
        }
        match found {
            None => Owners::None,
            Some(_) if several && !preferred => Owners::Several,
            Some(listener) => Owners::One(Arc::clone(&listener.owner)),
        }
    }

    /// The one listener of this process whose port is not known and which a connection to this end could reach.
    pub(super) fn portless_of(
        &self,
        netns: u32,
        (local, device): (IpAddr, u32),
        process: &ProcessInfo,
    ) -> Option<u64> {
        let keys = self.by_port.get(&(netns, 0))?;
        let mut fits = keys
            .iter()
            .filter_map(|key| self.by_key.get(key))
            .filter(|listener| listener.owned_by(process) && listener.fit(local, device) > 0);
        match (fits.next(), fits.next()) {
            (Some(one), None) => Some(one.key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::model::Method;
    use crate::process::testing::{FakeProc, task};

    fn process(pid: u32) -> Arc<ProcessInfo> {
        FakeProc::default().table().resolve(&task(pid, 5, "p"), BootNs(0))
    }

    fn listener(key: u64, addr: &str, pid: u32) -> Listener {
        let local: SocketAddr = addr.parse().expect("address");
        Listener {
            id: key,
            key,
            netns: 1,
            addr: local.ip(),
            port: local.port(),
            transport: Transport::Tcp,
            since: BootNs(0),
            source: Source::Live,
            born: None,
            kernel: false,
            owner: Arc::new(Actor { process: Some(process(pid)), tid: None, method: Method::Listener }),
            narrows: None,
            reported: true,
        }
    }

    fn table(all: &[(&str, u32)]) -> Listeners {
        let mut table = Listeners::default();
        for (key, &(addr, pid)) in (1..).zip(all) {
            table.insert(listener(key, addr, pid));
        }
        table
    }

    fn owner(table: &Listeners, netns: u32, local: &str, prefer: Option<u32>) -> Option<u32> {
        owner_over(table, (netns, local, 0), prefer)
    }

    fn owner_over(
        table: &Listeners,
        (netns, local, device): (u32, &str, u32),
        prefer: Option<u32>,
    ) -> Option<u32> {
        let prefer = prefer.map(process);
        match table.owners(netns, local.parse().expect("address"), device, prefer.as_deref()) {
            Owners::None => None,
            Owners::One(actor) => actor.process.as_ref().map(|p| p.pid.0),
            Owners::Several => Some(0),
        }
    }

    #[test]
    fn narrower_wins_in_any_order() {
        let wide_first = table(&[("0.0.0.0:80", 1), ("127.0.0.1:80", 2), ("[::]:80", 3)]);
        let narrow_first = table(&[("127.0.0.1:80", 2), ("[::]:80", 3), ("0.0.0.0:80", 1)]);
        for table in [wide_first, narrow_first] {
            assert_eq!(owner(&table, 1, "127.0.0.1:80", None), Some(2));
            assert_eq!(owner(&table, 1, "10.0.0.1:80", None), Some(1));
            assert_eq!(owner(&table, 1, "[::1]:80", None), Some(3));
            assert_eq!(owner(&table, 1, "127.0.0.1:81", None), None);
            assert_eq!(owner(&table, 2, "127.0.0.1:80", None), None);
        }
    }

    #[test]
    fn dual_stack_takes_ipv4() {
        let table = table(&[("[::]:80", 3), ("[::1]:80", 4)]);
        assert_eq!(owner(&table, 1, "10.0.0.1:80", None), Some(3));
        assert_eq!(owner(&table, 1, "[::1]:80", None), Some(4));
    }

    #[test]
    fn v6only_takes_no_ipv4() {
        let mut table = Listeners::default();
        let narrows = Some(Narrows { v6only: true, ..Narrows::default() });
        table.insert(Listener { narrows, ..listener(1, "[::]:80", 3) });
        assert_eq!(owner(&table, 1, "10.0.0.1:80", None), None);
        assert_eq!(owner(&table, 1, "[2001:db8::1]:80", None), Some(3));
    }

    /// Two daemons on one port, each bound to an interface, and one that is not.
    #[test]
    fn the_interface_decides_between_listeners() {
        let bound = |key, addr, pid, device| Listener {
            narrows: Some(Narrows { device, v6only: false }),
            ..listener(key, addr, pid)
        };
        let mut table = table(&[("0.0.0.0:80", 1)]);
        table.insert(bound(2, "0.0.0.0:80", 2, 7));
        table.insert(bound(3, "0.0.0.0:80", 3, 8));
        for (device, pid) in [(7, 2), (8, 3), (9, 1), (0, 1)] {
            assert_eq!(owner_over(&table, (1, "10.0.0.1:80", device), None), Some(pid), "{device}");
        }
        // Even the process that closes it is not preferred if it listens elsewhere.
        assert_eq!(owner_over(&table, (1, "10.0.0.1:80", 7), Some(3)), Some(2));
        table.insert(listener(4, "10.0.0.1:80", 4));
        assert_eq!(owner_over(&table, (1, "10.0.0.1:80", 7), None), Some(4), "the address comes first");
    }

    #[test]
    fn several_owners_only_by_preference() {
        let table = table(&[("0.0.0.0:80", 1), ("0.0.0.0:80", 2), ("0.0.0.0:80", 2)]);
        assert_eq!(owner(&table, 1, "10.0.0.1:80", None), Some(0));
        assert_eq!(owner(&table, 1, "10.0.0.1:80", Some(1)), Some(1));
        assert_eq!(owner(&table, 1, "10.0.0.1:80", Some(2)), Some(2));
        assert_eq!(owner(&table, 1, "10.0.0.1:80", Some(9)), Some(0));
    }

    #[test]
    fn several_sockets_of_one_process_are_one_owner() {
        let table = table(&[("0.0.0.0:80", 2), ("0.0.0.0:80", 2)]);
        assert_eq!(owner(&table, 1, "10.0.0.1:80", None), Some(2));
    }

    #[test]
    fn remove_and_settle() {
        let mut table = table(&[("0.0.0.0:0", 1), ("0.0.0.0:80", 2)]);
        assert_eq!(table.portless_of(1, ("10.0.0.1".parse().expect("ip"), 0), &process(1)), Some(1));
        assert_eq!(table.portless_of(1, ("10.0.0.1".parse().expect("ip"), 0), &process(2)), None);
        table.settle(1, "0.0.0.0:4000".parse().expect("address"));
        assert_eq!(owner(&table, 1, "10.0.0.1:4000", None), Some(1));
        assert!(table.remove(1).is_some() && table.remove(1).is_none());
        assert_eq!(owner(&table, 1, "10.0.0.1:4000", None), None);
        assert_eq!((table.len(), table.by_port.len()), (1, 1));
    }
}
