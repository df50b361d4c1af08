//! What a filter may name: zones (sets of addresses) and lists (of values of any key).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

use super::ranges::IpSet;

/// A set of addresses that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The addresses of these networks. IPv4-mapped networks are the IPv4 networks that they are.
    In(Box<[IpNet]>),
    /// Every address outside these networks.
    NotIn(Box<[IpNet]>),
}

impl Zone {
    /// Whether the address is in it; an IPv4-mapped address is an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.set().contains(ip)
    }

    fn set(&self) -> IpSet {
        match self {
            Self::In(nets) => IpSet::of(nets),
            Self::NotIn(nets) => IpSet::of(nets).complement(),
        }
    }
}

/// A name that no zone or list can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is not made of these characters.
    #[error("`{0}` is no name: a name begins with a letter a-z and goes on with a-z, 0-9, `_` and `-`")]
    Malformed(String),
    /// [`ANY`] is every address.
    #[error("the zone `{ANY}` is every address and cannot be another one")]
    Any,
}

/// The zone of every address: what [`Names::zone_of`] says of an address that is in no other.
pub const ANY: &str = "any";

/// Zones and lists by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    zones: BTreeMap<Box<str>, Known>,
    lists: BTreeMap<Box<str>, Box<[String]>>,
}

#[derive(Clone, Debug)]
struct Known {
    zone: Zone,
    set: IpSet,
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        // The set is made from it.
        self.zone == other.zone
    }
}

const LOOPBACK: &[&str] = &["127.0.0.0/8", "::1/128"];
const LINK_LOCAL: &[&str] = &["169.254.0.0/16", "fe80::/10"];
const RFC1918: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
const ULA: &[&str] = &["fc00::/7"];
const CGNAT: &[&str] = &["100.64.0.0/10"];
/// Where clouds report virtual machines and containers who they are, with credentials: AWS, GCP, Azure and OpenStack; ECS tasks and EKS pods;
/// Azure's wire server; Alibaba; Oracle (the classic one); Google's and OpenStack's in IPv6.
const METADATA: &[&str] = &[
    "169.254.169.254/32",
    "fd00:ec2::254/128",
    "169.254.170.2/32",
    "169.254.170.23/32",
    "fd00:ec2::23/128",
    "168.63.129.16/32",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "fd20:ce::254/128",
    "fe80::a9fe:a9fe/128",
];
const MULTICAST: &[&str] = &["224.0.0.0/4", "ff00::/8"];
const UNSPECIFIED: &[&str] = &["0.0.0.0/32", "::/128"];
const EVERYTHING: &[&str] = &["0.0.0.0/0", "::/0"];

fn nets(parts: &[&[&str]]) -> Box<[IpNet]> {
    // A test parses each of these constants.
    parts.iter().copied().flatten().filter_map(|net| net.parse().ok()).collect()
}

static BUILTIN: LazyLock<Names> = LazyLock::new(|| {
    let internal = [LOOPBACK, LINK_LOCAL, RFC1918, ULA, CGNAT];
    let external = [internal.as_slice(), &[MULTICAST, UNSPECIFIED]].concat();
    let zones = [
        ("loopback", Zone::In(nets(&[LOOPBACK]))),
        ("link-local", Zone::In(nets(&[LINK_LOCAL]))),
        ("rfc1918", Zone::In(nets(&[RFC1918]))),
        ("ula", Zone::In(nets(&[ULA]))),
        ("cgnat", Zone::In(nets(&[CGNAT]))),
        ("metadata", Zone::In(nets(&[METADATA]))),
        ("multicast", Zone::In(nets(&[MULTICAST]))),
        ("internal", Zone::In(nets(&internal))),
        ("external", Zone::NotIn(nets(&external))),
        (ANY, Zone::In(nets(&[EVERYTHING]))),
    ];
    let zones = zones.into_iter().map(|(name, zone)| (name.into(), Known { set: zone.set(), zone }));
    Names { zones: zones.collect(), lists: BTreeMap::new() }
});

impl Names {
    /// What every filter may name: the zones `loopback`, `link-local`, `rfc1918`, `ula`, `cgnat`, `metadata`,
    /// `multicast`, `internal`, `external` and `any`; no lists. Clone it to add others.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// The zone with this name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.get(name).map(|known| &known.zone)
    }

    /// Its addresses, ready to be asked.
    pub(crate) fn zone_set(&self, name: &str) -> Option<&IpSet> {
        self.zones.get(name).map(|known| &known.set)
    }

    /// The values of the list with this name, as they were given.
    pub fn list(&self, name: &str) -> Option<&[String]> {
        self.lists.get(name).map(|values| &**values)
    }

    /// Adds a zone, or makes the one of that name another. `internal` and `external` do not follow what they were
    /// made of.
    ///
    /// # Errors
    /// A name that no zone can have.
    pub fn set_zone(&mut self, name: &str, zone: Zone) -> Result<(), NameError> {
        check(name)?;
        if name == ANY {
            return Err(NameError::Any);
        }
        self.zones.insert(name.into(), Known { set: zone.set(), zone });
        Ok(())
    }

    /// Adds a list, or makes the one of that name another. A value is written as in a filter: a text, a glob, a
    /// `/regular expression/`, a text in double quotes, a network, a zone, a range; blanks and commas are text here.
    /// It is read when a filter names the list: what fits depends on the key.
    ///
    /// # Errors
    /// A name that no list can have.
    pub fn set_list(&mut self, name: &str, values: Vec<String>) -> Result<(), NameError> {
        check(name)?;
        self.lists.insert(name.into(), values.into());
        Ok(())
    }

    /// Whether the address is in the zone of this name; there may be none.
    pub fn is_in(&self, name: &str, ip: IpAddr) -> bool {
        self.zones.get(name).is_some_and(|known| known.set.contains(ip))
    }

    /// Names and zones, by name.
    pub fn zones(&self) -> impl Iterator<Item = (&str, &Zone)> {
        self.zones.iter().map(|(name, known)| (&**name, &known.zone))
    }

    /// Whether both have the same zones.
    pub(crate) fn has_same_zones(&self, other: &Self) -> bool {
        self.zones == other.zones
    }

    /// Names and values of the lists, by name.
    pub fn lists(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.lists.iter().map(|(name, values)| (&**name, &**values))
    }

    /// The most specific zone of an address: of those that it is in, the one with the fewest addresses of its family
    /// (of two alike, the first by name).
    pub fn zone_of(&self, ip: IpAddr) -> &str {
        self.zones
            .iter()
            .filter(|(_, known)| known.set.contains(ip))
            .min_by_key(|(_, known)| known.set.size(ip))
            .map_or(ANY, |(name, _)| name)
    }
}

/// Whether a text can be the name of a zone or a list: `[a-z][a-z0-9_-]*`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

fn check(name: &str) -> Result<(), NameError> {
    if is_name(name) { Ok(()) } else { Err(NameError::Malformed(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn every_constant_is_a_network() {
        let all = [LOOPBACK, LINK_LOCAL, RFC1918, ULA, CGNAT, METADATA, MULTICAST, UNSPECIFIED, EVERYTHING];
        assert_eq!(nets(&all).len(), all.iter().map(|part| part.len()).sum::<usize>());
    }

    #[test]
    fn the_most_specific_zone_is_reported() {
        let mut names = Names::builtin().clone();
        for (address, zone) in [
            ("127.0.0.53", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("169.254.169.254", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("168.63.129.16", "metadata"),
            ("fe80::a9fe:a9fe", "metadata"),
            ("fd00::1", "ula"),
            ("10.1.2.3", "rfc1918"),
            ("172.31.255.255", "rfc1918"),
            ("172.32.0.0", "external"),
            ("100.64.0.1", "cgnat"),
            ("8.8.8.8", "external"),
            ("2001:db8::1", "external"),
            ("239.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("0.0.0.0", "any"),
            ("::", "any"),
        ] {
            assert_eq!(names.zone_of(ip(address)), zone, "{address}");
        }
        let office = Zone::In(["10.1.0.0/16".parse().expect("a network")].into());
        names.set_zone("office", office).expect("a name");
        assert_eq!(names.zone_of(ip("10.1.2.3")), "office");
        assert_eq!(names.zone_of(ip("10.2.2.3")), "rfc1918");
    }

    #[test]
    fn names_are_checked() {
        let mut names = Names::builtin().clone();
        for bad in ["", "A", "1a", "a b", "-a", "ä", "a@"] {
            assert!(names.set_list(bad, Vec::new()).is_err(), "{bad}");
        }
        assert_eq!(names.set_zone(ANY, Zone::In([].into())), Err(NameError::Any));
        names.set_list("admin-ports_2", vec!["22".to_owned()]).expect("a name");
        assert_eq!(names.list("admin-ports_2"), Some(&["22".to_owned()][..]));
    }

    #[test]
    fn external_is_what_is_nowhere_else() {
        let names = Names::builtin();
        for zone in ["loopback", "link-local", "rfc1918", "ula", "cgnat"] {
            let Some(Zone::In(nets)) = names.zone(zone) else { panic!("{zone}") };
            for net in nets {
                assert!(names.zone("internal").is_some_and(|zone| zone.contains(net.addr())), "{net}");
                assert!(names.zone("external").is_some_and(|zone| !zone.contains(net.addr())), "{net}");
            }
        }
    }
}
