//! One socket by its ends (`inet_diag_find_one_icsk`): the kernel looks it up in its hash table, however many there are.

use std::net::{IpAddr, SocketAddr};

use super::{AF_INET, AF_INET6, BY_FAMILY, DiagSocket, INFO_WANTED, LISTEN, TCP, TIME_WAIT, parse};
use crate::host::netlink::{DumpError, Netlink};

/// `INET_DIAG_NOCOOKIE` (include/uapi/linux/inet_diag.h), twice: whatever its cookie is.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Returns the TCP connection with these ends, in the network namespace in which `netlink` was opened. `None`: there is none. Ends are
/// as in [`DiagSocket`], or canonical: the kernel finds a socket with IPv4-mapped addresses by the IPv4 ones.
/// `device` is the index of the interface that the socket is bound to, 0 if it is bound to none (`inet_match`).
///
/// # Errors
/// When the kernel refuses or answers what cannot be read.
pub fn find(
    netlink: &mut Netlink,
    local: SocketAddr,
    remote: SocketAddr,
    device: u32,
) -> Result<Option<DiagSocket>, DumpError> {
    let answer = netlink
        .get(BY_FAMILY, &request(local, remote, device), |message, filled| parse(message, false, filled));
    let socket = match answer {
        Err(error) if error.is_absent() => return Ok(None),
        answer => answer?,
    };
    // Without a connection the kernel returns a listener at the local end, or what is left of an ended connection.
    let is_connection = !matches!(u32::from(socket.state), LISTEN | TIME_WAIT);
    let is_between = |socket: &DiagSocket| {
        let same = |one: SocketAddr, other: SocketAddr| {
            (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
        };
        same(socket.local, local) && same(socket.remote, remote)
    };
    Ok(Some(socket).filter(|socket| is_connection && is_between(socket)))
}

/// `struct inet_diag_req_v2`.
fn request(local: SocketAddr, remote: SocketAddr, device: u32) -> [u8; 56] {
    let mut body = [0; 56];
    let mut end = |port_at: usize, address_at: usize, end: SocketAddr| {
        body[port_at..port_at + 2].copy_from_slice(&end.port().to_be_bytes());
        match end.ip() {
            IpAddr::V4(ip) => body[address_at..address_at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => body[address_at..address_at + 16].copy_from_slice(&ip.octets()),
        }
    };
    end(8, 12, local);
    end(10, 28, remote);
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    body[..3].copy_from_slice(&[family, TCP, INFO_WANTED]);
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    body[44..48].copy_from_slice(&device.to_ne_bytes());
    body[48..].copy_from_slice(&NO_COOKIE);
    body
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use rustix::net::netlink::SOCK_DIAG;

    use super::*;

    fn pair(at: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let to = if at.starts_with("[::]") {
            format!("127.0.0.1:{port}")
        } else {
            listener.local_addr().expect("bound").to_string()
        };
        let out = TcpStream::connect(to).expect("connect");
        (out, listener.accept().expect("accept").0)
    }

    #[test]
    fn each_end_with_its_counters() {
        let mut netlink = Netlink::open(SOCK_DIAG).expect("netlink");
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (mut out, mut accepted) = pair(at);
            out.write_all(b"hello").expect("write");
            accepted.read_exact(&mut [0; 5]).expect("read");
            for (socket, sent, received) in [(&out, 5, 0), (&accepted, 0, 5)] {
                let (local, remote) =
                    (socket.local_addr().expect("bound"), socket.peer_addr().expect("peer"));
                let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
                for (local, remote) in [(local, remote), (canonical(local), canonical(remote))] {
                    let found = find(&mut netlink, local, remote, 0).expect("an answer").expect("found");
                    let info = found.info.expect("counters");
                    assert_eq!((info.bytes_sent, info.bytes_received), (sent, received), "{at}");
                }
            }
        }
    }

    #[test]
    fn neither_a_listener_nor_what_has_ended() {
        let mut netlink = Netlink::open(SOCK_DIAG).expect("netlink");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let local = listener.local_addr().expect("bound");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(find(&mut netlink, local, nobody, 0).expect("an answer"), None);
        let out = TcpStream::connect(local).expect("connect");
        let (accepted, remote) = listener.accept().expect("accept");
        drop(accepted);
        drop(out);
        drop(listener);
        assert_eq!(find(&mut netlink, local, remote, 0).expect("an answer"), None);
        assert_eq!(find(&mut netlink, remote, local, 0).expect("an answer"), None);
    }
}
