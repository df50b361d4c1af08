//! What the kernel says of its TCP sockets in `/proc/net/tcp` and `/proc/net/tcp6`, and `/proc/PID/fd` of who holds them.
//!
//! The same facts as `ss -tanpe` shows, on a machine that has no ss. Written without any code of conn on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result};

use crate::against_ss::{self, Ends, Facts, Sockets, add, canonical};

/// Who reports what sockets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// This module.
    Proc,
    /// ss of iproute2.
    Ss,
}

impl Witness {
    /// Those that this machine has.
    pub fn here() -> Vec<Self> {
        let ss = Command::new("ss").arg("-V").output().is_ok_and(|output| output.status.success());
        if ss { vec![Self::Proc, Self::Ss] } else { vec![Self::Proc] }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proc => "/proc/net/tcp",
            Self::Ss => "ss -tanpe",
        }
    }

    /// Every TCP socket of our network namespace with the processes that hold it.
    ///
    /// # Errors
    /// When it cannot be asked, or says something that cannot be understood.
    pub fn look(self) -> Result<Sockets> {
        match self {
            Self::Proc => read(),
            Self::Ss => against_ss::ss("-tan"),
        }
    }
}

/// Every TCP socket of our network namespace with the processes that hold it.
///
/// # Errors
/// When /proc cannot be read, or says something that cannot be understood.
pub fn read() -> Result<Sockets> {
    let mut lines = Vec::new();
    for (table, optional) in [("tcp", false), ("tcp6", true)] {
        let path = format!("/proc/thread-self/net/{table}");
        match fs::read_to_string(&path) {
            Ok(text) => lines.extend(parse(&text)?),
            // A kernel without IPv6.
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(path),
        }
    }
    // After the sockets, as ss does.
    let holders = holders()?;
    let mut sockets = Sockets::new();
    for Line { ends, state, uid, inode } in lines {
        let pids = holders.get(&inode).cloned().unwrap_or_default();
        add(&mut sockets, ends, Facts { state: state.to_owned(), pids, uid, inode });
    }
    Ok(sockets)
}

/// A line of `/proc/net/tcp` (`get_tcp4_sock`, `get_timewait4_sock` and `get_openreq4`, net/ipv4/tcp_ipv4.c).
#[derive(Debug, PartialEq, Eq)]
struct Line {
    ends: Ends,
    state: &'static str,
    uid: u32,
    inode: u64,
}

fn parse(text: &str) -> Result<Vec<Line>> {
    // The first line has the titles.
    text.lines()
        .skip(1)
        .map(|line| parse_line(line).with_context(|| format!("/proc/net/tcp: {line}")))
        .collect()
}

fn parse_line(line: &str) -> Result<Line> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let word = |at: usize| words.get(at).copied().context("too short");
    let state = u8::from_str_radix(word(3)?, 16).context("state")?;
    let state = STATES.get(usize::from(state)).copied().flatten().context("no such state")?;
    let local = end(word(1)?)?;
    let remote = if state == "LISTEN" { None } else { Some(end(word(2)?)?) };
    let (uid, inode) = (word(7)?.parse().context("uid")?, word(9)?.parse().context("inode")?);
    // Of a handshake under way /proc shows the listener's user, ss none (`inet_req_diag_fill`, net/ipv4/inet_diag.c).
    let uid = if state == "SYN-RECV" && inode == 0 { 0 } else { uid };
    Ok(Line { ends: Ends { local, remote }, state, uid, inode })
}

/// By number (include/net/tcp_states.h), as ss calls them.
const STATES: [Option<&str>; 13] = [
    None,
    Some("ESTAB"),
    Some("SYN-SENT"),
    Some("SYN-RECV"),
    Some("FIN-WAIT-1"),
    Some("FIN-WAIT-2"),
    Some("TIME-WAIT"),
    Some("UNCONN"),
    Some("CLOSE-WAIT"),
    Some("LAST-ACK"),
    Some("LISTEN"),
    Some("CLOSING"),
    Some("SYN-RECV"),
];

/// `0100007F:0050`: the address in words of 32 bits as they lie in memory, then the port.
fn end(text: &str) -> Result<SocketAddr> {
    let (address, port) = text.split_once(':').context("no port")?;
    let port = u16::from_str_radix(port, 16).context("port")?;
    let word = |at: usize| -> Result<[u8; 4]> {
        let digits = address.get(8 * at..8 * at + 8).context("address")?;
        Ok(u32::from_str_radix(digits, 16).context("address")?.to_ne_bytes())
    };
    let address = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        let bytes: [u8; 16] = bytes.try_into().ok().context("address")?;
        canonical(Ipv6Addr::from(bytes).into())
    };
    Ok(SocketAddr::new(address, port))
}

/// The processes that hold each socket, by its inode number.
fn holders() -> Result<BTreeMap<u64, BTreeSet<u32>>> {
    let mut holders = BTreeMap::<u64, BTreeSet<u32>>::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let entry = entry.context("/proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile holds nothing.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|link| socket_inode(link.to_str()?));
            if let Some(inode) = inode {
                holders.entry(inode).or_default().insert(pid);
            }
        }
    }
    Ok(holders)
}

/// `socket:[123]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1151 1 0000000000000000 100 0 0 10 0
   1: 0100007F:9C40 0200007F:0050 01 00000000:00000000 02:000004E2 00000000  1000        0 2077 2 0000000000000000 20 4 30 10 -1
   2: 0100007F:C350 0100007F:1F90 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000
   3: 0100007F:1F90 0300007F:C351 03 00000000:00000000 01:00000063 00000000    33        0 0 1 0000000000000000
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:0FA0 08 00000000:00000000 00:00000000 00000000     0        0 78 1 0000000000000000 20 4 30 10 -1
   2: 0000000000000000FFFF00000100000A:0016 0000000000000000FFFF00000200000A:0FA0 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
";

    fn line(local: &str, remote: Option<&str>, state: &'static str, uid: u32, inode: u64) -> Line {
        let address = |text: &str| text.parse().expect("address");
        Line { ends: Ends { local: address(local), remote: remote.map(address) }, state, uid, inode }
    }

    #[test]
    fn lines_are_read() {
        // The samples are of a machine whose words have the low byte first.
        if cfg!(target_endian = "big") {
            return;
        }
        let four = [
            line("0.0.0.0:8080", None, "LISTEN", 0, 1151),
            line("127.0.0.1:40000", Some("127.0.0.2:80"), "ESTAB", 1000, 2077),
            line("127.0.0.1:50000", Some("127.0.0.1:8080"), "TIME-WAIT", 0, 0),
            line("127.0.0.1:8080", Some("127.0.0.3:50001"), "SYN-RECV", 0, 0),
        ];
        assert_eq!(parse(TCP).expect("tcp"), four);
        let six = [
            line("[::]:22", None, "LISTEN", 0, 77),
            line("[2001:db8::1]:22", Some("[2001:db8::2]:4000"), "CLOSE-WAIT", 0, 78),
            line("10.0.0.1:22", Some("10.0.0.2:4000"), "FIN-WAIT-2", 0, 0),
        ];
        assert_eq!(parse(TCP6).expect("tcp6"), six);
    }

    #[test]
    fn what_is_no_line_is_an_error() {
        let with = |from: &str, to: &str| parse(&TCP.replace(from, to));
        assert!(with("0100007F:9C40", "0100007F").is_err(), "no port");
        assert!(with("0100007F:9C40", "0100:9C40").is_err(), "a short address");
        assert!(with("0050 01 ", "0050 0D ").is_err(), "a state that does not exist");
        assert!(parse("titles\n 0: 1 2").is_err(), "a line that is cut off");
    }

    #[test]
    fn our_own_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let ends = Ends { local: listener.local_addr().expect("its address"), remote: None };
        let sockets = read().expect("/proc");
        let facts = sockets.get(&ends).expect("the listener");
        assert_eq!((facts.len(), facts[0].state.as_str()), (1, "LISTEN"));
        assert!(facts[0].pids.contains(&std::process::id()), "{facts:?}");
    }

    #[test]
    fn links_of_sockets() {
        assert_eq!(socket_inode("socket:[1151]"), Some(1151));
        assert_eq!(["pipe:[1151]", "socket:[]", "/socket:[1]"].map(socket_inode), [None; 3]);
    }
}
