//! Community ID, version 1, seed 0: the name of a flow that other network monitors compute too.

use std::net::{IpAddr, SocketAddr};

use sha1::{Digest, Sha1};

/// Length of an id in bytes: `1:` and the base64 form of 20 bytes.
pub const LEN: usize = 30;

/// `IPPROTO_TCP`: also for MPTCP, whose packets are TCP.
const PROTOCOL: u8 = 6;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The id of the TCP connection between two ends, in whatever order; `None` when a port is unknown (0) or the
/// families differ.
pub fn id(one: SocketAddr, other: SocketAddr) -> Option<[u8; LEN]> {
    if one.port() == 0 || other.port() == 0 || one.is_ipv4() != other.is_ipv4() {
        return None;
    }
    // The smaller address and port come first, so that both directions have one id.
    let (first, second) =
        if (one.ip(), one.port()) <= (other.ip(), other.port()) { (one, other) } else { (other, one) };
    let mut input = [0_u8; 40];
    let used = match (first.ip(), second.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            input[2..6].copy_from_slice(&a.octets());
            input[6..10].copy_from_slice(&b.octets());
            10
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            input[2..18].copy_from_slice(&a.octets());
            input[18..34].copy_from_slice(&b.octets());
            34
        }
        _ => return None,
    };
    input[used] = PROTOCOL;
    input[used + 2..used + 4].copy_from_slice(&first.port().to_be_bytes());
    input[used + 4..used + 6].copy_from_slice(&second.port().to_be_bytes());
    let digest = Sha1::digest(&input[..used + 6]);
    Some(text(&digest.into()))
}

/// `1:` and the base64 form (RFC 4648, with padding).
fn text(digest: &[u8; 20]) -> [u8; LEN] {
    let mut out = *b"1:____________________________";
    let mut padded = [0_u8; 21];
    padded[..20].copy_from_slice(digest);
    for (group, four) in padded.chunks_exact(3).zip(out[2..].chunks_exact_mut(4)) {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for (place, byte) in four.iter_mut().enumerate() {
            *byte = BASE64[(bits >> (18 - 6 * place)) as usize & 63];
        }
    }
    out[LEN - 1] = b'=';
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(one: &str, other: &str) -> Option<String> {
        let id = id(one.parse().expect("address"), other.parse().expect("address"))?;
        Some(String::from_utf8(id.to_vec()).expect("ASCII"))
    }

    /// The TCP flows of the specification's reference data (`baseline/baseline_deflt.json`), both ways round.
    #[test]
    fn reference_data() {
        for (one, other, expected) in [
            ("128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (
                "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943",
                "[2607:f8b0:400c:c03::1a]:25",
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
        ] {
            assert_eq!(of(one, other).as_deref(), Some(expected));
            assert_eq!(of(other, one).as_deref(), Some(expected));
        }
    }

    #[test]
    fn equal_addresses_are_ordered_by_port() {
        let id = of("127.0.0.1:40000", "127.0.0.1:80");
        assert!(id.is_some());
        assert_eq!(id, of("127.0.0.1:80", "127.0.0.1:40000"));
        assert_ne!(id, of("127.0.0.1:80", "127.0.0.1:40001"));
    }

    #[test]
    fn an_address_is_compared_by_its_bytes() {
        // 9.x < 128.x by number, not by text.
        assert_eq!(of("9.0.0.1:1", "128.0.0.1:2"), of("128.0.0.1:2", "9.0.0.1:1"));
    }

    #[test]
    fn without_a_port_there_is_no_id() {
        assert_eq!(of("127.0.0.1:0", "127.0.0.1:80"), None);
        assert_eq!(of("127.0.0.1:80", "127.0.0.1:0"), None);
        assert_eq!(of("127.0.0.1:80", "[::1]:80"), None);
    }
}
