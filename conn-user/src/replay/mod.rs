//! A recording judged again: its events into the same engine, by the time that they carry.
//!
//! The engine takes its time from events and from its timers, so what the agent did between two events is done here too: all
//! timers that are due before an event fire first, each at its own instant. Time ends with the recording. Facts that were found
//! out of a process in the background are known from when on the agent knew them: they are in later events, so the
//! recording is read ahead.

mod compressed;
pub mod file;
pub(crate) mod flows;
pub mod lines;
pub mod search;
#[cfg(test)]
pub(crate) mod tests;
pub mod zeek;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use self::flows::Living;
use crate::event::alert::Alert;
use crate::event::model::{Event, EventBody};
use crate::event::read::{News, Recorded};
use crate::process::identity::Identity;
use crate::rules::engine::LATE_FACTS;
use crate::rules::{Engine, RuleSet};
use crate::units::{BootNs, DurationNs, WallNs};

/// How many events are read ahead, at most: some 50 MB.
const AHEAD: usize = 65_536;

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayStats {
    /// Runs of an agent that the recording is of.
    pub runs: u64,
    /// Of them those without their start: what was there before is not known.
    pub without_start: u64,
    /// Events that were judged.
    pub events: u64,
    /// Alerts that were told when it was recorded.
    pub alerts_then: u64,
    /// Alerts that were told now.
    pub alerts: u64,
    /// Lost records that the recording tells of.
    pub lost: u64,
    /// Connections that were not followed, for want of room.
    pub not_followed: u64,
    /// The time from the first to the last event of each run, in sum.
    pub span: DurationNs,
    /// Timers of rules that wait for a time after the last event.
    pub waiting: usize,
}

/// A moment of a replay, before the engine gets to it.
#[derive(Clone, Copy)]
pub enum Moment<'a> {
    /// A run begins; what was there is judged.
    Start,
    /// Timers are due.
    Timer,
    /// An event is judged.
    Event(&'a Event),
}

/// Who watches a replay: gets each moment, its instant, and the engine as it is before.
pub type Watch<'r> = Box<dyn FnMut(Moment<'_>, BootNs, &Engine) + 'r>;

/// Replays one run of an agent after the other.
pub struct Replay<'r> {
    rules: &'r RuleSet,
    ahead: VecDeque<Recorded>,
    /// Facts that come, by when.
    news: BTreeMap<(BootNs, Reverse<u64>), (Identity, Identity)>,
    news_last: u64,
    run: Option<Run>,
    stats: ReplayStats,
    watch: Option<Watch<'r>>,
}

/// A run that is being replayed.
struct Run {
    engine: Engine,
    living: Living,
    began: BootNs,
    now: BootNs,
    /// What the wall clock is ahead of the time since boot, by the last event.
    wall: u64,
    seq: u64,
}

impl<'r> Replay<'r> {
    /// A replay against these rules.
    pub fn new(rules: &'r RuleSet) -> Self {
        Self {
            rules,
            ahead: VecDeque::new(),
            news: BTreeMap::new(),
            news_last: 0,
            run: None,
            stats: ReplayStats::default(),
            watch: None,
        }
    }

    /// Has this watch it.
    #[must_use]
    pub fn watched(mut self, watch: Watch<'r>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Takes a line, and what was found out with it. What is told is about lines that are [`AHEAD`] of it.
    pub fn take(&mut self, recorded: Recorded, news: Vec<News>, tell: &mut impl FnMut(&Event)) {
        for News { of, known, first, last, since } in news {
            // The agent asked again so long after the first event: most likely it knew then. It did not at the last event
            // without the fact, and it did at the first one with it.
            let asked = BootNs(first.0.saturating_add(LATE_FACTS.0));
            let at = asked.min(since).max(BootNs(last.0.saturating_add(1)));
            self.news_last += 1;
            self.news.insert((at, Reverse(self.news_last)), (of, known));
        }
        // What was there at the start is one with it.
        let is_there = matches!(recorded, Recorded::Event(Event { seq: 0, .. }));
        if self.ahead.len() >= AHEAD
            && !is_there
            && let Some(first) = self.ahead.pop_front()
        {
            self.judge(first, tell);
        }
        self.ahead.push_back(recorded);
    }

    /// The run ends with the last line: the next one is of another run, or there is none.
    pub fn end_run(&mut self, tell: &mut impl FnMut(&Event)) {
        while let Some(first) = self.ahead.pop_front() {
            self.judge(first, tell);
        }
        self.news.clear();
        let Some(run) = self.run.take() else { return };
        self.stats.span.0 += run.now.since(run.began).0;
        self.stats.waiting += run.engine.stats().timers;
        self.stats.not_followed += run.living.not_kept();
    }

    /// What was replayed so far.
    pub const fn stats(&self) -> ReplayStats {
        self.stats
    }

    fn judge(&mut self, recorded: Recorded, tell: &mut impl FnMut(&Event)) {
        let event = match recorded {
            Recorded::Event(event) => event,
            Recorded::Alert(at) => {
                self.stats.alerts_then += 1;
                if self.run.is_some() {
                    self.pass(at, tell);
                }
                return;
            }
            Recorded::Time(at) => {
                if self.run.is_some() {
                    self.pass(at, tell);
                }
                return;
            }
        };
        if self.run.is_none() {
            self.begin(&event, tell);
        }
        if matches!(event.body, EventBody::Start(_)) {
            return;
        }
        self.stats.events += 1;
        self.pass(event.boot, tell);
        let Some(run) = &mut self.run else { return };
        run.wall = event.wall.0.wrapping_sub(event.boot.0);
        let event = run.living.follow(event);
        if let EventBody::Gap(gap) = &event.body {
            self.stats.lost += gap.lost;
        }
        if let Some(watch) = &mut self.watch {
            watch(Moment::Event(&event), event.boot, &run.engine);
        }
        let alerts = run.engine.on_event(&event, &run.living);
        self.tell(alerts, tell);
    }

    /// Begins with the first event of a run. What was there follows it.
    fn begin(&mut self, first: &Event, tell: &mut impl FnMut(&Event)) {
        self.stats.runs += 1;
        let (attached, mut existing) = (
            match &first.body {
                EventBody::Start(start) => start.attached,
                _ => {
                    self.stats.without_start += 1;
                    first.boot
                }
            },
            Vec::new(),
        );
        let mut run = Run {
            engine: Engine::new(self.rules, attached).with_recorded_answers(),
            living: Living::default(),
            began: first.boot,
            now: first.boot,
            wall: first.wall.0.wrapping_sub(first.boot.0),
            seq: 0,
        };
        while let Some(Recorded::Event(Event { seq: 0, .. })) = self.ahead.front() {
            if let Some(Recorded::Event(event)) = self.ahead.pop_front() {
                existing.push(run.living.follow(event));
            }
        }
        self.stats.events += existing.len() as u64;
        if let Some(watch) = &mut self.watch {
            watch(Moment::Start, first.boot, &run.engine);
        }
        let alerts = run.engine.start(first.boot, existing, &run.living);
        self.run = Some(run);
        self.tell(alerts, tell);
    }

    /// Lets the time pass until then: timers fire at their instants, facts become known at theirs.
    fn pass(&mut self, until: BootNs, tell: &mut impl FnMut(&Event)) {
        loop {
            let Some(run) = &mut self.run else { return };
            let due = run.engine.next_deadline().filter(|due| *due <= until);
            let at = due.unwrap_or(until);
            while let Some(entry) = self.news.first_entry().filter(|entry| entry.key().0 <= at) {
                let (of, known) = entry.remove();
                of.learn(&known);
            }
            run.now = run.now.max(at);
            if due.is_none() {
                return;
            }
            if let Some(watch) = &mut self.watch {
                watch(Moment::Timer, at, &run.engine);
            }
            let alerts = run.engine.on_time(at, &run.living);
            self.tell(alerts, tell);
        }
    }

    fn tell(&mut self, alerts: Vec<Alert>, tell: &mut impl FnMut(&Event)) {
        let Some(run) = &mut self.run else { return };
        for alert in alerts {
            run.seq += 1;
            self.stats.alerts += 1;
            let (boot, wall) = (alert.at, WallNs(alert.at.0.wrapping_add(run.wall)));
            tell(&Event { seq: run.seq, boot, wall, body: EventBody::Alert(Box::new(alert)) });
        }
    }
}
