//! IP addresses as text: what the standard library prints, without its formatter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Appends an integer in decimal.
pub fn write_int(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends an address: IPv6 as RFC 5952 has it.
pub fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => write_v4(v4, out),
        IpAddr::V6(v6) => write_v6(v6, out),
    }
}

fn write_v4(ip: Ipv4Addr, out: &mut Vec<u8>) {
    let [a, b, c, d] = ip.octets();
    write_int(a, out);
    for octet in [b, c, d] {
        out.push(b'.');
        write_int(octet, out);
    }
}

fn write_v6(ip: Ipv6Addr, out: &mut Vec<u8>) {
    if let Some(v4) = ip.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return write_v4(v4, out);
    }
    let groups = ip.segments();
    let (skip_from, skip_to) = longest_zero_run(&groups);
    if skip_from == skip_to {
        return write_groups(&groups, out);
    }
    write_groups(&groups[..skip_from], out);
    out.extend_from_slice(b"::");
    write_groups(&groups[skip_to..], out);
}

/// The first longest run of two or more zero groups; (0, 0) when there is none.
fn longest_zero_run(groups: &[u16; 8]) -> (usize, usize) {
    let mut best = (0, 0);
    let mut start = 0;
    for (at, group) in groups.iter().enumerate() {
        if *group != 0 {
            start = at + 1;
        } else if at + 1 - start > best.1 - best.0 && at > start {
            best = (start, at + 1);
        }
    }
    best
}

fn write_groups(groups: &[u16], out: &mut Vec<u8>) {
    for (at, group) in groups.iter().enumerate() {
        if at > 0 {
            out.push(b':');
        }
        let mut shown = false;
        for shift in [12, 8, 4, 0] {
            let digit = usize::from(group >> shift & 15);
            shown |= digit != 0 || shift == 0;
            if shown {
                out.push(b"0123456789abcdef"[digit]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(ip: IpAddr) -> String {
        let mut out = Vec::new();
        write_ip(ip, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn the_hard_cases() {
        for case in [
            "::",
            "::1",
            "1::",
            "1:0:2::",
            "2001:db8:0:1:1:1:1:1",
            "1:0:0:2:0:0:0:3",
            "::ffff:1.2.3.4",
            "1::2:0:0:3",
        ] {
            let ip: IpAddr = case.parse().expect("address");
            assert_eq!(text(ip), ip.to_string());
        }
    }

    proptest! {
        #[test]
        fn equals_std_v4(bits in any::<u32>()) {
            let ip = IpAddr::V4(Ipv4Addr::from_bits(bits));
            prop_assert_eq!(text(ip), ip.to_string());
        }

        #[test]
        fn equals_std_v6(groups in proptest::array::uniform8(prop_oneof![Just(0_u16), any::<u16>(), 0_u16..300])) {
            let ip = IpAddr::V6(Ipv6Addr::from(groups));
            prop_assert_eq!(text(ip), ip.to_string());
        }
    }
}
