//! How far a use of the network reaches, as far as two findings are compared: one about loopback never hides one about an outer
//! host.

use std::net::IpAddr;

use super::detector::{connection, listener};
use crate::event::model::Event;
use crate::filter::names::Names;

/// How far a use of the network reaches, from this host outwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// It listens.
    Listener,
    /// To or from this machine.
    Loopback,
    /// To or from the zone `internal`.
    Internal,
    /// Elsewhere.
    External,
}

impl Reach {
    /// Of a connection with this host.
    pub(super) fn of_peer(ip: IpAddr, names: &Names) -> Self {
        if ip.is_loopback() || names.is_in("loopback", ip) {
            Self::Loopback
        } else if names.is_in("internal", ip) {
            Self::Internal
        } else {
            Self::External
        }
    }

    /// Of what an event is about, with its network namespace.
    pub(super) fn of(event: &Event, names: &Names) -> Option<(Self, u32)> {
        if let Some(conn) = connection(event) {
            return Some((Self::of_peer(conn.remote.ip(), names), conn.netns.0));
        }
        listener(event).map(|listener| (Self::Listener, listener.netns.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zones_decide() {
        let names = Names::builtin();
        for (ip, reach) in [
            ("127.0.0.1", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("10.0.0.9", Reach::Internal),
            ("fe80::1", Reach::Internal),
            ("203.0.113.9", Reach::External),
            ("2001:db8::9", Reach::External),
        ] {
            assert_eq!(Reach::of_peer(ip.parse().expect("an address"), names), reach, "{ip}");
        }
    }
}
