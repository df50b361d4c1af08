//! `find = "volume"`: a program sends more to one remote address than it ever did, on one connection or within a window.
//!
//! Counters of open connections are sampled: first after some seconds, then less often while nothing is sent. Volumes are
//! distinguished by powers of two of the limit: a backup that grows slowly is raised at each doubling, and not every night.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use crate::event::alert::{Evidence, Subject};
use crate::event::model::{Event, EventBody};
use crate::flow::model::{Change, ConnEvent, ConnId, Source};
use crate::flow::sample::Sample;
use crate::process::hash::IntMap;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::path_memory::{PathMemory, Reporter};
use crate::rules::timers::TimerId;
use crate::rules::{program, suppression};
use crate::units::{BootNs, DurationNs};

/// Limit of tracked connections; one beyond it is counted as forgotten.
const OPEN_MAX: usize = 16_384;
/// Limit of programs with a remote address; the one that was first is forgotten.
const PAIRS_MAX: usize = 16_384;
/// When a connection is sampled first: most are closed by then.
const FIRST: DurationNs = DurationNs(10_000_000_000);
/// How often while it sends, and at least while it does not.
const BUSY: DurationNs = DurationNs(30_000_000_000);
const QUIET: DurationNs = DurationNs(480_000_000_000);
/// Connections that are due so soon are sampled together.
const TOGETHER: DurationNs = DurationNs(1_000_000_000);
/// What is sent in one step of counting and is less than this part of the limit is not counted: a pair that sends little costs nothing.
const PART: u64 = 16_384;
/// Parts of the window.
const PARTS: usize = 8;

/// An open connection.
#[derive(Clone, Debug)]
struct Open {
    pair: u64,
    /// Bytes that were sent when it was sampled last. `None`: it is older than the rule, and was not sampled yet.
    sent: Option<u64>,
    /// Of these, those that were sent before the rule saw it.
    before: u64,
    /// What the last sample had, also what did not count.
    sampled: u64,
    again: DurationNs,
}

/// A program and a remote address.
#[derive(Clone, Debug, Default)]
struct Pair {
    /// Bytes by part of the window.
    parts: [u64; PARTS],
    /// Number of the latest part, since boot.
    latest: u64,
    /// Volumes below this level are known.
    known: u8,
    /// An alert was raised, and data flow still: it is one transfer.
    is_raised: bool,
}

impl Pair {
    /// Moves the window to this part. Returns whether it is empty.
    fn slide(&mut self, part: u64) -> bool {
        for number in self.latest + 1..=part.min(self.latest + PARTS as u64) {
            self.parts[number as usize % PARTS] = 0;
        }
        self.latest = self.latest.max(part);
        self.parts.iter().all(|bytes| *bytes == 0)
    }
}

/// Finds transfers of more than was ever sent to a host.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    limit: u64,
    window: DurationNs,
    open: IntMap<u64, Open>,
    /// When connections are due; of those that have ended, too.
    due: BinaryHeap<Reverse<(BootNs, u64)>>,
    timer: Option<(BootNs, TimerId)>,
    pairs: IntMap<u64, Pair>,
    /// Pairs in their order.
    order: VecDeque<u64>,
    /// Levels of pairs in earlier runs.
    earlier: HashSet<u64>,
    /// Where it reports what it learns.
    reporter: Option<Reporter>,
    forgotten: u64,
}

impl Volume {
    pub(super) fn new(limit: u64, window: DurationNs) -> Self {
        Self {
            limit: limit.max(1),
            window,
            open: IntMap::default(),
            due: BinaryHeap::new(),
            timer: None,
            pairs: IntMap::default(),
            order: VecDeque::new(),
            earlier: HashSet::new(),
            reporter: None,
            forgotten: 0,
        }
    }

    /// Returns the level of a volume: 0 below the limit, 1 below twice the limit, and so on.
    fn level(&self, bytes: u64) -> u8 {
        (bytes / self.limit).checked_ilog2().map_or(0, |power| power as u8 + 1)
    }

    fn part(&self, at: BootNs) -> u64 {
        at.0 / (self.window.0 / PARTS as u64).max(1)
    }

    /// Returns the state of a pair, which begins with what earlier runs knew.
    fn pair(&mut self, pair: u64) -> &mut Pair {
        if !self.pairs.contains_key(&pair) {
            if self.order.len() >= PAIRS_MAX
                && let Some(oldest) = self.order.pop_front()
                && self.pairs.remove(&oldest).is_some_and(|oldest| oldest.known > 0)
            {
                self.forgotten += 1;
            }
            self.order.push_back(pair);
        }
        let earlier = &self.earlier;
        self.pairs
            .entry(pair)
            .or_insert_with(|| Pair { known: level_of_earlier_runs(earlier, pair), ..Pair::default() })
    }

    /// Explains what is counted.
    fn explain(&self, pair: u64) -> Note {
        let known = self
            .pairs
            .get(&pair)
            .map_or_else(|| level_of_earlier_runs(&self.earlier, pair), |pair| pair.known);
        let volume = if known == 0 { 0 } else { self.limit.saturating_mul(1 << (known - 1).min(63)) };
        let facts = [("limit", self.limit), ("known", volume)];
        Note::new("what it sends is counted while it is open")
            .with(facts.map(|(name, bytes)| Evidence::number(name, bytes)))
            .waits()
    }

    /// Counts what a connection has sent in all by now. Returns the volume that is more than ever, if it is.
    fn count(&mut self, id: u64, sent: u64, now: BootNs) -> Option<u64> {
        let open = self.open.get_mut(&id)?;
        let pair = open.pair;
        let Some(last) = open.sent.replace(sent) else {
            open.before = sent;
            return None;
        };
        let more = sent.saturating_sub(last);
        if more < self.limit / PART {
            // It counts with what comes.
            open.sent = Some(last);
            return None;
        }
        let of_connection = sent.saturating_sub(open.before);
        let part = self.part(now);
        let state = self.pair(pair);
        if state.slide(part) {
            state.is_raised = false;
        }
        let latest = &mut state.parts[(part % PARTS as u64) as usize];
        *latest = latest.saturating_add(more);
        let in_window = state.parts.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let (known, is_raised) = (state.known, state.is_raised);
        let volume = of_connection.max(in_window);
        let level = self.level(volume);
        if level <= known {
            return None;
        }
        let state = self.pair(pair);
        (state.known, state.is_raised) = (level, true);
        if let Some(reporter) = &self.reporter {
            reporter.learn(remembered(pair, level), &mut self.forgotten);
        }
        Some(volume).filter(|_| !is_raised)
    }

    fn raise(&self, conn: ConnEvent, pair: u64, volume: u64, rule: &Rule, context: &mut Context<'_>) {
        let found = Found {
            dedup_key: program::key(&(pair, self.level(volume))),
            evidence: vec![
                Evidence::number("sent", volume),
                Evidence::number("limit", self.limit),
                Evidence::duration("window", self.window),
            ],
            suppress: suppression::of_connection(&conn, true),
            judged_from: context.began,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn)),
        };
        context.raise(rule, found);
    }

    /// Has a connection sampled after this time.
    fn sample_after(&mut self, id: u64, after: DurationNs, context: &mut Context<'_>) {
        self.due.push(Reverse((BootNs(context.now.0.saturating_add(after.0)), id)));
        self.set_timer(context);
    }

    fn set_timer(&mut self, context: &mut Context<'_>) {
        let Some(Reverse((first, _))) = self.due.peek() else { return };
        match self.timer {
            Some((at, _)) if at <= *first => return,
            Some((_, timer)) => context.cancel_timer(timer),
            None => {}
        }
        self.timer = Some((*first, context.set_timer(*first, 0)));
    }
}

/// Returns the level that a pair has reached in earlier runs.
fn level_of_earlier_runs(earlier: &HashSet<u64>, pair: u64) -> u8 {
    (1..=64).rev().find(|level| earlier.contains(&remembered(pair, *level))).unwrap_or(0)
}

/// Returns what is kept of a level that a pair has reached.
fn remembered(pair: u64, level: u8) -> u64 {
    program::key(&("volume", pair, level))
}

/// Returns the program and the remote address.
fn pair_of(conn: &ConnEvent) -> u64 {
    program::key(&(program::of_connection(conn), conn.remote.ip()))
}

impl Detector for Volume {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn restore(&mut self, rule: &Rule, memory: &PathMemory, now: BootNs) {
        // Another limit is another memory.
        let name: Arc<str> = format!("{} volume {}", rule.about.id, self.limit).into();
        if let Some(known) = memory.of(&name) {
            self.earlier.extend(&known.paths);
        }
        self.reporter = Some(Reporter::begin(memory, name, now, &mut self.forgotten));
    }

    fn on_match(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        context.note(|| self.explain(pair_of(conn)));
        if self.open.contains_key(&conn.id.0) {
            return;
        }
        if self.open.len() >= OPEN_MAX || self.due.len() >= 2 * OPEN_MAX {
            self.forgotten += 1;
            context.note(|| Note::new("what it sends is not counted: limit reached"));
        } else if context.follow(conn.id) {
            let is_new = conn.source == Source::Live && !context.existing;
            let open =
                Open { pair: pair_of(conn), sent: is_new.then_some(0), before: 0, sampled: 0, again: BUSY };
            self.open.insert(conn.id.0, open);
            let after = if is_new { FIRST } else { DurationNs(0) };
            self.sample_after(conn.id.0, after, context);
        }
    }

    fn on_timer(&mut self, _rule: &Rule, _token: u64, context: &mut Context<'_>) {
        self.timer = None;
        let until = BootNs(context.now.0.saturating_add(TOGETHER.0));
        while let Some(&Reverse((at, id))) = self.due.peek()
            && at <= until
        {
            self.due.pop();
            let Some(open) = self.open.get(&id) else { continue };
            let again = open.again;
            if let Some(conn) = context.flows.connection(ConnId(id)) {
                context.sample(&conn);
            }
            self.due.push(Reverse((BootNs(until.0.saturating_add(again.0)), id)));
        }
        self.set_timer(context);
    }

    fn on_sample(&mut self, rule: &Rule, sample: &Sample, context: &mut Context<'_>) {
        let Some(open) = self.open.get_mut(&sample.id.0) else { return };
        let pair = open.pair;
        let sent = sample.counters.map(|counters| counters.bytes_out);
        let is_busy = sent.is_some_and(|sent| sent > std::mem::replace(&mut open.sampled, sent));
        open.again = if is_busy { BUSY } else { DurationNs(QUIET.0.min(2 * open.again.0)) };
        if let Some(sent) = sent
            && let Some(volume) = self.count(sample.id.0, sent, context.now)
            && let Some(conn) = context.flows.connection(sample.id)
        {
            self.raise(conn, pair, volume, rule, context);
        }
    }

    fn on_end(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        if let EventBody::Flow(Change::Close(_, ending)) = &event.body
            && let Some(traffic) = ending.traffic
            && let Some(open) = self.open.get(&conn.id.0)
        {
            let pair = open.pair;
            if let Some(volume) = self.count(conn.id.0, traffic.bytes_out, event.boot) {
                self.raise(conn.clone(), pair, volume, rule, context);
            }
        }
        self.open.remove(&conn.id.0);
        if self.open.is_empty() {
            self.due.clear();
            if let Some((_, timer)) = self.timer.take() {
                context.cancel_timer(timer);
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
    use crate::event::alert::{Phase, Value};
    use crate::flow::model::{Direction, EndedHow, Traffic};
    use crate::flow::sample::{Counters, Question};
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, evidence, process, rule, seconds};
    use std::sync::mpsc::Receiver;

    const LIMIT: u64 = 1 << 30;

    fn before() -> (Rig, Receiver<Question>) {
        let detect = PathRule::Volume { sent: LIMIT, window: seconds(3_600) };
        Rig::before(vec![rule(Detect::Path(detect), "dir:out")]).sampling()
    }

    fn rig() -> (Rig, Receiver<Question>) {
        let (mut rig, questions) = before();
        rig.begin();
        (rig, questions)
    }

    /// Lets time pass and answers what was asked: so much has been sent.
    fn pass(rig: &mut Rig, questions: &Receiver<Question>, time: u64, sent: u64) -> usize {
        rig.pass(seconds(time));
        let asked: Vec<_> = questions.try_iter().collect();
        for question in &asked {
            let (asked, received) = (rig.now, rig.now);
            rig.sampled(
                question.id,
                Some(Counters { asked, bytes_in: 0, bytes_out: sent, received, sent: received }),
            );
        }
        asked.len()
    }

    fn sent(bytes: u64) -> Traffic {
        Traffic { bytes_out: bytes, ..Traffic::default() }
    }

    #[test]
    fn while_it_is_open_and_once() {
        let (mut rig, questions) = rig();
        let id = rig.open(&process(10, "/usr/bin/curl"), "203.0.113.9:443");
        assert_eq!(pass(&mut rig, &questions, 9, 0), 0);
        assert_eq!(pass(&mut rig, &questions, 1, LIMIT / 2), 1);
        assert!(rig.reported().is_empty());
        assert_eq!(pass(&mut rig, &questions, 31, LIMIT), 1);
        let alert = rig.only();
        assert_eq!(evidence(&alert, "sent"), Some(&Value::Number(LIMIT)));
        assert_eq!(pass(&mut rig, &questions, 31, 20 * LIMIT), 1);
        assert!(rig.reported().is_empty(), "it is the same transfer");
        rig.close(id, EndedHow::LocalFin, Some(sent(20 * LIMIT)));
        assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    }

    /// Many small connections, the last of which is short.
    #[test]
    fn of_many_connections() {
        let (mut rig, _questions) = rig();
        let curl = process(10, "/usr/bin/curl");
        for part in 1..=8 {
            rig.open_and_close(&curl, "203.0.113.9:443", Some(sent(LIMIT / 8)));
            rig.open_and_close(&curl, "203.0.113.10:443", Some(sent(LIMIT / 16)));
            rig.open_and_close(&process(10, "/usr/bin/git"), "203.0.113.9:443", Some(sent(LIMIT / 16)));
            assert_eq!(rig.reported().len(), if part == 8 { 2 } else { 0 });
        }
        // More than before, but slowly.
        for _ in 0..20 {
            rig.pass(seconds(3_600));
            rig.open_and_close(&curl, "203.0.113.10:443", Some(sent(LIMIT / 2)));
            assert!(rig.reported().is_empty());
        }
    }

    /// A known volume is not raised again, twice as much is.
    #[test]
    fn more_than_ever() {
        let (mut rig, _questions) = rig();
        let backup = process(10, "/usr/bin/restic");
        let mut night = |volume: u64| {
            rig.open_and_close(&backup, "203.0.113.9:443", Some(sent(volume)));
            rig.pass(seconds(86_400));
            rig.reported().iter().filter(|alert| alert.phase == Phase::Raised).count()
        };
        let nights = [LIMIT, LIMIT, LIMIT * 3 / 2, 2 * LIMIT, 3 * LIMIT, 3 * LIMIT, 9 * LIMIT, LIMIT];
        assert_eq!(nights.map(&mut night), [1, 0, 0, 1, 0, 0, 1, 0]);
    }

    /// What was sent before is not counted; what an idle connection sends slowly is.
    #[test]
    fn one_from_before() {
        let (mut rig, questions) = before();
        rig.existing(Direction::Out, &process(10, "/opt/replica"), None, "203.0.113.9:5432");
        rig.begin();
        assert_eq!(pass(&mut rig, &questions, 0, 50 * LIMIT), 1);
        assert!(rig.reported().is_empty());
        let mut total = 50 * LIMIT;
        while rig.reported().is_empty() {
            total += LIMIT / 100;
            pass(&mut rig, &questions, 3_600, total);
            assert!(total <= 51 * LIMIT + LIMIT / 50, "the volume of a connection counts beyond the window");
        }
    }

    /// A connection that sends nothing is sampled less and less often, and nothing is left of one that has ended.
    #[test]
    fn an_idle_connection_costs_little() {
        let (mut rig, questions) = rig();
        let id = rig.open(&process(10, "/usr/bin/curl"), "203.0.113.9:443");
        let samples: usize = (0..3_600).map(|_| pass(&mut rig, &questions, 1, 100)).sum();
        assert!((8..=14).contains(&samples), "{samples}");
        rig.close(id, EndedHow::LocalFin, Some(sent(100)));
        rig.pass(seconds(1_000));
        assert_eq!((rig.timers(), rig.followed(), questions.try_iter().count()), (0, 0, 0));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        use crate::rules::path_memory::{KnownByRule, Learned};
        let run = |known: KnownByRule, volume: u64| {
            let (memory, _, reports) = PathMemory::new(known);
            let detect = PathRule::Volume { sent: LIMIT, window: seconds(3_600) };
            let mut rig = Rig::before(vec![rule(Detect::Path(detect), "dir:out")]).remembering(memory);
            // A recording has no memory.
            rig.is_not_recorded();
            rig.begin();
            rig.open_and_close(&process(10, "/usr/bin/restic"), "203.0.113.9:443", Some(sent(volume)));
            let mut known = KnownByRule::new();
            for learned in reports.try_iter() {
                if let Learned::Path(name, path) = learned {
                    let known = known.entry(Box::from(&*name)).or_default();
                    known.paths.push(path);
                }
            }
            (rig.reported().len(), known)
        };
        let (raised, known) = run(KnownByRule::new(), 3 * LIMIT);
        assert_eq!(raised, 2, "raised and resolved");
        assert_eq!(run(known.clone(), 3 * LIMIT).0, 0);
        assert_eq!(run(known, 4 * LIMIT).0, 2);
    }
}
