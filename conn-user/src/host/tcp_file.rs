//! `/proc/net/tcp` and `tcp6` (net/ipv4/tcp_ipv4.c, `tcp4_seq_show`): what is reported where `sock_diag` is refused.

use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLine {
    /// Local end, as it is: an IPv4-mapped address stays IPv6.
    pub local: SocketAddr,
    /// Remote end, as it is: an IPv4-mapped address stays IPv6.
    pub remote: SocketAddr,
    /// `TCP_*` (include/net/tcp_states.h).
    pub state: u8,
    /// Bytes not acknowledged.
    pub send_queue: u32,
    /// Bytes not read; of a listener: connections that wait to be accepted.
    pub recv_queue: u32,
    /// User id.
    pub uid: u32,
    /// Inode of the socket's file, 0: none.
    pub inode: u32,
}

/// Gives each line to `each` until it says that it has enough (`false`).
///
/// # Errors
/// When the file cannot be read on.
pub fn lines(file: impl Read, mut each: impl FnMut(&TcpLine) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut text = Vec::new();
    loop {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        // The first line is a heading, which does not parse.
        let line = std::str::from_utf8(&text).ok().and_then(parse);
        if line.is_some_and(|line| !each(&line)) {
            return Ok(());
        }
    }
}

fn parse(line: &str) -> Option<TcpLine> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = end(fields.next()?)?;
    let remote = end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (send, received) = fields.next()?.split_once(':')?;
    // timer, retransmits
    let uid = fields.nth(2)?.parse().ok()?;
    // timeout
    let inode = fields.nth(1)?.parse().ok()?;
    let queue = |text| u32::from_str_radix(text, 16).ok();
    Some(TcpLine { local, remote, state, send_queue: queue(send)?, recv_queue: queue(received)?, uid, inode })
}

/// An address in words of 32 bits in the machine's order, a colon, the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    if !address.is_ascii() || (address.len() != 8 && address.len() != 32) {
        return None;
    }
    for (at, word) in bytes.chunks_exact_mut(4).take(address.len() / 8).enumerate() {
        let digits = address.get(at * 8..at * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = if address.len() == 8 {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
    } else {
        Ipv6Addr::from(bytes).into()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "   7: 0100007F:9C40 0101010A:0050 02 0000000A:0000000B 01:00000060 00000001  1000        0 4711 2 0 10\n";
    const V6: &str = "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn both_families() {
        let line = parse(V4).expect("v4");
        assert_eq!(line.local.to_string(), "127.0.0.1:40000");
        assert_eq!(line.remote.to_string(), "10.1.1.1:80");
        assert_eq!((line.state, line.inode, line.uid), (2, 4711, 1000));
        assert_eq!((line.send_queue, line.recv_queue), (10, 11));
        let line = parse(V6).expect("v6");
        assert_eq!(line.local.to_string(), "[::ffff:127.0.0.1]:8080");
        assert_eq!((line.state, line.inode, line.uid), (10, 4712, 0));
    }

    #[test]
    fn heading_and_end() {
        let file = format!("  sl  local_address rem_address   st tx_queue\n{V4}{V6}");
        let mut seen = Vec::new();
        lines(file.as_bytes(), |line| {
            seen.push(line.inode);
            true
        })
        .expect("read");
        assert_eq!(seen, [4711, 4712]);
        seen.clear();
        lines(file.as_bytes(), |line| {
            seen.push(line.inode);
            false
        })
        .expect("read");
        assert_eq!(seen, [4711]);
    }

    #[test]
    fn what_is_no_line() {
        for text in
            ["", "  sl  local_address rem_address st", "0: 01:02 03:04 05 a b c d e 7", "0: é000000:1 x"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            lines(&bytes[..], |_| true).expect("read");
        }

        /// A line with a part replaced.
        #[test]
        fn nearly_right(text in "[0-9A-Fa-f: é]{0,40}", at in 0usize..100) {
            for line in [V4, V6] {
                let at = at.min(line.len());
                let _ = parse(&format!("{}{text}{}", &line[..at], &line[at..]));
                let _ = parse(&format!("{}{text}", &line[..at]));
            }
        }
    }
}
