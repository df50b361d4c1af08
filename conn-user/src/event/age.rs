//! How old a connection is that was there before it was seen: an interval, and how each bound is known.

use super::human;
use super::names::Named;
use super::wire::{self, encode};
use crate::flow::born::{Born, BornBy};
use crate::units::{BootNs, DurationNs};

/// What a snapshot saw less than so long ago is not known to be any older.
const JUST_NOW: DurationNs = DurationNs(1_000_000_000);

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

    /// The lower bound, where it is one that is worth a word: not that of a snapshot that was taken just now.
    fn lower(&self) -> Option<DurationNs> {
        (self.at_least_by != BornBy::Snapshot || self.at_least >= JUST_NOW).then_some(self.at_least)
    }

    /// Whether a bound is known that is worth a word.
    pub fn is_known(&self) -> bool {
        self.at_most.is_some() || self.lower().is_some()
    }

    /// Appends it for people: `3h12m..5h00m`, `≥3h12m` without an upper bound, `≤5h00m` without a lower one, `3h12m` where
    /// both read the same, `?` where neither is known. `blank` stands behind the signs. Upper bounds are rounded up.
    pub fn write_text(&self, blank: &str, out: &mut Vec<u8>) {
        let mut sign = |sign: &str| {
            out.extend_from_slice(sign.as_bytes());
            out.extend_from_slice(blank.as_bytes());
        };
        match (self.lower(), self.at_most) {
            (None, None) => out.push(b'?'),
            (None, Some(at_most)) => {
                sign("≤");
                human::write_duration_up(at_most, out);
            }
            (Some(at_least), None) => {
                sign("≥");
                human::write_duration(at_least, out);
            }
            (Some(at_least), Some(at_most)) => {
                let start = out.len();
                human::write_duration(at_most, out);
                let middle = out.len();
                human::write_duration(at_least, out);
                let same = out[start..middle] == out[middle..];
                out.drain(start..middle);
                if !same {
                    out.extend_from_slice(b"..");
                    human::write_duration_up(at_most, out);
                }
            }
        }
    }

    /// Appends it as [`Self::write_text`] does, but of two bounds the upper one alone: where there is little
    /// room.
    pub fn write_short(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.write_text("", out);
        if let Some(at_most) = self.at_most.filter(|_| out[start..].windows(2).any(|two| two == b"..")) {
            out.truncate(start);
            out.extend_from_slice("≤".as_bytes());
            human::write_duration_up(at_most, out);
        }
    }

    /// Appends it as a JSON object.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        encode(&self.shape(), out);
    }

    /// The form that it has in JSON.
    pub(crate) fn shape(&self) -> wire::Age<'static> {
        wire::Age {
            at_least_ns: self.at_least.0,
            at_most_ns: self.at_most.map(|at_most| at_most.0),
            at_least_by: self.at_least_by.name().into(),
            at_most_by: self.at_most_by.name().into(),
        }
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
        Age::of(born, BootNs(at)).write_text("", &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn an_interval_is_turned_round() {
        let at = 500 * MINUTE;
        assert_eq!(text(&born(Some(200 * MINUTE), 308 * MINUTE), at), "3h12m..5h00m");
        assert_eq!(text(&born(None, 308 * MINUTE), at), "≥3h12m");
        assert_eq!(text(&born(Some(308 * MINUTE), 308 * MINUTE + 1), at), "3h11m..3h12m");
        assert_eq!(text(&born(Some(308 * MINUTE - 5), 308 * MINUTE), at), "3h12m");
    }

    #[test]
    fn a_bound_that_says_nothing_is_not_shown_and_an_upper_one_is_never_too_low() {
        let at = 500 * MINUTE;
        let seen = |earliest: Option<u64>, ago: u64| Born {
            latest_by: BornBy::Snapshot,
            ..born(earliest.map(|ago| at - ago), at - ago)
        };
        let second = 1_000_000_000;
        assert_eq!(text(&seen(Some(431 * second), 5), at), "≤7m11s");
        assert_eq!(text(&seen(Some(431 * second + 1), 5), at), "≤7m12s", "rounded up");
        assert_eq!(text(&seen(Some(431 * second), 40 * second), at), "40.00s..7m11s", "seen 40 s ago");
        assert_eq!(text(&seen(None, 5), at), "?");
        assert!(!Age::of(&seen(None, 5), BootNs(at)).is_known());
        assert_eq!(text(&seen(None, 40 * second), at), "≥40.00s");
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
