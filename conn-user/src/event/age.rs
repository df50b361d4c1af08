//! How old a connection is that was there before it was seen: an interval, and how each bound is known.

use super::address::write_int;
use super::human;
use super::names::Named;
use crate::flow::born::{Born, BornBy};
use crate::units::{BootNs, DurationNs};

/// The age of a connection or listener at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// It is at least so old.
    pub at_least: DurationNs,
    /// It is at most so old; `None`: as old as the boot, at most.
    pub at_most: Option<DurationNs>,
    /// How `at_least` is known.
    pub at_least_by: BornBy,
    /// How `at_most` is known.
    pub at_most_by: BornBy,
}

impl Age {
    /// The age at `at` of what was born then.
    pub fn of(born: &Born, at: BootNs) -> Self {
        Self {
            at_least: at.since(born.latest),
            at_most: born.earliest().map(|earliest| at.since(earliest)),
            at_least_by: born.latest_by,
            at_most_by: born.earliest_by,
        }
    }

    /// Appends it for people: `3h12m..5h00m`, `>3h12m` without an upper bound, `3h12m` where both bounds read the same.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let Some(at_most) = self.at_most else {
            out.push(b'>');
            return human::write_duration(self.at_least, out);
        };
        let start = out.len();
        human::write_duration(self.at_least, out);
        let middle = out.len();
        out.extend_from_slice(b"..");
        human::write_duration(at_most, out);
        if out[start..middle] == out[middle + 2..] {
            out.truncate(middle);
        }
    }

    /// Appends it as a JSON object.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"at_least_ns\":");
        write_int(self.at_least.0, out);
        out.extend_from_slice(b",\"at_most_ns\":");
        match self.at_most {
            Some(at_most) => write_int(at_most.0, out),
            None => out.extend_from_slice(b"null"),
        }
        for (key, by) in [(",\"at_least_by\":\"", self.at_least_by), (",\"at_most_by\":\"", self.at_most_by)]
        {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(by.name().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    fn born(earliest: Option<u64>, latest: u64) -> Born {
        Born {
            earliest: BootNs(earliest.unwrap_or(0)),
            latest: BootNs(latest),
            earliest_by: BornBy::OwnerStart,
            latest_by: BornBy::LastActivity,
        }
    }

    fn text(born: &Born, at: u64) -> String {
        let mut out = Vec::new();
        Age::of(born, BootNs(at)).write_text(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn an_interval_is_turned_round() {
        let at = 500 * MINUTE;
        assert_eq!(text(&born(Some(200 * MINUTE), 308 * MINUTE), at), "3h12m..5h00m");
        assert_eq!(text(&born(None, 308 * MINUTE), at), ">3h12m");
        assert_eq!(text(&born(Some(308 * MINUTE), 308 * MINUTE + 1), at), "3h11m..3h12m");
        assert_eq!(text(&born(Some(308 * MINUTE - 5), 308 * MINUTE), at), "3h12m");
    }

    #[test]
    fn an_age_is_never_negative() {
        assert_eq!(text(&born(Some(5), 9), 3), "0ns");
    }

    #[test]
    fn as_json() {
        let mut out = Vec::new();
        Age::of(&born(None, 4), BootNs(10)).write_json(&mut out);
        let expected =
            r#"{"at_least_ns":6,"at_most_ns":null,"at_least_by":"last_activity","at_most_by":"owner_start"}"#;
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}
