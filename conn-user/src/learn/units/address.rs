//! `IPAddressAllow=` and `IPAddressDeny=`: systemd.resource-control(5).

use std::net::IpAddr;

use ipnet::IpNet;

use super::cite::{Cite, Merged};
use crate::process::unit_files::Unit;

/// Names for networks ("Special address/network names").
const NAMED: [(&str, [&str; 2]); 4] = [
    ("any", ["0.0.0.0/0", "::/0"]),
    ("localhost", ["127.0.0.0/8", "::1/128"]),
    ("link-local", ["169.254.0.0/16", "fe80::/64"]),
    ("multicast", ["224.0.0.0/4", "ff00::/8"]),
];

/// Both lists of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IpAccess {
    /// Who may be talked to whatever is denied.
    pub(super) allow: Merged<IpNet>,
    /// Who else may not.
    pub(super) deny: Merged<IpNet>,
}

impl IpAccess {
    /// Takes an assignment; false: it is none of these.
    pub(super) fn assign(&mut self, unit: &Unit, cite: &Cite, key: &str, value: &str) -> bool {
        match key {
            "IPAddressAllow" => self.allow.assign(unit, cite, value, networks),
            "IPAddressDeny" => self.deny.assign(unit, cite, value, networks),
            _ => return false,
        }
        true
    }

    /// Whether the unit says nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// The lists as they are with those of a slice that the unit is in: both together ("implicitly combined";
    /// `bpf_firewall_prepare_access_maps` in src/core/bpf-firewall.c).
    pub(super) fn with(&self, slice: &Self) -> Self {
        let mut both = self.clone();
        both.allow.items.extend(slice.allow.items.iter().cloned());
        both.allow.unknown.extend(slice.allow.unknown.iter().cloned());
        both.deny.items.extend(slice.deny.items.iter().cloned());
        both
    }

    /// Networks that are denied and not all allowed.
    pub(super) fn denied(&self) -> Vec<IpNet> {
        let allowed = |net: &IpNet| self.allow.items.iter().any(|(allowed, _)| allowed.contains(net));
        widest(self.deny.items.iter().map(|(net, _)| *net).filter(|net| !allowed(net)).collect())
    }

    /// Networks that are allowed of those that are denied.
    pub(super) fn allowed(&self) -> Vec<IpNet> {
        let denied = self.denied();
        let matters = |net: &IpNet| denied.iter().any(|denied| denied.contains(net));
        widest(self.allow.items.iter().map(|(net, _)| *net).filter(matters).collect())
    }
}

/// Without those that lie in others, sorted.
fn widest(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    nets.sort_unstable();
    nets.dedup();
    let all = nets.clone();
    nets.retain(|net| !all.iter().any(|other| other != net && other.contains(net)));
    nets
}

/// The networks of a value, word by word (`config_parse_in_addr_prefixes` in src/core/load-fragment.c).
fn networks(value: &str) -> Vec<Result<IpNet, String>> {
    let mut found = Vec::new();
    for word in value.split_ascii_whitespace() {
        match NAMED.iter().find(|(name, _)| *name == word) {
            Some((_, nets)) => found.extend(nets.iter().filter_map(|net| net.parse().ok()).map(Ok)),
            None => found.push(network(word)),
        }
    }
    found
}

fn network(word: &str) -> Result<IpNet, String> {
    let parsed = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
    let net = parsed.map_err(|_| format!("systemd ignores {word}, which is no address"))?.trunc();
    match net {
        // Packets of such an address are IPv4 packets, and those are looked up in the other table.
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            Err(format!("no packet has the IPv4-mapped address {word}"))
        }
        net => Ok(net),
    }
}

/// Networks as values of a filter; an address alone as such.
pub(super) fn values(nets: &[IpNet]) -> String {
    let value = |net: &IpNet| {
        if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
    };
    nets.iter().map(value).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::unit;
    use super::*;

    fn access(text: &str) -> IpAccess {
        let unit = unit("a@b.service", text);
        let mut access = IpAccess::default();
        for (cite, key, value) in super::super::cite::of_section(&unit, "Service") {
            access.assign(&unit, &cite, key, value);
        }
        access
    }

    fn denied(text: &str) -> (String, String) {
        let access = access(text);
        (values(&access.denied()), values(&access.allowed()))
    }

    #[test]
    fn names_addresses_and_prefixes() {
        assert_eq!(
            denied(
                "IPAddressDeny=any\nIPAddressAllow=localhost link-local multicast 10.1.2.3 2001:db8::1/32"
            ),
            (
                "0.0.0.0/0,::/0".to_owned(),
                "10.1.2.3,127.0.0.0/8,169.254.0.0/16,224.0.0.0/4,::1,2001:db8::/32,fe80::/64,ff00::/8"
                    .to_owned()
            )
        );
    }

    #[test]
    fn lists_add_up_and_an_empty_one_resets_its_own() {
        let (denied_now, allowed) =
            denied("IPAddressDeny=10.0.0.0/8\nIPAddressDeny=192.0.2.1\nIPAddressAllow=10.1.0.0/16");
        assert_eq!((denied_now.as_str(), allowed.as_str()), ("10.0.0.0/8,192.0.2.1", "10.1.0.0/16"));
        assert_eq!(denied("IPAddressDeny=any\nIPAddressAllow=10.0.0.1\nIPAddressDeny=").0, "");
        assert_eq!(denied("IPAddressDeny=any\nIPAddressAllow=any").0, "", "allowed wins");
        assert_eq!(denied("IPAddressDeny=10.0.0.1\nIPAddressAllow=10.0.0.0/8").0, "");
    }

    #[test]
    fn what_is_ignored_and_what_is_not_known() {
        let access = access("IPAddressDeny=10.0.0.1 nonsense ::ffff:10.0.0.2 %i\nIPAddressAllow=%H");
        assert_eq!(values(&access.denied()), "10.0.0.1");
        assert_eq!(access.deny.ignored.len(), 3, "{:?}", access.deny.ignored);
        assert_eq!(access.allow.unknown.len(), 1);
    }

    #[test]
    fn those_of_a_slice_are_combined() {
        let slice = access("IPAddressDeny=any\nIPAddressAllow=localhost");
        let both = access("IPAddressAllow=10.0.0.0/8").with(&slice);
        assert_eq!(values(&both.denied()), "0.0.0.0/0,::/0");
        assert_eq!(values(&both.allowed()), "10.0.0.0/8,127.0.0.0/8,::1");
    }

    proptest! {
        /// The kernel's rule, address by address.
        #[test]
        fn denied_is_what_is_in_deny_and_not_in_allow(
            deny in prop::collection::vec((0_u8..8, 0_u8..=32), 0..6),
            allow in prop::collection::vec((0_u8..8, 0_u8..=32), 0..6),
            address in 0_u8..8,
        ) {
            let word = |(last, length): &(u8, u8)| format!("10.0.0.{last}/{length}");
            let words = |all: &[(u8, u8)]| all.iter().map(word).collect::<Vec<_>>().join(" ");
            let access = access(&format!("IPAddressDeny={}\nIPAddressAllow={}", words(&deny), words(&allow)));
            let address: IpAddr = format!("10.0.0.{address}").parse().expect("an address");
            let has = |all: &[(u8, u8)]| {
                all.iter().any(|net| word(net).parse::<IpNet>().is_ok_and(|net| net.contains(&address)))
            };
            let in_nets = |nets: Vec<IpNet>| nets.iter().any(|net| net.contains(&address));
            prop_assert_eq!(in_nets(access.denied()) && !in_nets(access.allowed()), has(&deny) && !has(&allow));
        }

        #[test]
        fn any_value(value in "[ 0-9a-f.:/%]{0,40}|.{0,40}") {
            let access = access(&format!("IPAddressDeny={value}"));
            let _ = (access.denied(), access.allowed());
        }
    }
}
