//! Addresses and ports of one unit or executable, bounded: many become few.
//!
//! Each step depends only on which addresses and ports there were, never on their order, so adding is the union of
//! sets: what was learnt in two parts and joined is what would have been learnt at once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::filter::names::Names;
use crate::flow::model::canonical_ip;
use crate::rules::baseline::{Place, Ports, Seen};

/// More addresses of one /24 or /64 than this are the network.
pub(super) const ADDRESSES: usize = 8;
/// More networks than this are zones: of each address the smallest built-in one that holds it.
pub(super) const NETS: usize = 16;
/// More ports of the dynamic range than this are the whole range.
pub(super) const DYNAMIC: usize = 8;
/// More other ports than this are all ports.
pub(super) const FIXED: usize = 64;
/// The ports that the kernel gives out by itself begin here (`net.ipv4.ip_local_port_range`).
const DYNAMIC_FROM: u16 = 32_768;

/// Where something was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Address(IpAddr),
    /// A listener on all addresses of the family.
    All(IpNet),
}

impl Spot {
    /// Of an address that is listened on.
    pub(super) fn of_listener(ip: IpAddr) -> Self {
        if ip.is_unspecified() {
            return IpNet::new(ip, 0).map_or(Self::Address(ip), Self::All);
        }
        Self::Address(canonical_ip(ip).0)
    }
}

/// A /24 or /64.
#[derive(Clone, Debug, Default)]
struct Net {
    /// Empty once it is whole.
    addresses: BTreeMap<IpAddr, Seen>,
    is_whole: bool,
    /// All of it by zone, for when there are too many networks.
    zones: BTreeMap<&'static str, Seen>,
}

/// Addresses at one port.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    nets: BTreeMap<IpNet, Net>,
    /// Loopback; all, once there are too many networks.
    zones: BTreeMap<&'static str, Seen>,
    is_zones: bool,
    all: BTreeMap<IpNet, Seen>,
}

fn merge<K: Ord>(into: &mut BTreeMap<K, Seen>, key: K, seen: Seen) {
    into.entry(key).or_default().merge(seen);
}

fn net_of(ip: IpAddr) -> IpNet {
    IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).map_or(ip.into(), |net| net.trunc())
}

fn zone_of(ip: IpAddr) -> &'static str {
    Names::builtin().zone_of(ip)
}

impl Addresses {
    /// Whether adding this makes nothing new.
    fn has(&self, spot: Spot) -> bool {
        match spot {
            Spot::All(net) => self.all.contains_key(&net),
            Spot::Address(ip) => {
                self.zones.contains_key(zone_of(ip))
                    || self
                        .nets
                        .get(&net_of(ip))
                        .is_some_and(|net| net.is_whole || net.addresses.contains_key(&ip))
            }
        }
    }

    fn add(&mut self, spot: Spot, seen: Seen) {
        let ip = match spot {
            Spot::All(net) => return merge(&mut self.all, net, seen),
            Spot::Address(ip) => ip,
        };
        let zone = zone_of(ip);
        if self.is_zones || zone == "loopback" {
            return merge(&mut self.zones, zone, seen);
        }
        let net = self.nets.entry(net_of(ip)).or_default();
        merge(&mut net.zones, zone, seen.clone());
        if !net.is_whole {
            merge(&mut net.addresses, ip, seen);
        }
        self.settle();
    }

    /// Generalises what is too much.
    fn settle(&mut self) {
        for net in self.nets.values_mut() {
            net.is_whole |= net.addresses.len() > ADDRESSES;
            if net.is_whole {
                net.addresses.clear();
            }
        }
        self.is_zones |= self.nets.len() > NETS;
        if self.is_zones {
            for (zone, seen) in std::mem::take(&mut self.nets).into_values().flat_map(|net| net.zones) {
                merge(&mut self.zones, zone, seen);
            }
        }
    }

    fn join(&mut self, other: Self) {
        for (net, seen) in other.all {
            merge(&mut self.all, net, seen);
        }
        for (zone, seen) in other.zones {
            merge(&mut self.zones, zone, seen);
        }
        self.is_zones |= other.is_zones;
        for (net, other) in other.nets {
            let own = self.nets.entry(net).or_default();
            own.is_whole |= other.is_whole;
            for (zone, seen) in other.zones {
                merge(&mut own.zones, zone, seen);
            }
            for (ip, seen) in other.addresses {
                merge(&mut own.addresses, ip, seen);
            }
        }
        self.settle();
    }

    fn places(&self) -> impl Iterator<Item = (Place, Seen)> {
        let all = self.all.iter().map(|(net, seen)| (Place::Net(*net), seen.clone()));
        let zones = self.zones.iter().map(|(zone, seen)| (Place::Zone((*zone).into()), seen.clone()));
        let nets = self.nets.iter().flat_map(|(net, of)| {
            let whole = of.is_whole.then(|| {
                let mut sum = Seen::default();
                for seen in of.zones.values() {
                    sum.merge(seen.clone());
                }
                (Place::Net(*net), sum)
            });
            let each = of.addresses.iter().map(|(ip, seen)| (Place::of(*ip), seen.clone()));
            whole.into_iter().chain(each)
        });
        all.chain(zones).chain(nets)
    }
}

/// Addresses by port.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    fixed: BTreeMap<u16, Addresses>,
    dynamic: BTreeMap<u16, Addresses>,
    /// Those of all dynamic ports, once there are too many.
    all_dynamic: Option<Addresses>,
    /// Those of all ports, once there are too many.
    all: Option<Addresses>,
}

impl Paths {
    /// Whether adding this makes nothing new.
    pub(super) fn has(&self, port: u16, spot: Spot) -> bool {
        let one = |ports: &BTreeMap<u16, Addresses>| ports.get(&port).is_some_and(|of| of.has(spot));
        match (&self.all, &self.all_dynamic) {
            (Some(all), _) => all.has(spot),
            (None, Some(all)) if port >= DYNAMIC_FROM => all.has(spot),
            _ => one(&self.fixed) || one(&self.dynamic),
        }
    }

    pub(super) fn add(&mut self, port: u16, spot: Spot, seen: Seen) {
        let addresses = match (&mut self.all, &mut self.all_dynamic) {
            (Some(all), _) => all,
            (None, Some(all)) if port >= DYNAMIC_FROM => all,
            _ if port >= DYNAMIC_FROM => self.dynamic.entry(port).or_default(),
            _ => self.fixed.entry(port).or_default(),
        };
        addresses.add(spot, seen);
        if self.dynamic.len() > DYNAMIC {
            let all = self.all_dynamic.get_or_insert_default();
            for of in std::mem::take(&mut self.dynamic).into_values() {
                all.join(of);
            }
        }
        if self.fixed.len() > FIXED {
            let all = self.all.get_or_insert_default();
            let ports = std::mem::take(&mut self.fixed).into_values();
            let dynamic = std::mem::take(&mut self.dynamic).into_values().chain(self.all_dynamic.take());
            for of in ports.chain(dynamic) {
                all.join(of);
            }
        }
    }

    /// What was seen, in the order of the ports.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Ports, Place, Seen)> {
        let one = |(port, of): (&u16, _)| (Ports::one(*port), of);
        let each = self.fixed.iter().chain(&self.dynamic).map(one);
        let dynamic = self.all_dynamic.iter().map(|of| (Ports { low: DYNAMIC_FROM, high: u16::MAX }, of));
        let all = self.all.iter().map(|of| (Ports { low: 0, high: u16::MAX }, of));
        let ports: Vec<(Ports, &Addresses)> = each.chain(dynamic).chain(all).collect();
        ports.into_iter().flat_map(|(ports, of)| of.places().map(move |(place, seen)| (ports, place, seen)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::units::WallNs;

    pub(in super::super) type Added = Vec<(u16, IpAddr)>;

    fn learn(added: &Added) -> Paths {
        let mut paths = Paths::default();
        for (port, ip) in added {
            paths.add(*port, Spot::Address(*ip), Seen::once(WallNs(u64::from(*port)), ip.to_string()));
        }
        paths
    }

    fn shown(paths: &Paths) -> Vec<String> {
        let mut shown: Vec<String> = paths
            .entries()
            .map(|(ports, place, seen)| format!("{place}:{ports} {} {:?}", seen.count, seen.example))
            .collect();
        shown.sort();
        shown
    }

    fn covered(paths: &Paths, port: u16, ip: IpAddr) -> bool {
        let names = Names::builtin();
        paths.entries().any(|(ports, place, _)| ports.hold(port) && place.holds(ip, names))
    }

    fn ips(text: &str, last: std::ops::Range<u8>) -> Vec<IpAddr> {
        last.map(|last| format!("{text}{last}").parse().expect("an address")).collect()
    }

    fn places(paths: &Paths) -> Vec<String> {
        paths.entries().map(|(ports, place, _)| format!("{place}:{ports}")).collect()
    }

    #[test]
    fn many_become_few() {
        let at = |port: u16, ips: Vec<IpAddr>| ips.into_iter().map(|ip| (port, ip)).collect::<Added>();
        let own = learn(&at(443, ips("192.0.2.", 1..3)));
        assert_eq!(places(&own), ["192.0.2.1:443", "192.0.2.2:443"]);
        let limit = ADDRESSES as u8;
        assert_eq!(places(&learn(&at(443, ips("192.0.2.", 0..limit)))).len(), ADDRESSES);
        assert_eq!(places(&learn(&at(443, ips("192.0.2.", 0..limit + 1)))), ["192.0.2.0/24:443"]);
        assert_eq!(places(&learn(&at(443, ips("127.0.0.", 1..2)))), ["loopback:443"]);
        let nets: Vec<IpAddr> = (0..=NETS as u8).flat_map(|net| ips(&format!("10.0.{net}."), 1..2)).collect();
        assert_eq!(places(&learn(&at(22, nets[..NETS].to_vec()))).len(), NETS);
        assert_eq!(places(&learn(&at(22, nets.clone()))), ["rfc1918:22"]);
        let both = [nets, ips("192.0.2.", 1..2)].concat();
        assert_eq!(places(&learn(&at(22, both))), ["external:22", "rfc1918:22"]);
    }

    #[test]
    fn dynamic_ports_become_their_range() {
        let ip: IpAddr = "10.0.0.1".parse().expect("an address");
        let dynamic: Added = (0..=DYNAMIC as u16).map(|port| (40_000 + port, ip)).collect();
        assert_eq!(places(&learn(&dynamic[..DYNAMIC].to_vec())).len(), DYNAMIC);
        assert_eq!(places(&learn(&dynamic)), ["10.0.0.1:32768-65535"]);
        let fixed: Added = (0..=FIXED as u16).map(|port| (1_000 + port, ip)).collect();
        assert_eq!(places(&learn(&[dynamic, fixed].concat())), ["10.0.0.1:0-65535"]);
    }

    #[test]
    fn a_listener_on_all_addresses_is_one_entry() {
        let mut paths = Paths::default();
        for ip in ["0.0.0.0", "::", "127.0.0.1"] {
            let spot = Spot::of_listener(ip.parse().expect("an address"));
            paths.add(80, spot, Seen::once(WallNs(1), ip));
        }
        assert_eq!(places(&paths), ["0.0.0.0/0:80", "::/0:80", "loopback:80"]);
    }

    /// Ports and addresses, some of them many of a sort.
    pub(in super::super) fn added() -> impl Strategy<Value = Added> {
        let v4 = (select(vec![10_u8, 127, 169, 192]), 0_u8..2, 0_u8..12, any::<u8>())
            .prop_map(|(a, b, c, d)| IpAddr::from([a, b, c, d % 20]));
        let v6 = (0_u16..30, 0_u16..20)
            .prop_map(|(net, host)| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, host]));
        let ports = prop_oneof![select(vec![22_u16, 443]), 32_760_u16..32_790, 1_u16..90];
        proptest::collection::vec((ports, prop_oneof![v4, v6]), 0..300)
    }

    proptest! {
        #[test]
        fn what_was_learnt_covers_what_was_seen(added in added()) {
            let paths = learn(&added);
            for (port, ip) in &added {
                prop_assert!(covered(&paths, *port, *ip), "{ip} {port}: {:?}", shown(&paths));
                prop_assert!(paths.has(*port, Spot::Address(*ip)));
            }
            let count: u64 = paths.entries().map(|(_, _, seen)| seen.count).sum();
            prop_assert_eq!(count, added.len() as u64);
            prop_assert!(paths.entries().count() <= (FIXED + DYNAMIC) * (NETS * ADDRESSES + 1));
        }

        #[test]
        fn the_order_does_not_matter(added in added(), by in 0_usize..300) {
            let mut other = added.clone();
            other.reverse();
            let by = by.min(other.len());
            other.rotate_left(by);
            prop_assert_eq!(shown(&learn(&added)), shown(&learn(&other)));
        }

        /// What is known stays known: adding it again makes nothing new.
        #[test]
        fn nothing_grows_by_what_is_known(added in added()) {
            let mut paths = learn(&added);
            let before = places(&paths);
            for (port, ip) in &added {
                paths.add(*port, Spot::Address(*ip), Seen::once(WallNs(1), ""));
            }
            prop_assert_eq!(before, places(&paths));
        }
    }
}
