//! The zones of this host: its own addresses, and the networks of its container bridges. Read with the rules, at the start and whenever
//! they are loaded again.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::filter::names::{Names, Zone};
use crate::host::interfaces::{self, Interface};

/// The zone of this host's own addresses, but those of loopback.
pub const HOST: &str = "host";
/// The zone of the networks behind bridges of this host that lead to no wire: Docker's, Podman's, CNI's, libvirt's, LXC's.
pub const CONTAINERS: &str = "containers";

/// What is particular about this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its addresses.
    addresses: Vec<IpNet>,
    /// The networks behind its bridges.
    containers: Vec<IpNet>,
    /// What could not be read.
    notes: Vec<String>,
}

impl Host {
    /// That of the network namespace of this thread. What cannot be read is a note.
    pub fn read() -> Self {
        match interfaces::read() {
            Ok(found) => Self::of(found.values()),
            Err(error) => {
                let note = format!("the zones `{HOST}` and `{CONTAINERS}` are empty: {error}");
                Self { notes: vec![note], ..Self::default() }
            }
        }
    }

    fn of<'a>(found: impl Iterator<Item = &'a Interface>) -> Self {
        let mut host = Self::default();
        for interface in found {
            for net in interface.addresses.iter().filter(|net| !net.addr().is_loopback()) {
                host.addresses.push(IpNet::from(net.addr()));
                // fe80::/64 is behind every interface.
                if interface.inner_bridge && !is_link_local(net.addr()) {
                    host.containers.push(net.trunc());
                }
            }
        }
        host
    }

    /// What could not be read, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds the zones, which may be empty.
    pub(super) fn name_in(&self, names: &mut Names) {
        for (name, nets) in [(HOST, &self.addresses), (CONTAINERS, &self.containers)] {
            // These two are names.
            let _ = names.set_zone(name, Zone::In(nets.as_slice().into()));
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_a_host_with_a_bridge() {
        let interface = |nets: &[&str], inner_bridge| Interface {
            addresses: nets.iter().map(|net| net.parse().expect("a network")).collect(),
            inner_bridge,
        };
        let host = Host::of(
            [
                interface(&["127.0.0.1/8", "::1/128"], false),
                interface(&["10.0.0.5/24", "fe80::1/64"], false),
                interface(&["172.17.0.1/16", "fe80::2/64"], true),
            ]
            .iter(),
        );
        let mut names = Names::builtin().clone();
        host.name_in(&mut names);
        let zone = |ip: &str| names.zone_of(ip.parse().expect("an address"));
        assert_eq!(zone("127.0.0.1"), "loopback");
        assert_eq!(zone("10.0.0.5"), HOST);
        assert_eq!(zone("10.0.0.6"), "rfc1918");
        assert_eq!(zone("172.17.0.1"), HOST);
        assert_eq!(zone("172.17.0.2"), CONTAINERS);
        assert_eq!(zone("fe80::3"), "link-local");
    }

    #[test]
    fn without_anything_the_zones_are_there_and_empty() {
        let mut names = Names::builtin().clone();
        Host::default().name_in(&mut names);
        assert!(names.zone(HOST).is_some() && names.zone(CONTAINERS).is_some());
        assert_eq!(names.zone_of("10.0.0.1".parse().expect("an address")), "rfc1918");
    }
}
