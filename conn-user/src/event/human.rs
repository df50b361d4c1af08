//! Durations and sizes as people say them.

use std::io::Write;

use super::address::write_int;
use crate::units::DurationNs;

/// Appends a duration with about three digits: `340us`, `12.3ms`, `1.23s`, `3m12s`, `4h05m`, `3d04h`. Cut, not
/// rounded.
pub fn write_duration(duration: DurationNs, out: &mut Vec<u8>) {
    let ns = duration.0;
    let seconds = ns / 1_000_000_000;
    match ns {
        0..1_000 => {
            write_int(ns, out);
            out.extend_from_slice(b"ns");
        }
        1_000..1_000_000 => {
            write_int(ns / 1_000, out);
            out.extend_from_slice(b"us");
        }
        1_000_000..1_000_000_000 => {
            write_tenths(ns / 100_000, out);
            out.extend_from_slice(b"ms");
        }
        1_000_000_000..60_000_000_000 => {
            write_int(seconds, out);
            write_padded(b'.', ns / 10_000_000 % 100, b"s", out);
        }
        60_000_000_000..3_600_000_000_000 => pair(seconds / 60, b'm', seconds % 60, b"s", out),
        3_600_000_000_000..86_400_000_000_000 => pair(seconds / 3_600, b'h', seconds / 60 % 60, b"m", out),
        _ => pair(seconds / 86_400, b'd', seconds / 3_600 % 24, b"h", out),
    }
}

/// Appends a duration as [`write_duration`] does, but rounded up: an upper bound must not read as a lower one.
pub fn write_duration_up(duration: DurationNs, out: &mut Vec<u8>) {
    let shown = match duration.0 {
        0..1_000 => 1,
        1_000..1_000_000 => 1_000,
        1_000_000..1_000_000_000 => 100_000,
        1_000_000_000..60_000_000_000 => 10_000_000,
        60_000_000_000..3_600_000_000_000 => 1_000_000_000,
        3_600_000_000_000..86_400_000_000_000 => 60_000_000_000,
        _ => 3_600_000_000_000,
    };
    write_duration(DurationNs(duration.0.saturating_add(shown - 1)), out);
}

/// Appends a number of bytes in powers of 1024: `78B`, `5.1K`, `512M`. Cut, not rounded.
pub fn write_bytes(bytes: u64, out: &mut Vec<u8>) {
    let (mut unit, mut scale) = (b'B', 1_u64);
    for next in *b"KMGTPE" {
        if bytes / scale < 1024 {
            break;
        }
        (unit, scale) = (next, scale * 1024);
    }
    let whole = bytes / scale;
    if scale == 1 || whole >= 100 {
        write_int(whole, out);
    } else {
        let tenths = u128::from(bytes) * 10 / u128::from(scale);
        write_tenths(tenths as u64, out);
    }
    out.push(unit);
}

fn write_tenths(tenths: u64, out: &mut Vec<u8>) {
    write_int(tenths / 10, out);
    out.push(b'.');
    out.push(b'0' + (tenths % 10) as u8);
}

fn pair(large: u64, large_unit: u8, small: u64, small_unit: &[u8], out: &mut Vec<u8>) {
    write_int(large, out);
    write_padded(large_unit, small, small_unit, out);
}

fn write_padded(before: u8, two_digits: u64, after: &[u8], out: &mut Vec<u8>) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{}{two_digits:02}", char::from(before));
    out.extend_from_slice(after);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn durations() {
        for (ns, expected) in [
            (0, "0ns"),
            (999, "999ns"),
            (340_999, "340us"),
            (12_345_678, "12.3ms"),
            (999_999_999, "999.9ms"),
            (1_234_567_890, "1.23s"),
            (59_999_999_999, "59.99s"),
            (192_000_000_000, "3m12s"),
            (14_700_000_000_000, "4h05m"),
            (273_600_000_000_000, "3d04h"),
            (u64::MAX, "213503d23h"),
        ] {
            assert_eq!(shown(|out| write_duration(DurationNs(ns), out)), expected);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (5_300_000, "5.0M"),
            (1024 * 1024 - 1, "1023K"),
            (536_870_912, "512M"),
            (u64::MAX, "15.9E"),
        ] {
            assert_eq!(shown(|out| write_bytes(bytes, out)), expected);
        }
    }
}
