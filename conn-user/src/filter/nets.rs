//! Addresses of a word, some of them of an interface: `fe80::1%eth0` (RFC 4007).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::ranges::{IpRanges, IpSet};

/// Addresses, and addresses of sockets that are bound to an interface.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Nets {
    set: IpSet,
    /// By the name of the interface.
    over: Box<[(Box<str>, IpSet)]>,
}

/// [`Nets`] in the making.
#[derive(Debug, Default)]
pub(super) struct NetRanges {
    set: IpRanges,
    over: Vec<(Box<str>, IpRanges)>,
}

impl NetRanges {
    /// The ranges of sockets that are bound to this interface; `None`: of any socket.
    pub(super) fn of(&mut self, device: Option<&str>) -> &mut IpRanges {
        let Some(device) = device else { return &mut self.set };
        let at = self.over.iter().position(|(own, _)| **own == *device).unwrap_or_else(|| {
            self.over.push((device.into(), IpRanges::default()));
            self.over.len() - 1
        });
        &mut self.over[at].1
    }
}

impl From<NetRanges> for Nets {
    fn from(ranges: NetRanges) -> Self {
        let over = ranges.over.into_iter().map(|(device, ranges)| (device, ranges.into()));
        Self { set: ranges.set.into(), over: over.collect() }
    }
}

impl Nets {
    /// Whether an end of a socket is among them; `device` says to which interface the socket is bound.
    pub(super) fn contains<'d>(&self, ip: IpAddr, device: impl Fn() -> Option<&'d str>) -> bool {
        self.set.contains(ip)
            || (self.is_over()
                && device().is_some_and(|device| {
                    self.over.iter().any(|(own, set)| **own == *device && set.contains(ip))
                }))
    }

    /// Whether it asks for an interface.
    pub(super) fn is_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// Every address that may be among them.
    pub(super) fn all(&self) -> IpSet {
        let mut all = IpRanges::default();
        all.add_set(&self.set);
        self.over.iter().for_each(|(_, set)| all.add_set(set));
        all.into()
    }
}

/// Takes a written address or network apart: `fe80::1%eth0`, `[fe80::1%eth0]`, `[fe80::1]%eth0` (as ss writes it), `fe80::%eth0/64`
/// (as RFC 4007 does), `fe80::/64%eth0`. `None`: the interface has no possible name (`dev_valid_name`), or brackets do not match.
pub(super) fn apart(text: &str) -> Option<(Cow<'_, str>, Option<&str>)> {
    let Some((ip, rest)) = text.split_once('%') else {
        let inside = text.strip_prefix('[').and_then(|inside| inside.strip_suffix(']'));
        return Some((inside.unwrap_or(text).into(), None));
    };
    let (ip, rest) = match (ip.strip_prefix('['), rest.strip_suffix(']')) {
        (Some(ip), Some(rest)) => (ip, rest),
        (Some(ip), None) => (ip.strip_suffix(']')?, rest),
        (None, None) => (ip, rest),
        (None, Some(_)) => return None,
    };
    let (device, prefix) =
        rest.split_once('/').map_or((rest, None), |(device, prefix)| (device, Some(prefix)));
    let is_name = !device.is_empty()
        && device.len() < libc::IFNAMSIZ
        && !device.contains(|c: char| c.is_whitespace() || matches!(c, ':' | '[' | ']' | '%'));
    let ip = prefix.map_or(Cow::Borrowed(ip), |prefix| format!("{ip}/{prefix}").into());
    is_name.then_some((ip, Some(device)))
}

/// An address, with its interface where that is written, and a port: `10.0.0.1:80`, `[fe80::1%eth0]:80`, `[fe80::1]%eth0:80`.
pub(super) fn end(text: &str) -> Option<(String, u16)> {
    if !text.contains('%') {
        let end: SocketAddr = text.parse().ok()?;
        return Some((end.ip().to_string(), end.port()));
    }
    let (address, port) = text.rsplit_once(':').filter(|(address, _)| address.contains('%'))?;
    let (ip, device) = apart(address)?;
    let ip: IpAddr = ip.parse().ok()?;
    Some((format!("{ip}%{}", device?), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_written_in_several_ways() {
        for (text, ip, device) in [
            ("fe80::1", "fe80::1", None),
            ("[fe80::1]", "fe80::1", None),
            ("fe80::1%eth0", "fe80::1", Some("eth0")),
            ("[fe80::1%eth0]", "fe80::1", Some("eth0")),
            ("[fe80::1]%eth0.7", "fe80::1", Some("eth0.7")),
            ("fe80::%eth0/64", "fe80::/64", Some("eth0")),
            ("fe80::/64%eth0", "fe80::/64", Some("eth0")),
            ("internal%br-lan", "internal", Some("br-lan")),
        ] {
            assert_eq!(apart(text), Some((ip.into(), device)), "{text}");
        }
        for text in [
            "fe80::1%",
            "fe80::1%eth0]",
            "[fe80::1%eth0",
            "fe80::1%a%b",
            "fe80::1%a b",
            "::%0123456789abcdef",
        ] {
            assert_eq!(apart(text), None, "{text}");
        }
    }

    #[test]
    fn ends_have_a_port() {
        for (text, ip) in [
            ("10.0.0.1:80", "10.0.0.1"),
            ("[fe80::1]:80", "fe80::1"),
            ("[fe80::1%eth0]:80", "fe80::1%eth0"),
            ("[fe80::1]%eth0:80", "fe80::1%eth0"),
            ("0.0.0.0%eth0:80", "0.0.0.0%eth0"),
        ] {
            assert_eq!(end(text), Some((ip.to_owned(), 80)), "{text}");
        }
        for text in ["fe80::1%eth0", "fe80::1", "10.0.0.1%eth0:", "10.0.0.1%:80", "office%eth0:80"] {
            assert_eq!(end(text), None, "{text}");
        }
    }
}
