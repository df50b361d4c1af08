//! Times as text, without a calendar computation an event: the second is cached.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

use crate::units::WallNs;

const SECOND: u64 = 1_000_000_000;

/// Writes RFC 3339 in UTC with nine digits: `2026-11-24T03:41:27.123456789Z`.
#[derive(Debug, Default)]
pub struct Rfc3339 {
    second: Option<u64>,
    text: String,
}

impl Rfc3339 {
    /// Appends the time.
    pub fn write(&mut self, wall: WallNs, out: &mut Vec<u8>) {
        let (second, nanos) = (wall.0 / SECOND, wall.0 % SECOND);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.clear();
            if let Some(at) = timestamp(second) {
                self.text = at.strftime("%Y-%m-%dT%H:%M:%S.").to_string();
            }
        }
        out.extend_from_slice(self.text.as_bytes());
        digits(nanos, 9, out);
        out.push(b'Z');
    }
}

/// Reads what [`Rfc3339`] writes, without a calendar computation a line.
#[derive(Debug, Default)]
pub struct Rfc3339Reader {
    /// The text of a second, and what it is.
    second: Option<([u8; SECONDS], u64)>,
}

/// Length of a time up to its seconds.
const SECONDS: usize = "2026-11-24T03:41:27".len();

impl Rfc3339Reader {
    /// Returns the time; `None`: it is not of this form.
    pub fn read(&mut self, text: &str) -> Option<WallNs> {
        let (head, nanos) = text.strip_suffix('Z')?.split_once('.')?;
        let key: [u8; SECONDS] = head.as_bytes().try_into().ok()?;
        if nanos.len() != 9 || !nanos.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let second = match self.second {
            Some((known, second)) if known == key => second,
            _ => {
                let at: Timestamp = format!("{head}Z").parse().ok()?;
                let second = u64::try_from(at.as_second()).ok()?;
                self.second = Some((key, second));
                second
            }
        };
        second.checked_mul(SECOND)?.checked_add(nanos.parse().ok()?).map(WallNs)
    }
}

/// The second of an instant, RFC 3339 in UTC: `2026-11-24T03:41:27Z`. Of an instant that no calendar has: nothing.
pub fn seconds(wall: WallNs) -> String {
    timestamp(wall.0 / SECOND).map(|at| at.to_string()).unwrap_or_default()
}

/// Reads RFC 3339, from 1970 on.
pub fn parse(text: &str) -> Option<WallNs> {
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_nanosecond()).ok().map(WallNs)
}

/// Writes the local time of day: `12:03:41.123`.
#[derive(Debug)]
pub struct TimeOfDay {
    zone: TimeZone,
    second: Option<u64>,
    text: String,
    day: Option<Day>,
}

/// A date, and how far the local time of it is from UTC: what a time of day leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    date: Date,
    offset: Offset,
}

/// `2026-11-24 UTC+01:00`
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.offset.seconds();
        let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.unsigned_abs() / 60);
        write!(f, "{} UTC{sign}{:02}:{:02}", self.date, minutes / 60, minutes % 60)
    }
}

impl TimeOfDay {
    /// In this time zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, second: None, text: String::new(), day: None }
    }

    /// Appends the time with `places` decimal places, at most nine, cut, not rounded: a time never shows a second
    /// that it does not belong to.
    pub fn write(&mut self, wall: WallNs, places: usize, out: &mut Vec<u8>) {
        self.turn_to(wall);
        out.extend_from_slice(self.text.as_bytes());
        let places = places.min(9);
        if places > 0 {
            out.push(b'.');
            digits(wall.0 % SECOND / 10_u64.pow(9 - places as u32), places, out);
        }
    }

    /// The time of day beside another time, with the date if that is of another day.
    pub fn write_beside(&mut self, other: WallNs, wall: WallNs, places: usize, out: &mut Vec<u8>) {
        let other = self.day(other).map(|day| day.date);
        if let Some(day) = self.day(wall).filter(|day| Some(day.date) != other) {
            out.extend_from_slice(format!("{} ", day.date).as_bytes());
        }
        self.write(wall, places, out);
    }

    /// Its day here; `None`: no calendar has it.
    pub fn day(&mut self, wall: WallNs) -> Option<Day> {
        self.turn_to(wall);
        self.day
    }

    fn turn_to(&mut self, wall: WallNs) {
        let second = wall.0 / SECOND;
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        self.text.clear();
        self.day = timestamp(second).map(|at| {
            let zoned = at.to_zoned_datetime(self.zone.clone());
            self.text = zoned.strftime("%H:%M:%S").to_string();
            Day { date: zoned.date(), offset: zoned.offset() }
        });
    }
}

/// `None` is impossible for nanoseconds in 64 bits (until the year 2554), and jiff reaches 9999.
fn timestamp(second: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(second).ok()?).ok()
}

/// Appends exactly `places` digits with leading zeros.
fn digits(mut value: u64, places: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + places, b'0');
    for byte in out[start..].iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rfc3339(wall: u64) -> String {
        let mut out = Vec::new();
        Rfc3339::default().write(WallNs(wall), &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn known_times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_795_491_687_123_456_789), "2026-11-24T03:41:27.123456789Z");
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn the_cache_follows_the_second_both_ways() {
        let (mut time, mut out) = (Rfc3339::default(), Vec::new());
        for wall in [5 * SECOND + 1, 5 * SECOND + 2, 6 * SECOND, 5 * SECOND] {
            time.write(WallNs(wall), &mut out);
        }
        let expected = "1970-01-01T00:00:05.000000001Z1970-01-01T00:00:05.000000002Z\
                        1970-01-01T00:00:06.000000000Z1970-01-01T00:00:05.000000000Z";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }

    #[test]
    fn local_time_is_cut() {
        let mut out = Vec::new();
        let mut time = TimeOfDay::new(TimeZone::fixed(jiff::tz::offset(2)));
        time.write(WallNs(1_795_491_687_999_999_999), 3, &mut out);
        assert_eq!(String::from_utf8(out).expect("ASCII"), "05:41:27.999");
    }

    #[test]
    fn a_day_is_a_date_and_an_offset() {
        let day = |zone, wall| TimeOfDay::new(zone).day(WallNs(wall)).expect("a day").to_string();
        let wall = 1_795_491_687 * SECOND;
        assert_eq!(day(TimeZone::UTC, wall), "2026-11-24 UTC+00:00");
        assert_eq!(day(TimeZone::fixed(Offset::constant(-5)), wall), "2026-11-23 UTC-05:00");
        let kathmandu = Offset::from_seconds(20_700).expect("an offset");
        assert_eq!(day(TimeZone::fixed(kathmandu), wall), "2026-11-24 UTC+05:45");
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let beside = |wall: u64| {
            let mut out = Vec::new();
            let noon = WallNs(12 * 3_600 * SECOND);
            TimeOfDay::new(TimeZone::UTC).write_beside(noon, WallNs(wall), 3, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(beside(3_600 * SECOND), "01:00:00.000");
        assert_eq!(beside(25 * 3_600 * SECOND), "1970-01-02 01:00:00.000");
    }

    proptest! {
        #[test]
        fn parses_back(wall in any::<u64>()) {
            let parsed: Timestamp = rfc3339(wall).parse().expect("RFC 3339");
            prop_assert_eq!(parsed.as_nanosecond(), i128::from(wall));
        }
    }
}
