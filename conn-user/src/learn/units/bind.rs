//! `SocketBindAllow=` and `SocketBindDeny=`: systemd.resource-control(5).

use std::collections::BTreeMap;

use super::cite::{Cite, Merged};
use crate::process::unit_files::Unit;

/// More assignments of one sort systemd does not take (the manual).
const MOST: usize = 128;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Its name in filters and in unit files.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Addresses that a rule is about, as far as TCP is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    /// `None`: of both.
    family: Option<Family>,
    /// First and last port; `None`: every one.
    ports: Option<(u16, u16)>,
}

/// Both lists of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Binds {
    /// What may be bound to whatever is denied. `None`: a rule that is about UDP alone.
    pub(super) allow: Merged<Option<Bind>>,
    /// What else may not.
    pub(super) deny: Merged<Option<Bind>>,
}

/// Listeners that a unit may not have: words of a filter, which part of the rule's id, and the filters of what is
/// allowed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forbidden {
    /// `None`: of both families.
    pub(super) family: Option<Family>,
    /// E.g. `family:ipv4 lport:1-1023`; empty: every listener.
    pub(super) words: String,
    /// E.g. `lport:80`.
    pub(super) except: Vec<String>,
}

impl Binds {
    /// Takes an assignment; false: it is none of these.
    pub(super) fn assign(&mut self, unit: &Unit, cite: &Cite, key: &str, value: &str) -> bool {
        let list = match key {
            "SocketBindAllow" => &mut self.allow,
            "SocketBindDeny" => &mut self.deny,
            _ => return false,
        };
        if list.items.len() >= MOST && !value.is_empty() {
            list.ignored.push((cite.clone(), format!("systemd takes {MOST} of them at most")));
        } else {
            list.assign(unit, cite, value, |value| vec![parse(value)]);
        }
        true
    }

    /// What is denied, by family, with what is allowed of it. Empty: nothing is.
    pub(super) fn forbidden(&self) -> Vec<Forbidden> {
        let of =
            |list: &Merged<Option<Bind>>| list.items.iter().filter_map(|(bind, _)| *bind).collect::<Vec<_>>();
        let (allow, deny) = (by_family(&of(&self.allow)), by_family(&of(&self.deny)));
        let everything = |ports: Option<&Ports>| ports.is_some_and(Option::is_none);
        if everything(allow.get(&None)) {
            return Vec::new();
        }
        let of_all = deny.get(&None);
        // What is denied of both families need not be said of one again.
        let reported = deny.iter().filter(|(family, _)| family.is_none() || !everything(of_all));
        reported
            .filter(|(family, _)| !(family.is_some() && everything(allow.get(family))))
            .map(|(family, ports)| Forbidden {
                family: *family,
                words: words(*family, ports),
                except: allow
                    .iter()
                    .filter(|(allowed, _)| family.is_none() || allowed.is_none() || *allowed == family)
                    .map(|(allowed, ports)| words(*allowed, ports))
                    .collect(),
            })
            .collect()
    }
}

/// `None`: every port.
type Ports = Option<Vec<(u16, u16)>>;

fn by_family(binds: &[Bind]) -> BTreeMap<Option<Family>, Ports> {
    let mut found = BTreeMap::<Option<Family>, Ports>::new();
    for bind in binds {
        let ports = found.entry(bind.family).or_insert_with(|| Some(Vec::new()));
        match bind.ports {
            None => *ports = None,
            Some(range) => {
                if let Some(ports) = ports
                    && !ports.contains(&range)
                {
                    ports.push(range);
                }
            }
        }
    }
    found
}

fn words(family: Option<Family>, ports: &Ports) -> String {
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let family = family.map(|family| format!("family:{}", family.name()));
    let ports = ports
        .as_ref()
        .map(|ports| format!("lport:{}", ports.iter().map(range).collect::<Vec<_>>().join(",")));
    family.into_iter().chain(ports).collect::<Vec<_>>().join(" ")
}

/// Reads a rule: `[ipv4:|ipv6:][tcp:|udp:][PORT|PORT-PORT]`, with at least one of them, or `any`.
fn parse(value: &str) -> Result<Option<Bind>, String> {
    let wrong = || format!("systemd ignores {value}, which is no bind rule");
    let every = Bind { family: None, ports: None };
    if value == "any" {
        return Ok(Some(every));
    }
    let (mut bind, mut tcp) = (every, true);
    let mut parts = value.split(':').peekable();
    if let Some(family) = parts.next_if(|part| matches!(*part, "ipv4" | "ipv6")) {
        bind.family = Some(if family == "ipv4" { Family::V4 } else { Family::V6 });
    }
    if let Some(protocol) = parts.next_if(|part| matches!(*part, "tcp" | "udp")) {
        tcp = protocol == "tcp";
    }
    if let Some(ports) = parts.next() {
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(wrong());
        }
        bind.ports = Some((first, last));
    }
    if parts.next().is_some() { Err(wrong()) } else { Ok(tcp.then_some(bind)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{cite, testing::unit};
    use super::*;

    fn binds(text: &str) -> Binds {
        let unit = unit("a@80.service", text);
        let mut binds = Binds::default();
        for (cite, key, value) in cite::of_section(&unit, "Service") {
            binds.assign(&unit, &cite, key, value);
        }
        binds
    }

    /// Each as `words | except | except`.
    fn forbidden(text: &str) -> Vec<String> {
        let shown = |one: Forbidden| [vec![one.words], one.except].concat().join(" | ");
        binds(text).forbidden().into_iter().map(shown).collect()
    }

    /// The examples of the manual.
    #[test]
    fn the_examples_of_the_manual() {
        assert_eq!(
            forbidden("SocketBindAllow=ipv6:10000-65535\nSocketBindDeny=any"),
            [" | family:ipv6 lport:10000-65535"]
        );
        assert_eq!(
            forbidden("SocketBindAllow=1234\nSocketBindAllow=4321\nSocketBindDeny=any"),
            [" | lport:1234,4321"]
        );
        assert_eq!(forbidden("SocketBindDeny=ipv6"), ["family:ipv6"]);
        assert_eq!(forbidden("SocketBindDeny=any"), [""]);
        assert_eq!(forbidden("SocketBindAllow=tcp\nSocketBindDeny=any"), [""; 0]);
        assert_eq!(forbidden("SocketBindAllow=ipv6:tcp\nSocketBindDeny=any"), [" | family:ipv6"]);
        assert_eq!(forbidden("SocketBindAllow=ipv4:udp:10000-65535\nSocketBindDeny=any"), [""]);
    }

    #[test]
    fn families_apart() {
        assert_eq!(
            forbidden(
                "SocketBindDeny=tcp:1-1023\nSocketBindDeny=ipv4:tcp:8080\nSocketBindDeny=udp\nSocketBindAllow=%i"
            ),
            ["lport:1-1023 | lport:80", "family:ipv4 lport:8080 | lport:80"]
        );
        assert_eq!(forbidden("SocketBindDeny=ipv4:22\nSocketBindAllow=ipv4:tcp"), [""; 0]);
        assert_eq!(forbidden("SocketBindDeny=ipv4:22\nSocketBindAllow=ipv6:tcp"), ["family:ipv4 lport:22"]);
    }

    #[test]
    fn an_empty_one_resets_and_wrong_ones_are_reported() {
        assert_eq!(forbidden("SocketBindDeny=any\nSocketBindDeny=\nSocketBindDeny=tcp:22"), ["lport:22"]);
        for wrong in [
            "0",
            "70000",
            "9-8",
            "sctp",
            "ipv4:any",
            "tcp:ipv4",
            "1:2",
            "+1",
            "ipv4:",
            "tcp:1-",
            "ipv4:tcp:1:2",
        ] {
            let binds = binds(&format!("SocketBindDeny={wrong}"));
            assert!(binds.deny.items.is_empty() && binds.deny.ignored.len() == 1, "{wrong}");
        }
        assert_eq!(binds("SocketBindDeny=%H").deny.unknown.len(), 1);
    }

    proptest! {
        #[test]
        fn any_value(value in "(ipv4|ipv6|tcp|udp|any|:|-|[0-9]{1,5}|.){0,6}") {
            let _ = binds(&format!("SocketBindDeny={value}\nSocketBindAllow={value}")).forbidden();
        }
    }
}
