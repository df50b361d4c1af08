//! Since when conntrack knows a connection: `ctnetlink` (net/netfilter/nf_conntrack_netlink.c), where the time stamps are
//! on. `/proc/net/nf_conntrack` reports whole seconds only, and not every kernel has it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use rustix::net::netlink::NETFILTER;

use super::netlink::{DumpError, Netlink, attributes, port};
use crate::units::WallNs;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = 0x0101;
/// Attributes (the same file).
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TIMESTAMP: u16 = 20;
const TIMESTAMP_START: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IP_CT_TCP_FLAG_BE_LIBERAL` (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const BE_LIBERAL: u8 = 8;

/// A TCP connection that conntrack knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Both ends as the opener's socket has them: its own, the other.
    pub opener: (SocketAddr, SocketAddr),
    /// Both ends as the acceptor's socket has them: its own, the other. Differs from the opener's with NAT.
    pub acceptor: (SocketAddr, SocketAddr),
    /// When its first packet came through (`nf_conn_tstamp.start`, `ktime_get_real_ns`).
    pub start: WallNs,
    /// That was not the SYN: the connection is older than its entry (`nf_conntrack_tcp_loose`; `tcp_new` of
    /// net/netfilter/nf_conntrack_proto_tcp.c makes such an entry liberal).
    pub picked_up: bool,
}

/// Whether conntrack takes the time in the thread's network namespace. Asking the kernel when it does not would load
/// conntrack for nothing.
pub fn is_timed(proc: &Path) -> bool {
    fs::read(proc.join("sys/net/netfilter/nf_conntrack_timestamp")).is_ok_and(|text| text.starts_with(b"1"))
}

/// Reports every TCP connection that conntrack of the thread's network namespace knows with its time; after a repeated
/// dump some come twice.
///
/// # Errors
/// When the kernel refuses, or answers what cannot be read.
pub fn connections(mut each: impl FnMut(&Tracked)) -> Result<(), DumpError> {
    // `struct nfgenmsg`: any family, version 0.
    Netlink::open(NETFILTER)?.dump(
        GET,
        &[0; 4],
        || (),
        |message, _| {
            if let Some(tracked) = parse(message.get(4..)?).ok()? {
                each(&tracked);
            }
            Some(())
        },
    )
}

/// An answer that ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CutOff;

/// `None`: not TCP, or without a time.
fn parse(bytes: &[u8]) -> Result<Option<Tracked>, CutOff> {
    let (mut opener, mut reply, mut start) = (None, None, None);
    let mut picked_up = false;
    for attribute in attributes(bytes) {
        match attribute.ok_or(CutOff)? {
            (TUPLE_ORIG, value) => opener = tuple(value)?,
            (TUPLE_REPLY, value) => reply = tuple(value)?,
            (PROTOINFO, value) => picked_up = liberal(value)?,
            (TIMESTAMP, value) => {
                for attribute in attributes(value) {
                    if let (TIMESTAMP_START, value) = attribute.ok_or(CutOff)? {
                        start = value.first_chunk().map(|&bytes| WallNs(u64::from_be_bytes(bytes)));
                    }
                }
            }
            _ => {}
        }
    }
    let whole = opener.zip(reply).zip(start);
    Ok(whole.map(|((opener, acceptor), start)| Tracked { opener, acceptor, start, picked_up }))
}

/// Whether the flags say that the entry is liberal.
fn liberal(protoinfo: &[u8]) -> Result<bool, CutOff> {
    let mut liberal = false;
    for attribute in attributes(protoinfo) {
        if let (PROTOINFO_TCP, value) = attribute.ok_or(CutOff)? {
            for attribute in attributes(value) {
                // `struct nf_ct_tcp_flags`: flags, mask.
                if let (TCP_FLAGS_ORIGINAL, [flags, ..]) = attribute.ok_or(CutOff)? {
                    liberal = flags & BE_LIBERAL != 0;
                }
            }
        }
    }
    Ok(liberal)
}

/// Source and destination; `None`: not TCP.
fn tuple(bytes: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, CutOff> {
    let (mut source, mut destination) = (None, None);
    let (mut from, mut to) = (None, None);
    let mut tcp = false;
    for attribute in attributes(bytes) {
        let (kind, value) = attribute.ok_or(CutOff)?;
        for attribute in attributes(value) {
            match (kind, attribute.ok_or(CutOff)?) {
                (TUPLE_IP, (IP_V4_SRC, value)) => source = ipv4(value),
                (TUPLE_IP, (IP_V4_DST, value)) => destination = ipv4(value),
                (TUPLE_IP, (IP_V6_SRC, value)) => source = ipv6(value),
                (TUPLE_IP, (IP_V6_DST, value)) => destination = ipv6(value),
                (TUPLE_PROTO, (PROTO_NUM, value)) => tcp = value.first() == Some(&TCP),
                (TUPLE_PROTO, (PROTO_SRC_PORT, value)) => from = port(value, 0),
                (TUPLE_PROTO, (PROTO_DST_PORT, value)) => to = port(value, 0),
                _ => {}
            }
        }
    }
    let end = |ip: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(ip?, port?));
    Ok(end(source, from).zip(end(destination, to)).filter(|_| tcp))
}

fn ipv4(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<4>().map(|&bytes| Ipv4Addr::from(bytes).into())
}

fn ipv6(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<16>().map(|&bytes| Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::netlink::testing::attribute;

    fn tuple_bytes(protocol: u8, source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let (mut ip, mut proto, mut both) = (Vec::new(), Vec::new(), Vec::new());
        attribute(&mut ip, IP_V4_SRC, &source);
        attribute(&mut ip, IP_V4_DST, &destination);
        attribute(&mut proto, PROTO_NUM, &[protocol]);
        attribute(&mut proto, PROTO_SRC_PORT, &ports.0.to_be_bytes());
        attribute(&mut proto, PROTO_DST_PORT, &ports.1.to_be_bytes());
        attribute(&mut both, TUPLE_IP | 0x8000, &ip);
        attribute(&mut both, TUPLE_PROTO | 0x8000, &proto);
        both
    }

    fn entry(protocol: u8, start: Option<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let orig = tuple_bytes(protocol, [10, 0, 0, 1], [10, 0, 0, 2], (40000, 80));
        let reply = tuple_bytes(protocol, [10, 9, 9, 9], [10, 0, 0, 1], (8080, 40000));
        attribute(&mut bytes, TUPLE_ORIG | 0x8000, &orig);
        attribute(&mut bytes, TUPLE_REPLY | 0x8000, &reply);
        let (mut tcp, mut info) = (Vec::new(), Vec::new());
        attribute(&mut tcp, 1, &[3]);
        attribute(&mut tcp, TCP_FLAGS_ORIGINAL, &[if start == Some(8) { 0x0a } else { 0x02 }, 0]);
        attribute(&mut info, PROTOINFO_TCP | 0x8000, &tcp);
        attribute(&mut bytes, PROTOINFO | 0x8000, &info);
        if let Some(start) = start {
            let mut time = Vec::new();
            attribute(&mut time, TIMESTAMP_START, &start.to_be_bytes());
            attribute(&mut bytes, TIMESTAMP | 0x8000, &time);
        }
        bytes
    }

    #[test]
    fn behind_nat_each_end_has_its_own_view() {
        let tracked = parse(&entry(TCP, Some(7))).expect("whole").expect("TCP");
        let end = |text: &str| text.parse().expect("address");
        assert_eq!(tracked.opener, (end("10.0.0.1:40000"), end("10.0.0.2:80")));
        assert_eq!(tracked.acceptor, (end("10.9.9.9:8080"), end("10.0.0.1:40000")));
        assert_eq!((tracked.start, tracked.picked_up), (WallNs(7), false));
        assert!(parse(&entry(TCP, Some(8))).expect("whole").is_some_and(|tracked| tracked.picked_up));
    }

    #[test]
    fn other_protocols_and_entries_without_a_time_are_skipped() {
        assert_eq!(parse(&entry(17, Some(7))), Ok(None));
        assert_eq!(parse(&entry(TCP, None)), Ok(None));
        let whole = entry(TCP, Some(7));
        assert_eq!(parse(&whole[..whole.len() - 1]), Err(CutOff));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200, byte in any::<u8>()) {
            let _ = parse(&bytes);
            let mut nearly = entry(TCP, Some(7));
            let at = at % nearly.len();
            nearly[at] = byte;
            let _ = parse(&nearly);
        }
    }
}
