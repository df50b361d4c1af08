//! conntrack's time stamps against what the test did. Needs root.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use conn_user::clock::boot_now;
use conn_user::flow::born::{Born, BornBy};
use conn_user::flow::snapshot::{SnapshotOptions, take};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use conn_tests::skip::skip;
use namespace::alone;

mod namespace;

const TIMESTAMP: &str = "/proc/sys/net/netfilter/nf_conntrack_timestamp";

/// A pair that spoke both ways, so that its sockets do not know their age.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(listener: &TcpListener) -> Self {
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        let mut pair = Self { client, server };
        pair.speak();
        pair
    }

    fn speak(&mut self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to) = (from, to);
            from.write_all(b"x").expect("write");
            to.read_exact(&mut [0]).expect("read");
        }
    }

    fn born(&self) -> [Born; 2] {
        let all = take(&SnapshotOptions::default()).expect("snapshot");
        [&self.client, &self.server].map(|end| {
            let ends = (end.local_addr().expect("address"), end.peer_addr().expect("address"));
            let socket = all.sockets.iter().find(|s| (s.local, s.remote) == ends).expect("there");
            socket.born.expect("born")
        })
    }
}

#[test]
fn a_stamp_reports_the_birth_unless_it_came_late() {
    let _alone = alone();
    // conntrack takes the stamps into entries that it makes from now on (`nf_ct_tstamp_ext_add`).
    match fs::write(TIMESTAMP, "1") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("this kernel has no conntrack, or no time stamps (CONFIG_NF_CONNTRACK_TIMESTAMP)");
            return;
        }
        written => written.expect("the time stamps can be switched on"),
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut older = Pair::new(&listener);
    let old_established = boot_now();
    if !track() {
        skip("this kernel has no nftables");
        return;
    }
    let before = boot_now();
    let mut pair = Pair::new(&listener);
    let after = boot_now();
    // A handshake may take a second: what conntrack says of the latest birth is that much later than its stamp, and must be
    // earlier than the last activity to count.
    std::thread::sleep(Duration::from_millis(1500));
    older.speak();
    pair.speak();
    let now = boot_now();
    for born in pair.born() {
        assert_eq!((born.earliest_by, born.latest_by), (BornBy::Conntrack, BornBy::Conntrack), "{born:?}");
        let earliest = born.earliest().expect("bound").0;
        assert!(earliest <= after.0, "{born:?} {after:?}");
        assert!(born.latest >= before && born.latest < now, "{born:?} {before:?}");
    }
    for born in older.born() {
        assert_ne!(born.earliest_by, BornBy::Conntrack, "it was picked up: {born:?}");
        assert!(born.earliest().is_none_or(|earliest| earliest <= old_established), "{born:?}");
        assert!(born.latest >= old_established, "{born:?}");
    }
}

/// Makes conntrack look at outgoing packets of the namespace, with a rule that asks for their state. `false`: the kernel
/// does not know how.
fn track() -> bool {
    const INET: u8 = 1;
    let name = |kind: u16, text: &str| attribute(kind, format!("{text}\0").as_bytes());
    let number = |kind: u16, number: u32| attribute(kind, &number.to_be_bytes());
    let nested = |kind: u16, parts: &[Vec<u8>]| attribute(kind | 0x8000, &parts.concat());
    // include/uapi/linux/netfilter/nf_tables.h
    let hook = nested(4, &[number(1, 3), number(2, 0)]);
    let state = nested(1, &[name(1, "ct"), nested(2, &[number(1, 1), number(2, 0)])]);
    let batch = [
        message(0x10, 1, 0, 10, &[]),
        message(0x0a00, 0x401, INET, 0, &[name(1, "t")]),
        message(0x0a03, 0x401, INET, 0, &[name(1, "t"), name(3, "c"), hook, name(7, "filter")]),
        message(0x0a06, 0xc05, INET, 0, &[name(1, "t"), name(2, "c"), nested(4, &[state])]),
        message(0x11, 1, 0, 10, &[]),
    ]
    .concat();
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER));
    let socket = match socket {
        Err(rustix::io::Errno::PROTONOSUPPORT) => return false,
        other => other.expect("a netlink socket"),
    };
    bind(&socket, &SocketAddrNetlink::new(0, 0)).expect("bind");
    sendto(&socket, &batch, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).expect("send");
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("answer");
    // The first answer is an error, or the acknowledgement of the rule: an error number of 0.
    assert!(length >= 20, "{length}");
    let code = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
    assert!(code == 0 || code == -libc::EOPNOTSUPP || code == -libc::ENOENT, "{code}");
    code == 0
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message of nfnetlink, its flags and `struct nfgenmsg`.
fn message(kind: u16, flags: u16, family: u8, resource: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = (body.len() as u32 + 20).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes
}
