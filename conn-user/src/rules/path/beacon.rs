//! `find = "beacon"`: a program that connects to one peer at regular intervals.
//!
//! For each program (where it is not known: each host), remote address and port the last calls are kept: when each began and,
//! once it has ended, how much it sent. The score is the mean of the regularity of the intervals and of the sizes, see
//! [`super::score`]; while too few sizes are known, that of the intervals alone.
//!
//! A call is one connection, or a burst of them: what begins within `apart` of the one before, or of the end of one, belongs to
//! the same call, and so do calls that are far less apart than the long intervals. Else a program that fetches one file after the other, or opens four connections at each call, would be as
//! regular as a clock: nearly all of its intervals are equally short. RITA takes one connection a second; its intervals are
//! whole seconds, and so they are here where calls are at least a second apart.
//!
//! RITA's mean has two more scores, which judge a day when it is over: how even the counts of its hours are, and how many hours it
//! goes on. They keep a beacon below 0.75 until it has called in eleven hours of the day; here it is to be reported by then.

use std::collections::VecDeque;

use super::score::score;
use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::{Event, EventBody};
use crate::flow::model::{Change, ConnEvent, Source};
use crate::process::hash::IntMap;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::lru::Lru;
use crate::rules::model::Rule;
use crate::rules::{program, suppression};
use crate::units::{BootNs, DurationNs};

/// Quartiles of intervals that are less apart have no skew: see [`super::score`].
const NEGLIGIBLE_INTERVAL: DurationNs = DurationNs(10_000_000_000);
/// Quartiles of sizes that are less bytes apart have no skew: see [`super::score`].
const NEGLIGIBLE_SIZE: u64 = 10;
/// Calls of a path that are judged.
const KEPT: usize = 64;
/// Calls that are less apart than this part of the seventh eighth of the intervals are one.
const BURST: u64 = 10;
const SECOND: DurationNs = DurationNs(1_000_000_000);
/// Most paths; the one that was used longest ago is evicted.
const PATHS_MAX: usize = 16_384;
/// Most open connections whose size is waited for; of others it is not known, and they count as forgotten.
const OPEN_MAX: usize = 65_536;

/// One connection, or several that are less apart than the rule's calls.
#[derive(Clone, Debug)]
struct Call {
    begun: BootNs,
    /// Bytes sent, of those of its connections that have ended. `None`: none has, or nothing is known of it.
    size: Option<u64>,
    /// Its connections that are open, as far as they are followed.
    open: u32,
}

#[derive(Clone, Debug, Default)]
struct Path {
    calls: VecDeque<Call>,
    /// How many were dropped before the first that is kept.
    dropped: u64,
    /// When its latest connection began, or one ended.
    active: BootNs,
}

/// Finds regular connections to one host.
#[derive(Clone, Debug)]
pub(super) struct Beacon {
    limit: f64,
    at_least: usize,
    apart: DurationNs,
    paths: Lru<Path>,
    /// The paths of open connections, and the number of the call.
    open: IntMap<u64, (u64, u64)>,
    forgotten: u64,
    numbers: Vec<u64>,
}

impl Beacon {
    pub(super) fn new(limit: f64, at_least: u32, apart: DurationNs) -> Self {
        Self {
            limit,
            at_least: (at_least as usize).clamp(4, KEPT),
            apart,
            paths: Lru::default(),
            open: IntMap::default(),
            forgotten: 0,
            numbers: Vec::new(),
        }
    }

    /// The path, which is used now.
    fn path(&mut self, key: u64) -> Option<&mut Path> {
        if self.paths.contains_key(key) {
            self.paths.touch(key);
        } else {
            if self.paths.len() >= PATHS_MAX {
                self.forgotten += u64::from(self.paths.evict().is_some());
            }
            self.paths.insert(key, Path::default());
        }
        self.paths.get_mut(key)
    }

    /// Explains by the measures so far.
    fn explain(&self, path: u64, says: impl FnOnce(&Measures) -> String) -> Note {
        let Some(path) = self.paths.get(path) else { return Note::new("it is not counted") };
        let measures = path.measure(self.at_least, self.apart, &mut Vec::new());
        Note::new(says(&measures)).with(measures.evidence()).with([
            Evidence::number("at_least", self.at_least as u64),
            Evidence::new("limit", Value::Score(self.limit)),
        ])
    }

    /// The measures, where enough is known.
    fn judge(&mut self, path: u64) -> Option<Measures> {
        let path = self.paths.get(path).filter(|path| path.calls.len() >= self.at_least)?;
        let measures = path.measure(self.at_least, self.apart, &mut self.numbers);
        Some(measures).filter(|measures| measures.connections >= self.at_least as u64)
    }
}

impl Path {
    /// As the calls are so far; their sizes count where `at_least` but one are known.
    ///
    /// Calls that are far less apart than the long intervals are one, too: of a program that opens three connections in three seconds
    /// each hour, two in three intervals are equal.
    fn measure(&self, at_least: usize, apart: DurationNs, numbers: &mut Vec<u64>) -> Measures {
        let whole = |interval: u64| {
            if apart >= SECOND { (interval + SECOND.0 / 2) / SECOND.0 * SECOND.0 } else { interval }
        };
        let gaps = || {
            let begun = self.calls.iter().map(|call| call.begun);
            begun.clone().zip(begun.skip(1)).map(|(one, next)| next.since(one).0)
        };
        numbers.clear();
        numbers.extend(gaps());
        numbers.sort_unstable();
        let usual = numbers.get(numbers.len() * 7 / 8).copied().unwrap_or(0);
        let is_same_call = |gap: u64| gap < usual / BURST;
        numbers.clear();
        let mut interval = 0;
        for gap in gaps() {
            interval += gap;
            if !is_same_call(gap) {
                numbers.push(whole(interval));
                interval = 0;
            }
        }
        let connections = numbers.len() as u64 + 1;
        let (of_intervals, interval) = score(numbers, NEGLIGIBLE_INTERVAL.0);
        numbers.clear();
        let mut sum = None;
        for (call, gap) in self.calls.iter().zip(gaps().map(Some).chain([None])) {
            // Of a call that is not over the size is not known.
            let size = call.size.filter(|_| call.open == 0);
            sum = match (sum, size) {
                (None, size) => size,
                (sum, None) => sum,
                (Some(sum), Some(size)) => Some(size.saturating_add(sum)),
            };
            if !gap.is_some_and(is_same_call) {
                // A connection that sends nothing is as regular as one that sends a byte.
                numbers.extend(sum.take().map(|size| size.saturating_add(1)));
            }
        }
        let of_sizes = (numbers.len() + 1 >= at_least).then(|| {
            let (score, size) = score(numbers, NEGLIGIBLE_SIZE);
            (score, size.saturating_sub(1))
        });
        Measures { connections, intervals: (of_intervals, DurationNs(interval)), sizes: of_sizes }
    }

    /// Adds a connection; the first of too many calls goes. Returns whether it begins a call.
    fn begin(&mut self, at: BootNs, apart: DurationNs) -> bool {
        let is_new = self.calls.is_empty() || at.since(self.active) >= apart;
        self.active = self.active.max(at);
        if is_new {
            if self.calls.len() == KEPT {
                self.calls.pop_front();
                self.dropped += 1;
            }
            self.calls.push_back(Call { begun: at, size: None, open: 0 });
        }
        is_new
    }

    /// The number of the latest call.
    fn latest(&self) -> u64 {
        self.dropped + self.calls.len().saturating_sub(1) as u64
    }

    fn call(&mut self, number: u64) -> Option<&mut Call> {
        self.calls.get_mut(usize::try_from(number.checked_sub(self.dropped)?).ok()?)
    }
}

/// How regular the connections of a path are, each with what is usual.
#[derive(Debug)]
struct Measures {
    connections: u64,
    intervals: (f64, DurationNs),
    sizes: Option<(f64, u64)>,
}

impl Measures {
    fn score(&self) -> f64 {
        self.sizes.map_or(self.intervals.0, |(of_sizes, _)| f64::midpoint(self.intervals.0, of_sizes))
    }

    fn evidence(&self) -> Vec<Evidence> {
        let score = |name, score| Evidence::new(name, Value::Score(score));
        let mut evidence = vec![
            score("score", self.score()),
            Evidence::number("connections", self.connections),
            Evidence::duration("interval", self.intervals.1),
            score("interval_score", self.intervals.0),
        ];
        if let Some((of_sizes, size)) = self.sizes {
            evidence.push(Evidence::number("size", size));
            evidence.push(score("size_score", of_sizes));
        }
        evidence
    }
}

fn path_of(conn: &ConnEvent) -> u64 {
    program::key(&(program::of_connection(conn), conn.remote.ip(), conn.service_port()))
}

impl Detector for Beacon {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        // When what was there before began is not known.
        if conn.source != Source::Live {
            return context.note(|| Note::new("it was there before: when it began is not known"));
        }
        let (key, apart) = (path_of(conn), self.apart);
        let Some(path) = self.path(key) else { return };
        // An event that is judged late comes out of its order.
        if path.calls.back().is_some_and(|last| event.boot <= last.begun) {
            return context.note(|| Note::new("one that began later was judged before"));
        }
        let is_new = path.begin(event.boot, apart);
        let (latest, first) = (path.latest(), path.calls.front().map_or(event.boot, |call| call.begun));
        if self.open.len() >= OPEN_MAX {
            self.forgotten += 1;
        } else if context.follow(conn.id) {
            self.open.insert(conn.id.0, (key, latest));
            if let Some(call) = self.paths.get_mut(key).and_then(|path| path.call(latest)) {
                call.open += 1;
            }
        }
        if !is_new {
            return context
                .note(|| self.explain(key, |_| "it belongs to the same call as the one before".to_owned()));
        }
        let Some(measures) = self.judge(key) else {
            return context.note(|| {
                self.explain(key, |measures| {
                    let (has, score) = (measures.connections, measures.score());
                    let so_far =
                        if has > 3 { format!("; so far they score {score:.3}") } else { String::new() };
                    format!("with this one {has} of {} connections{so_far}", self.at_least)
                })
            });
        };
        let (score, limit) = (measures.score(), self.limit);
        debug_assert!(score <= 1.0);
        if score < limit {
            return context.note(|| self.explain(key, |_| format!("they score {score:.3} of {limit:.3}")));
        }
        context.note(|| self.explain(key, |_| format!("they score {score:.3}, at least {limit:.3}")));
        if context.is_reported(rule, key) {
            return;
        }
        let found = Found {
            dedup_key: key,
            evidence: measures.evidence(),
            suppress: suppression::of_connection(conn, true),
            judged_from: first,
            life: Life::Moment,
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, _context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let Some((key, number)) = self.open.remove(&conn.id.0) else { return };
        let size = match &event.body {
            EventBody::Flow(Change::Close(_, ending)) => ending.traffic.map(|traffic| traffic.bytes_out),
            _ => None,
        };
        let Some(path) = self.paths.get_mut(key) else { return };
        path.active = path.active.max(event.boot);
        if let Some(call) = path.call(number) {
            call.open = call.open.saturating_sub(1);
            if let Some(size) = size {
                call.size = Some(call.size.unwrap_or(0).saturating_add(size));
            }
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::model::{EndedHow, Traffic};
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, evidence, process, rule};
    use crate::units::DurationNs;

    fn beacon(score: f64, at_least: u32, apart_ms: u64) -> PathRule {
        PathRule::Beacon { score, at_least, apart: DurationNs(apart_ms * 1_000_000) }
    }

    fn rig() -> Rig {
        Rig::new(rule(Detect::Path(beacon(0.9, 12, 0)), "dir:out"))
    }

    /// Connections at these distances, milliseconds.
    fn connect(rig: &mut Rig, distances: impl IntoIterator<Item = u64>) -> usize {
        let agent = process(10, "/usr/local/bin/agent");
        let mut reported = 0;
        for (at, distance) in (0..).zip(distances) {
            rig.pass(DurationNs(distance * 1_000_000));
            let traffic = Traffic { bytes_out: 300 + at % 3, ..Traffic::default() };
            rig.open_and_close(&agent, "203.0.113.9:443", Some(traffic));
            reported += rig.reported().len();
        }
        reported
    }

    #[test]
    fn a_clock_with_jitter_is_reported_once() {
        let mut rig = rig();
        assert_eq!(connect(&mut rig, (0..11).map(|at| 60_000 + at * 7919 % 2_000)), 0, "too few");
        let agent = process(10, "/usr/local/bin/agent");
        rig.pass(DurationNs(60_500_000_000));
        rig.open(&agent, "203.0.113.9:443");
        let alert = rig.only();
        assert_eq!(evidence(&alert, "connections"), Some(&Value::Number(12)));
        let Some(Value::Duration(interval)) = evidence(&alert, "interval") else { panic!("{alert:?}") };
        assert!((60..62).contains(&(interval.0 / 1_000_000_000)), "{interval:?}");
        assert_eq!(connect(&mut rig, (0..20).map(|_| 60_000)), 0, "within the throttle");
    }

    #[test]
    fn people_are_no_clock() {
        let mut rig = rig();
        let bursts =
            (0..60).map(|at| if at % 6 == 0 { 97_000 + at * 13_001 } else { 150 + at * at % 37 * 90 });
        assert_eq!(connect(&mut rig, bursts), 0);
    }

    /// The scenario `alert::path-beacon` on a machine where each call takes half a second: its odd pauses are nearly one interval,
    /// so with equal sizes it is a beacon. With odd sizes it is none, however long a call takes.
    #[test]
    fn slow_calls_at_odd_times_are_regular_unless_their_sizes_are_odd() {
        const PAUSES: [u64; 8] = [0, 20, 700, 60, 10, 500, 30, 900];
        let alerts = |limit, sizes: [u64; 8], each: u64| {
            let mut rig = Rig::new(rule(Detect::Path(beacon(limit, 8, 0)), "dir:out"));
            let agent = process(10, "/usr/local/bin/agent");
            for (pause, bytes_out) in PAUSES.into_iter().zip(sizes) {
                rig.pass(DurationNs((pause + each) * 1_000_000));
                let traffic = Traffic { bytes_out, ..Traffic::default() };
                rig.open_and_close(&agent, "203.0.113.9:443", Some(traffic));
            }
            rig.reported().len()
        };
        assert_eq!([0, 90, 500].map(|each| alerts(0.7, [0; 8], each)), [0, 0, 1]);
        let odd = [16, 4096, 1, 256, 4, 1024, 64, 1];
        assert_eq!([0, 90, 500, 60_000].map(|each| alerts(0.6, odd, each)), [0; 4]);
    }

    /// Alerts of a program whose connections each begin so long after the last one began, and last so long (milliseconds), and send so
    /// much.
    fn alerts(connections: impl IntoIterator<Item = (u64, u64, u64)>) -> usize {
        let mut rig = Rig::new(rule(Detect::Path(beacon(0.9, 12, 1_000)), "dir:out"));
        let agent = process(10, "/usr/local/bin/agent");
        let mut reported = 0;
        let mut lasted = 0;
        for (after, lasts, bytes_out) in connections {
            rig.pass(DurationNs((after - lasted) * 1_000_000));
            let id = rig.open(&agent, "203.0.113.9:443");
            reported += rig.reported().len();
            rig.pass(DurationNs(lasts * 1_000_000));
            rig.close(id, EndedHow::LocalFin, Some(Traffic { bytes_out, ..Traffic::default() }));
            lasted = lasts;
        }
        reported
    }

    #[test]
    fn bursts_and_one_file_after_the_other_are_no_clock() {
        let odd = |at: u64| 20_000 + at * at * 7_919 % 90_000;
        assert_eq!(
            alerts((0..200).map(|at| (if at % 4 == 0 { odd(at) } else { 12 }, 10, odd(at)))),
            0,
            "bursts of four"
        );
        assert_eq!(alerts((0..200).map(|_| (110, 100, 300))), 0, "200 files");
        assert_eq!(alerts((0..200).map(|_| (4_010, 4_000, 300))), 0, "200 large files");
        assert_eq!(alerts((0..200).map(|_| (500, 10, 300))), 0, "twice a second");
        let slow_bursts = (0..200).map(|at| (if at % 4 == 0 { odd(at) } else { 1_500 }, 10, odd(at)));
        assert_eq!(alerts(slow_bursts), 0, "bursts of four, a second and a half apart");
    }

    #[test]
    fn a_clock_is_one_with_bursts_and_with_jitter() {
        assert_eq!(
            alerts((0..200).map(|at| (if at % 4 == 0 { 60_000 } else { 12 }, 10, 300))),
            1,
            "bursts of four"
        );
        assert_eq!(alerts((0..40).map(|at| (60_000 + at * 7_919 % 6_000, 400, 300))), 1);
        assert_eq!(alerts((0..40).map(|at| (1_100 + at * 7_919 % 200, 10, 300))), 1, "of a second");
    }

    #[test]
    fn other_peers_are_apart() {
        let mut rig = rig();
        let agent = process(10, "/usr/local/bin/agent");
        for at in 0..64 {
            rig.pass(DurationNs(1_000_000_000));
            rig.open_and_close(&agent, &format!("203.0.113.{at}:443"), None);
        }
        assert!(rig.reported().is_empty());
    }
}
