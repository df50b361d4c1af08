//! Instants as people name them: `10 min ago`, `yesterday 03:00`, `2026-12-01`, RFC 3339.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, ZonedDateTime};
use thiserror::Error;

use crate::units::WallNs;

const SECOND: u64 = 1_000_000_000;

/// Why a text names no instant.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WhenError {
    /// It is of none of the forms.
    #[error("not a time: {0:?} (write for example {EXAMPLES})")]
    Form(String),
    /// A number of it is followed by no unit of time.
    #[error("no unit of time: {0:?} (write s, min, h, d or w: \"10 min ago\", 2h, 1h30m)")]
    Unit(String),
    /// It is before 1970, or after 2554.
    #[error("{0:?} is before 1970 or too far in the future")]
    Range(String),
}

/// One of each form, for messages and help.
pub const EXAMPLES: &str = "1h, \"10 min ago\", 03:00, today, \"yesterday 03:00\", 2026-12-01, \"2026-12-01 03:00\", 2026-12-01T03:00:00Z";

/// Reads an instant. A time without a zone is of the zone of `now`.
///
/// - a duration, with or without `ago`: so long before `now`; a day has 24 hours
/// - `now`, `today`, `yesterday`: the last two at 00:00 or at a time of day behind them
/// - a time of day: the last such time, so `23:00` at one in the morning is that of yesterday
/// - a date, perhaps with a time of day: else at 00:00
/// - RFC 3339, and `@` with seconds since 1970
///
/// # Errors
/// When it is of none of these forms, or no [`WallNs`] has it.
pub fn parse(text: &str, now: &ZonedDateTime) -> Result<WallNs, WhenError> {
    let words = text.trim().to_ascii_lowercase();
    let at = named(&words, now)
        .or_else(|| clock_time(&words, now))
        .or_else(|| date(&words, now))
        .or_else(|| absolute(text.trim()));
    match at {
        Some(at) => wall(at, text),
        None if words.starts_with(|first: char| first.is_ascii_digit()) && words.contains(['-', ':']) => {
            Err(WhenError::Form(text.to_owned()))
        }
        None => ago(&words, text, now),
    }
}

fn wall(at: Timestamp, text: &str) -> Result<WallNs, WhenError> {
    u64::try_from(at.as_nanosecond()).map(WallNs).map_err(|_| WhenError::Range(text.to_owned()))
}

/// `now`, `today`, `yesterday`, the last two perhaps with a time of day.
fn named(words: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let (day, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    let date = match day {
        "now" if rest.is_empty() => return Some(now.timestamp()),
        "today" => now.date(),
        "yesterday" => now.date().yesterday().ok()?,
        _ => return None,
    };
    let time = if rest.is_empty() { Time::midnight() } else { time_of_day(rest.trim())? };
    local(date.to_datetime(time), now)
}

fn clock_time(words: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let time = time_of_day(words)?;
    let today = local(now.date().to_datetime(time), now)?;
    if today <= now.timestamp() {
        return Some(today);
    }
    local(now.date().yesterday().ok()?.to_datetime(time), now)
}

/// `2026-12-01`, `2026-12-01 03:00`, `2026-12-01T03:00:15`.
fn date(words: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let (date, time) = words.split_once([' ', 't']).unwrap_or((words, ""));
    if date.len() != "2026-12-01".len() {
        return None;
    }
    let date: Date = date.parse().ok()?;
    let time = if time.is_empty() && words.len() == "2026-12-01".len() {
        Time::midnight()
    } else {
        time_of_day(time.trim())?
    };
    local(date.to_datetime(time), now)
}

fn absolute(text: &str) -> Option<Timestamp> {
    if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::from_second(seconds.parse().ok()?).ok();
    }
    text.parse().ok()
}

/// `3:00`, `03:00`, `03:00:15`, `03:00:15.25`.
fn time_of_day(text: &str) -> Option<Time> {
    let mut parts = text.split(':');
    let hour = two_digits(parts.next()?)?;
    let minute = two_digits(parts.next()?)?;
    let (second, nanos) = match parts.next() {
        None => (0, 0),
        Some(text) => {
            let (second, fraction) = text.split_once('.').unwrap_or((text, "0"));
            if fraction.is_empty()
                || fraction.len() > 9
                || !fraction.bytes().all(|byte| byte.is_ascii_digit())
            {
                return None;
            }
            (two_digits(second)?, format!("{fraction:0<9}").parse().ok()?)
        }
    };
    if parts.next().is_some() {
        return None;
    }
    Time::new(hour, minute, second, nanos).ok()
}

fn two_digits(text: &str) -> Option<i8> {
    ((1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// A time that the clocks skip is as long after the jump as it would have been; of one that they show twice the first.
fn local(at: DateTime, now: &ZonedDateTime) -> Option<Timestamp> {
    now.time_zone().to_timestamp(at).ok()
}

/// `1h`, `1h30m`, `10 min ago`, `1 hour 30 minutes ago`.
fn ago(words: &str, text: &str, now: &ZonedDateTime) -> Result<WallNs, WhenError> {
    let form = || WhenError::Form(text.to_owned());
    let mut rest = words.strip_suffix("ago").unwrap_or(words).trim_end();
    if !rest.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(form());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| form())?;
        let behind = behind.trim_start();
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        let scale = seconds_of(unit).ok_or_else(|| WhenError::Unit(text.to_owned()))?;
        total = number.checked_mul(scale).and_then(|sum| total.checked_add(sum)).ok_or_else(form)?;
        rest = behind.trim_start();
    }
    let range = || WhenError::Range(text.to_owned());
    let now = wall(now.timestamp(), text)?;
    let total = total.checked_mul(SECOND).ok_or_else(range)?;
    now.0.checked_sub(total).map(WallNs).ok_or_else(range)
}

fn seconds_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    /// 2026-12-01 02:30 in Berlin.
    fn now() -> ZonedDateTime {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        "2026-12-01T01:30:00Z".parse::<Timestamp>().expect("a time").to_zoned_datetime(zone)
    }

    fn read(text: &str) -> String {
        match parse(text, &now()) {
            Ok(at) => super::super::time::seconds(at),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn durations_are_ago() {
        for (text, expected) in [
            ("1h", "2026-12-01T00:30:00Z"),
            ("1m", "2026-12-01T01:29:00Z"),
            ("2h ago", "2026-11-30T23:30:00Z"),
            ("10 min ago", "2026-12-01T01:20:00Z"),
            ("10min ago", "2026-12-01T01:20:00Z"),
            ("  10  MIN  AGO ", "2026-12-01T01:20:00Z"),
            ("1h30m", "2026-12-01T00:00:00Z"),
            ("1 hour 30 minutes ago", "2026-12-01T00:00:00Z"),
            ("90 seconds ago", "2026-12-01T01:28:30Z"),
            ("1 day ago", "2026-11-30T01:30:00Z"),
            ("2w", "2026-11-17T01:30:00Z"),
            ("0s", "2026-12-01T01:30:00Z"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn days_and_times_are_local() {
        for (text, expected) in [
            ("now", "2026-12-01T01:30:00Z"),
            ("today", "2026-11-30T23:00:00Z"),
            ("today 01:15", "2026-12-01T00:15:00Z"),
            ("today 23:00", "2026-12-01T22:00:00Z"),
            ("yesterday", "2026-11-29T23:00:00Z"),
            ("Yesterday 03:00", "2026-11-30T02:00:00Z"),
            ("yesterday  3:00:15", "2026-11-30T02:00:15Z"),
            ("2026-11-24", "2026-11-23T23:00:00Z"),
            ("2026-07-24", "2026-07-23T22:00:00Z"),
            ("2026-11-24 03:41", "2026-11-24T02:41:00Z"),
            ("2026-11-24T03:41:27", "2026-11-24T02:41:27Z"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_last_one() {
        assert_eq!(read("02:00"), "2026-12-01T01:00:00Z");
        assert_eq!(read("02:30"), "2026-12-01T01:30:00Z");
        assert_eq!(read("02:31"), "2026-11-30T01:31:00Z");
        assert_eq!(read("23:00"), "2026-11-30T22:00:00Z");
        assert_eq!(read("2:00:05"), "2026-12-01T01:00:05Z");
    }

    #[test]
    fn absolute_times_have_their_own_zone() {
        assert_eq!(read("2026-11-24T03:41:27Z"), "2026-11-24T03:41:27Z");
        assert_eq!(read("2026-11-24 03:41:27+02:00"), "2026-11-24T01:41:27Z");
        assert_eq!(read("@1795491687"), "2026-11-24T03:41:27Z");
        let nanos = parse("2026-11-24T03:41:27.123456789Z", &now());
        assert_eq!(nanos, Ok(WallNs(1_795_491_687_123_456_789)));
        let local = parse("2026-11-24 04:41:27.123456789", &now());
        assert_eq!(local, Ok(WallNs(1_795_491_687_123_456_789)));
    }

    /// The last Sunday of March: 02:00 to 03:00 is skipped.
    #[test]
    fn times_around_a_change_of_the_clocks() {
        assert_eq!(read("2026-03-29 02:30"), "2026-03-29T01:30:00Z");
        assert_eq!(read("2026-10-25 02:30"), "2026-10-25T00:30:00Z");
    }

    #[test]
    fn what_is_no_time_is_reported_with_examples() {
        for text in [
            "",
            "soon",
            "ago",
            "-1h",
            "25:00",
            "3:60",
            "03:00:00:00",
            "2026-13-01",
            "2026-12-01 25:00",
            "2026-12-01T",
            "yesterday noon",
            "now 03:00",
            "today03:00",
            "12:3x",
        ] {
            let error = parse(text, &now()).expect_err(text);
            assert_eq!(error, WhenError::Form(text.to_owned()));
            assert!(error.to_string().contains("\"10 min ago\""), "{error}");
        }
        for text in ["10", "10 ago", "5 fortnights ago", "1h30", "1y"] {
            let error = parse(text, &now()).expect_err(text);
            assert_eq!(error, WhenError::Unit(text.to_owned()));
        }
        for text in ["9999w", "1969-12-31", "@-5", "9000-01-01"] {
            assert_eq!(parse(text, &now()), Err(WhenError::Range(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = parse(&text, &now());
        }

        #[test]
        fn rfc3339_reads_back(second in 0_u64..4_000_000_000) {
            let text = super::super::time::seconds(WallNs(second * SECOND));
            prop_assert_eq!(parse(&text, &now()), Ok(WallNs(second * SECOND)));
        }
    }
}
