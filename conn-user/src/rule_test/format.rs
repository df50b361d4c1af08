//! How failures write the values of tests.

use std::fmt::Write as _;

use crate::units::DurationNs;

/// A duration as a test writes it: exact, `1h0m0s` as `1h`.
pub(super) fn duration(duration: DurationNs) -> String {
    const UNITS: [(&str, u64); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let (mut rest, mut out) = (duration.0, String::new());
    for (unit, length) in UNITS {
        if rest >= length {
            let _ = write!(out, "{}{unit}", rest / length);
            rest %= length;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}
