//! Numbers with units, as conn itself writes them: `1h30m`, `1.5s`, `5.1K`.

use crate::units::DurationNs;

/// Digits and nothing else.
pub(super) fn digits(text: &str) -> Option<u64> {
    // FromStr takes a sign too.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A duration: one or more numbers, each with its unit. `None`: it is none, or longer than 584 years.
pub fn duration(text: &str) -> Option<DurationNs> {
    if text.is_empty() {
        return None;
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let scale = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            "w" => 7 * 86_400 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = behind;
    }
    Some(DurationNs(total))
}

/// A number of bytes, without a unit, or in powers of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let power = match unit {
        "" | "B" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return None,
    };
    scaled(number, 1 << (10 * power))
}

/// A decimal number of so many each, cut to a whole.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let Some((whole, fraction)) = number.split_once('.') else {
        return digits(number).filter(|_| !number.is_empty())?.checked_mul(scale);
    };
    // Nine digits make nanoseconds of seconds; scale times ten to the ninth fits.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let divisor = 10_u128.pow(fraction.len() as u32);
    let part = u128::from(digits(fraction)?) * u128::from(scale) / divisor;
    digits(whole)?.checked_mul(scale)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1.000000001s", Some(1_000_000_001)),
            ("250us", Some(250_000)),
            ("2w1d", Some(15 * 86_400 * 1_000_000_000)),
            ("4h05m", Some((4 * 60 + 5) * 60_000_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1h30", None),
            ("1 h", None),
            ("-1s", None),
            ("1.s", None),
            (".5s", None),
            ("1.0000000001s", None),
            ("1y", None),
            ("99999999999999w", None),
            ("1.2.3s", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.0), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("78B", Some(78)),
            ("5.1K", Some(5_222)),
            ("1G", Some(1 << 30)),
            ("15E", Some(15 << 60)),
            ("16E", None),
            ("", None),
            ("K", None),
            ("1k", None),
            ("1KB", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
