//! The TCP and MPTCP sockets of a network namespace, as `sock_diag` reports them (net/ipv4/inet_diag.c).
//!
//! The crate netlink-packet-sock-diag cannot ask for MPTCP (`INET_DIAG_REQ_PROTOCOL`), takes `mptcp_info` for `tcp_info`,
//! and reads sixty members of each where nine are used.

mod find;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::netlink::SOCK_DIAG;

pub use self::find::find;
use super::netlink::{self, DumpError, Filled, Netlink, attributes, long, port, word};

/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `IPPROTO_*` (include/uapi/linux/in.h).
const TCP: u8 = 6;
const MPTCP: u32 = 262;
/// Address families (include/linux/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Attributes of a request and of an answer (include/uapi/linux/inet_diag.h).
const REQ_PROTOCOL: u16 = 3;
const INFO: u16 = 2;
/// `idiag_ext` of a request for it.
const INFO_WANTED: u8 = 1 << (INFO - 1);
const V6ONLY: u16 = 11;
const ULP_INFO: u16 = 19;
const ULP_NAME: u16 = 1;
const ULP_MPTCP: u16 = 3;
/// `MPTCP_SUBFLOW_ATTR_TOKEN_LOC` (include/uapi/linux/mptcp.h).
const TOKEN_LOCAL: u16 = 2;
/// The eleven states that have a number in include/net/tcp_states.h and a name in ss: not `TCP_BOUND_INACTIVE`, and
/// `TCP_NEW_SYN_RECV` comes with `TCP_SYN_RECV` (`inet_diag_dump_icsk`).
const STATES: u32 = 0xffe;
/// `TCP_*` (include/net/tcp_states.h).
const SYN_SENT: u32 = 2;
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// A socket as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagSocket {
    /// The socket is `AF_INET6`.
    pub v6: bool,
    /// `TCP_*` (include/net/tcp_states.h).
    pub state: u8,
    /// Local end, as it is: an IPv4-mapped address stays IPv6.
    pub local: SocketAddr,
    /// Remote end, as it is: an IPv4-mapped address stays IPv6.
    pub remote: SocketAddr,
    /// `sock_gen_cookie`.
    pub cookie: u64,
    /// Inode of the socket's file, 0: none.
    pub inode: u32,
    /// User id.
    pub uid: u32,
    /// `idiag_rqueue`.
    pub recv_queue: u32,
    /// `idiag_wqueue`.
    pub send_queue: u32,
    /// `IPV6_V6ONLY`; reported listeners only.
    pub v6only: bool,
    /// `sk_bound_dev_if`: index of the interface that it is bound to; 0: none.
    pub device: u32,
    /// What kind of socket.
    pub kind: DiagKind,
    /// From `struct tcp_info`, where it came: not for TIME_WAIT, SYN_RECV and MPTCP.
    pub info: Option<TcpInfo>,
    /// From `struct mptcp_info`, where it came with counters (Linux 6.5 on).
    pub mptcp_info: Option<MptcpInfo>,
    /// When the answer was written.
    pub filled: Filled,
}

/// What kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagKind {
    /// TCP.
    Tcp,
    /// A TCP socket that is a subflow of an MPTCP socket.
    Subflow {
        /// `token` of the MPTCP socket, where reported.
        token: Option<u32>,
    },
    /// MPTCP.
    Mptcp {
        /// Its `token`, where reported.
        token: Option<u32>,
    },
}

/// What is used of `struct mptcp_info` (include/uapi/linux/mptcp.h). Bytes are those of the connection, not of its subflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MptcpInfo {
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Bytes sent, retransmissions not included (`mptcp_update_post_push`).
    pub bytes_sent: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
}

impl MptcpInfo {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            bytes_retrans: long(bytes, 48)?,
            bytes_sent: long(bytes, 56)?,
            bytes_received: long(bytes, 64)?,
        })
    }
}

/// What is used of `struct tcp_info` (include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Since data were last sent, in milliseconds, modulo 2^32; before the first: since the connection was established
    /// (`tcp_finish_connect`, `tcp_create_openreq_child`).
    pub last_data_sent_ms: u32,
    /// Since data were last received, in milliseconds, modulo 2^32; before the first: since the connection
    /// was established.
    pub last_data_recv_ms: u32,
    /// Smoothed round trip time, microseconds.
    pub rtt_us: u32,
    /// Segments retransmitted.
    pub total_retrans: u32,
    /// Bytes received in order; a processed FIN counts one.
    pub bytes_received: u64,
    /// Segments with data that came.
    pub data_segs_in: u32,
    /// Segments with data that were sent, retransmissions included.
    pub data_segs_out: u32,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
}

impl TcpInfo {
    /// Of Linux 4.19 on, where `bytes_retrans` came last; `None` when it is shorter.
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            last_data_sent_ms: word(bytes, 44)?,
            last_data_recv_ms: word(bytes, 52)?,
            rtt_us: word(bytes, 68)?,
            total_retrans: word(bytes, 100)?,
            bytes_received: long(bytes, 128)?,
            data_segs_in: word(bytes, 152)?,
            data_segs_out: word(bytes, 156)?,
            bytes_sent: long(bytes, 200)?,
            bytes_retrans: long(bytes, 208)?,
        })
    }
}

/// Appends what `each` makes of every TCP and MPTCP socket of the thread's network namespace, MPTCP first; a kernel
/// without MPTCP has none. Without `time_wait` the kernel leaves out what is left of ended connections. Its table changes
/// while it is walked: a socket may come twice (with one cookie), and one that shares its hash bucket with another that
/// goes away may be skipped (`inet_diag_dump_icsk` counts places).
///
/// # Errors
/// When the kernel refuses or answers what cannot be read; `out` is then incomplete.
pub fn sockets<T>(
    out: &mut Vec<T>,
    time_wait: bool,
    mut each: impl FnMut(DiagSocket) -> Option<T>,
) -> Result<(), DumpError> {
    let states = if time_wait { STATES } else { STATES & !(1 << TIME_WAIT) };
    let mut netlink = Netlink::open(SOCK_DIAG)?;
    for mptcp in [true, false] {
        for family in [AF_INET, AF_INET6] {
            let before = out.len();
            let shared = RefCell::new(&mut *out);
            let done = netlink.dump(
                BY_FAMILY,
                &request(family, mptcp, states, INFO_WANTED),
                || shared.borrow_mut().truncate(before),
                |message, filled| {
                    shared.borrow_mut().extend(each(parse(message, mptcp, filled)?));
                    Some(())
                },
            );
            match done {
                Err(error) if mptcp && error.is_absent() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Listeners of the thread's network namespace, of one family, without their counters, and with `attempts` connects without an
/// answer. The kernel walks its table and writes none of the many sockets in other states: on a machine with sixty thousand of
/// them in TIME_WAIT, `/proc/net/tcp` takes half a second. For listeners alone it walks only their own table
/// (`inet_diag_dump_icsk`).
///
/// # Errors
/// When the kernel refuses or answers what cannot be read.
pub fn listeners(v6: bool, attempts: bool) -> Result<Vec<DiagSocket>, DumpError> {
    let found = RefCell::new(Vec::new());
    let family = if v6 { AF_INET6 } else { AF_INET };
    let states = 1 << LISTEN | u32::from(attempts) << SYN_SENT;
    Netlink::open(SOCK_DIAG)?.dump(
        BY_FAMILY,
        &request(family, false, states, 0),
        || found.borrow_mut().clear(),
        |message, filled| {
            found.borrow_mut().push(parse(message, false, filled)?);
            Some(())
        },
    )?;
    Ok(found.into_inner())
}

/// Reads one buffer of the kernel's answer to a first dump, without a kernel.
///
/// # Errors
/// When the kernel refused, or the buffer cannot be read.
pub fn read_buffer(bytes: &[u8], mptcp: bool) -> Result<Vec<DiagSocket>, DumpError> {
    let mut found = Vec::new();
    netlink::read_buffer(bytes, |message, filled| {
        found.push(parse(message, mptcp, filled)?);
        Some(())
    })?;
    Ok(found)
}

/// `struct inet_diag_req_v2`, and the protocol where it does not fit in.
fn request(family: u8, mptcp: bool, states: u32, extensions: u8) -> Vec<u8> {
    let mut body = vec![0; 56];
    // A kernel that does not know the attribute looks for protocol 0, which nobody is.
    body[..3].copy_from_slice(&[family, if mptcp { 0 } else { TCP }, extensions]);
    body[4..8].copy_from_slice(&states.to_ne_bytes());
    if mptcp {
        body.extend(8_u16.to_ne_bytes());
        body.extend(REQ_PROTOCOL.to_ne_bytes());
        body.extend(MPTCP.to_ne_bytes());
    }
    body
}

/// `struct inet_diag_msg` and its attributes.
fn parse(message: &[u8], mptcp: bool, filled: Filled) -> Option<DiagSocket> {
    let (head, rest) = message.split_at_checked(MESSAGE)?;
    let v6 = match head[0] {
        AF_INET => false,
        AF_INET6 => true,
        _ => return None,
    };
    let end = |address: usize, at: usize| {
        let bytes: &[u8; 16] = head.get(address..)?.first_chunk()?;
        let ip: IpAddr = if v6 {
            Ipv6Addr::from(*bytes).into()
        } else {
            Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
        };
        Some(SocketAddr::new(ip, port(head, at)?))
    };
    let mut socket = DiagSocket {
        v6,
        state: head[1],
        local: end(8, 4)?,
        remote: end(24, 6)?,
        cookie: u64::from(word(head, 44)?) | u64::from(word(head, 48)?) << 32,
        recv_queue: word(head, 56)?,
        send_queue: word(head, 60)?,
        uid: word(head, 64)?,
        inode: word(head, 68)?,
        v6only: false,
        device: word(head, 40)?,
        kind: if mptcp { DiagKind::Mptcp { token: None } } else { DiagKind::Tcp },
        info: None,
        mptcp_info: None,
        filled,
    };
    for attribute in attributes(rest) {
        match attribute? {
            (INFO, value) if mptcp => {
                // `mptcpi_token` of `struct mptcp_info`.
                socket.kind = DiagKind::Mptcp { token: word(value, 12) };
                socket.mptcp_info = MptcpInfo::parse(value);
            }
            (INFO, value) => socket.info = TcpInfo::parse(value),
            (V6ONLY, value) => socket.v6only = value.first().is_some_and(|&only| only != 0),
            (ULP_INFO, value) if !mptcp => socket.kind = ulp(value)?,
            _ => {}
        }
    }
    Some(socket)
}

/// Whether the upper layer protocol says that it is a subflow.
fn ulp(value: &[u8]) -> Option<DiagKind> {
    let mut subflow = false;
    let mut token = None;
    for attribute in attributes(value) {
        match attribute? {
            (ULP_NAME, name) => subflow = name.split(|&byte| byte == 0).next() == Some(b"mptcp"),
            (ULP_MPTCP, info) => {
                token = attributes(info)
                    .flatten()
                    .find_map(|(kind, value)| (kind == TOKEN_LOCAL).then(|| word(value, 0))?);
            }
            _ => {}
        }
    }
    Some(if subflow { DiagKind::Subflow { token } } else { DiagKind::Tcp })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;
    use crate::host::netlink::testing::attribute;
    use crate::units::BootNs;

    const FILLED: Filled = Filled { from: BootNs(1), to: BootNs(2) };

    /// A message of a connection from [2001:db8::1]:40000 to [::ffff:10.0.0.2]:80.
    fn head(family: u8) -> Vec<u8> {
        let mut bytes = vec![family, 1, 0, 0];
        bytes.extend(40000_u16.to_be_bytes());
        bytes.extend(80_u16.to_be_bytes());
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().expect("address").octets());
        bytes.extend("::ffff:10.0.0.2".parse::<Ipv6Addr>().expect("address").octets());
        for number in [0_u32, 0x89ab_cdef, 0x0123_4567, 0, 11, 12, 1000, 4711] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes
    }

    fn tcp_info(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; 280];
        for (at, number) in [(44, 1_u32), (52, 2), (68, 3), (100, 4), (152, 6), (156, 7)] {
            bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        for (at, number) in [(128, 5_u64), (200, 8), (208, 9)] {
            bytes[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_message() {
        let mut bytes = head(AF_INET6);
        attribute(&mut bytes, 8, &[0]);
        attribute(&mut bytes, V6ONLY, &[1]);
        attribute(&mut bytes, INFO, &tcp_info(280));
        let socket = parse(&bytes, false, FILLED).expect("socket");
        assert_eq!(
            socket,
            DiagSocket {
                v6: true,
                state: 1,
                local: "[2001:db8::1]:40000".parse().expect("address"),
                remote: "[::ffff:10.0.0.2]:80".parse().expect("address"),
                cookie: 0x0123_4567_89ab_cdef,
                inode: 4711,
                uid: 1000,
                recv_queue: 11,
                send_queue: 12,
                v6only: true,
                device: 0,
                kind: DiagKind::Tcp,
                info: Some(TcpInfo {
                    last_data_sent_ms: 1,
                    last_data_recv_ms: 2,
                    rtt_us: 3,
                    total_retrans: 4,
                    bytes_received: 5,
                    data_segs_in: 6,
                    data_segs_out: 7,
                    bytes_sent: 8,
                    bytes_retrans: 9,
                }),
                mptcp_info: None,
                filled: FILLED,
            }
        );
        let v4 = parse(&head(AF_INET), false, FILLED).expect("socket");
        assert_eq!((v4.local.to_string(), v4.v6, v4.info), ("32.1.13.184:40000".into(), false, None));
    }

    #[test]
    fn a_short_tcp_info_is_none_and_the_socket_stays() {
        for (length, reported) in [(0, false), (104, false), (215, false), (216, true), (280, true)] {
            let mut bytes = head(AF_INET);
            attribute(&mut bytes, INFO, &tcp_info(length));
            let socket = parse(&bytes, false, FILLED).expect("socket");
            assert_eq!(socket.info.is_some(), reported, "{length}");
        }
    }

    #[test]
    fn subflows() {
        let mut tokens = Vec::new();
        attribute(&mut tokens, 1, &9_u32.to_ne_bytes());
        attribute(&mut tokens, TOKEN_LOCAL, &7_u32.to_ne_bytes());
        let mut ulp = Vec::new();
        attribute(&mut ulp, ULP_NAME, b"mptcp\0");
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, ULP_INFO, &ulp);
        let kind = |bytes: &[u8], mptcp| parse(bytes, mptcp, FILLED).expect("socket").kind;
        assert_eq!(kind(&bytes, false), DiagKind::Subflow { token: None });
        attribute(&mut ulp, ULP_MPTCP | 0x8000, &tokens);
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, ULP_INFO | 0x8000, &ulp);
        assert_eq!(kind(&bytes, false), DiagKind::Subflow { token: Some(7) });
        let mut tls = Vec::new();
        attribute(&mut tls, ULP_NAME, b"tls\0");
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, ULP_INFO, &tls);
        assert_eq!(kind(&bytes, false), DiagKind::Tcp);
        let mut mptcp_info = vec![0; 16];
        mptcp_info[12..].copy_from_slice(&7_u32.to_ne_bytes());
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, INFO, &mptcp_info);
        assert_eq!(kind(&bytes, true), DiagKind::Mptcp { token: Some(7) });
        assert_eq!(parse(&bytes, true, FILLED).expect("socket").mptcp_info, None, "before 6.5");
        mptcp_info.resize(80, 0);
        for (at, number) in [(48, 1_u64), (56, 2), (64, 3)] {
            mptcp_info[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        }
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, INFO, &mptcp_info);
        let counts = MptcpInfo { bytes_retrans: 1, bytes_sent: 2, bytes_received: 3 };
        assert_eq!(parse(&bytes, true, FILLED).expect("socket").mptcp_info, Some(counts));
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = head(AF_INET);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], false, FILLED), None);
        }
        assert_eq!(parse(&head(1), false, FILLED), None, "another family");
        let mut bytes = head(AF_INET);
        attribute(&mut bytes, INFO, &tcp_info(280));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(parse(&bytes, false, FILLED), None);
    }

    #[test]
    fn the_kernel_reports_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let local = listener.local_addr().expect("address");
        let mut all = Vec::new();
        sockets(&mut all, true, Some).expect("sock_diag");
        let found: Vec<_> = all.iter().filter(|socket| socket.local == local && socket.state == 10).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].inode != 0 && found[0].cookie != 0 && found[0].filled.from <= found[0].filled.to);
    }

    #[test]
    fn listeners_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let local = listener.local_addr().expect("address");
        let connection = std::net::TcpStream::connect(local).expect("connect");
        let all = listeners(false, true).expect("sock_diag");
        assert_eq!(all.iter().filter(|socket| socket.local == local).count(), 1);
        assert!(all.iter().all(|socket| !socket.v6 && matches!(socket.state, 2 | 10)), "{all:?}");
        drop(connection);
        let of_ipv6 = listeners(true, true).expect("sock_diag");
        assert!(of_ipv6.iter().all(|socket| socket.v6));
    }

    proptest! {
        #[test]
        fn any_bytes(
            family in prop_oneof![Just(AF_INET), Just(AF_INET6)],
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            mptcp in any::<bool>(),
        ) {
            let _ = parse(&bytes, mptcp, FILLED);
            let mut message = head(family);
            message.extend(bytes);
            let _ = parse(&message, mptcp, FILLED);
        }
    }
}
