//! Both ends of a connection, compact and canonical.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use conn_common::record::{Sock, SockFlags};

use super::model::{Transport, canonical_ip};

/// `AF_INET6` (include/linux/socket.h).
pub(super) const AF_INET6: u8 = 10;

/// Addresses and ports; unspecified address or port 0: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) laddr: IpAddr,
    pub(super) raddr: IpAddr,
    pub(super) lport: u16,
    pub(super) rport: u16,
    pub(super) mapped: bool,
}

impl Ends {
    /// The canonical form: an IPv6 socket that carries IPv4 has IPv4 ends.
    pub(super) fn of(sock: &Sock) -> Self {
        let (mut laddr, local_mapped) = canonical_ip(address(sock.family, sock.laddr));
        let (mut raddr, remote_mapped) = canonical_ip(address(sock.family, sock.raddr));
        // One end is known to be IPv4 and the other not set yet: that one is IPv4 too.
        if local_mapped && raddr.is_unspecified() {
            raddr = Ipv4Addr::UNSPECIFIED.into();
        } else if remote_mapped && laddr.is_unspecified() {
            laddr = Ipv4Addr::UNSPECIFIED.into();
        }
        Self { laddr, raddr, lport: sock.lport, rport: sock.rport, mapped: local_mapped || remote_mapped }
    }

    /// Those of a listener.
    pub(super) fn of_listener(local: SocketAddr) -> Self {
        let raddr = if local.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self { laddr: local.ip(), raddr, lport: local.port(), rport: 0, mapped: false }
    }

    pub(super) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.laddr, self.lport)
    }

    pub(super) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.raddr, self.rport)
    }

    /// Whether both know a port or the remote address, and not the same: they are not of one connection.
    pub(super) fn contradict(&self, other: &Self) -> bool {
        let ports = |one: u16, other: u16| one != 0 && other != 0 && one != other;
        let addresses =
            |one: IpAddr, other: IpAddr| !one.is_unspecified() && !other.is_unspecified() && one != other;
        ports(self.lport, other.lport) || ports(self.rport, other.rport) || addresses(self.raddr, other.raddr)
    }

    /// Takes what is missing from a later record of the same connection.
    pub(super) fn complete(&mut self, later: &Self) {
        let mut whole = *later;
        whole.overwrite(self);
        *self = whole;
    }

    /// Takes everything that a later record knows.
    pub(super) fn overwrite(&mut self, later: &Self) {
        if !later.laddr.is_unspecified() {
            self.laddr = later.laddr;
            self.mapped = later.mapped;
        }
        if !later.raddr.is_unspecified() {
            self.raddr = later.raddr;
            self.mapped = later.mapped;
        }
        if later.lport != 0 {
            self.lport = later.lport;
        }
        if later.rport != 0 {
            self.rport = later.rport;
        }
    }
}

/// An address as a record carries it.
pub(super) fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET6 {
        Ipv6Addr::from(bytes).into()
    } else {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
    }
}

pub(super) fn transport(sock: &Sock) -> Transport {
    if sock.flags & SockFlags::MPTCP != 0 { Transport::Mptcp } else { Transport::Tcp }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sock(laddr: Ipv6Addr, raddr: Ipv6Addr) -> Sock {
        Sock {
            family: AF_INET6,
            laddr: laddr.octets(),
            raddr: raddr.octets(),
            lport: 1,
            rport: 2,
            ..Sock::default()
        }
    }

    #[test]
    fn mapped_becomes_ipv4() {
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        let ends = Ends::of(&sock(v4.to_ipv6_mapped(), v4.to_ipv6_mapped()));
        assert_eq!((ends.local().to_string(), ends.mapped), ("10.0.0.1:1".into(), true));
        let ends = Ends::of(&sock(Ipv6Addr::UNSPECIFIED, v4.to_ipv6_mapped()));
        assert_eq!(ends.local().to_string(), "0.0.0.0:1");
        let ends = Ends::of(&sock(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST));
        assert_eq!((ends.remote().to_string(), ends.mapped), ("[::1]:2".into(), false));
    }

    #[test]
    fn complete_keeps_and_overwrite_replaces() {
        let known = Ends::of(&sock(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED));
        let mut later = Ends::of(&sock(Ipv6Addr::from(5), Ipv6Addr::from(6)));
        later.lport = 0;
        let mut ends = known;
        ends.complete(&later);
        assert_eq!((ends.local().to_string(), ends.raddr), ("[::1]:1".into(), later.raddr));
        let mut ends = known;
        ends.overwrite(&later);
        assert_eq!((ends.laddr, ends.lport), (later.laddr, 1));
    }
}
