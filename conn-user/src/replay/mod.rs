//! A recording judged again: its events into the same engine, by the time that they carry.
//!
//! What the agent did, the same [`Session`] does here, in the order of the lines. Time ends with the recording. Facts that were
//! found out of a process in the background are known from when on the agent knew them: the recording says when. An older one does not:
//! they are in later events, so the recording is read ahead.

mod compressed;
mod error;
pub mod file;
pub mod lines;
pub mod search;
#[cfg(test)]
pub(crate) mod tests;
pub mod zeek;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Clock;
use crate::event::model::{Event, EventBody, Start};
use crate::event::read::{News, Recorded};
use crate::flow::model::Change;
use crate::process::info::ProcessInfo;
use crate::rules::detector::Flows;
use crate::rules::engine::LATE_FACTS;
use crate::rules::{Engine, RuleSet};
use crate::session::{Living, Session};
use crate::units::{BootNs, DurationNs};

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
    /// Alerts that were reported when it was recorded.
    pub alerts_then: u64,
    /// Alerts that were reported now.
    pub alerts: u64,
    /// Lost records that the recording reports.
    pub lost: u64,
    /// Connections that were not followed: limit reached.
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

/// Who watches a replay: gets each moment, its instant, and the engine and the connections as they are before.
pub type Watch<'r> = Box<dyn FnMut(Moment<'_>, BootNs, &Engine, &dyn Flows) + 'r>;

/// Replays one run of an agent after the other.
pub struct Replay<'r> {
    rules: &'r RuleSet,
    ahead: VecDeque<Recorded>,
    /// Facts of a run that has not begun yet.
    news: Vec<(BootNs, News)>,
    run: Option<Run>,
    stats: ReplayStats,
    watch: Option<Watch<'r>>,
}

/// A run that is being replayed.
struct Run {
    session: Session<Living>,
    /// It reports when facts became known.
    has_facts: bool,
    began: BootNs,
    now: BootNs,
}

impl<'r> Replay<'r> {
    /// A replay against these rules.
    pub fn new(rules: &'r RuleSet) -> Self {
        Self {
            rules,
            ahead: VecDeque::new(),
            news: Vec::new(),
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

    /// Takes a line, and what was found out with it. What is reported is about lines that are [`AHEAD`] of it.
    pub fn take(&mut self, recorded: Recorded, news: Vec<News>, emit: &mut impl FnMut(&Event)) {
        for news in news {
            // The agent asked again so long after the first event: most likely it knew then. It did not at the last event
            // without the fact, and it did at the first one with it.
            let asked = BootNs(news.first.0.saturating_add(LATE_FACTS.0));
            let at = asked.min(news.since).max(BootNs(news.last.0.saturating_add(1)));
            match &mut self.run {
                Some(run) => run.session.learn_at(at, news.of, news.known),
                None => self.news.push((at, news)),
            }
        }
        // What was there at the start is one with it.
        let is_there = matches!(recorded, Recorded::Event(Event { seq: 0, .. }));
        if self.ahead.len() >= AHEAD
            && !is_there
            && let Some(first) = self.ahead.pop_front()
        {
            self.judge(first, emit);
        }
        self.ahead.push_back(recorded);
    }

    /// The run ends with the last line: the next one is of another run, or there is none.
    pub fn end_run(&mut self, emit: &mut impl FnMut(&Event)) {
        while let Some(first) = self.ahead.pop_front() {
            self.judge(first, emit);
        }
        self.news.clear();
        let Some(mut run) = self.run.take() else { return };
        run.session.finish(&mut counted(&mut self.stats, emit));
        self.stats.span.0 += run.now.since(run.began).0;
        self.stats.waiting += run.session.engine().map_or(0, |engine| engine.stats().timers);
        self.stats.not_followed += run.session.flows.not_kept();
    }

    /// What was replayed so far.
    pub const fn stats(&self) -> ReplayStats {
        self.stats
    }

    fn judge(&mut self, recorded: Recorded, emit: &mut impl FnMut(&Event)) {
        let event = match recorded {
            Recorded::Event(event) => event,
            Recorded::Alert(at) => {
                self.stats.alerts_then += 1;
                if self.run.is_some() {
                    self.pass(at, emit);
                }
                return;
            }
            Recorded::Facts(at, facts) => {
                self.pass(at, emit);
                if let Some(run) = &mut self.run {
                    let mut emit = counted(&mut self.stats, emit);
                    facts.apply();
                    run.session.know(at, &facts.of, &mut emit);
                } else {
                    facts.apply();
                }
                return;
            }
            Recorded::Sample(at, sample) => {
                self.pass(at, emit);
                if let Some(run) = &mut self.run {
                    run.session.sampled(at, &sample, &mut counted(&mut self.stats, emit));
                }
                return;
            }
            Recorded::Time(at) => {
                if self.run.is_some() {
                    self.pass(at, emit);
                }
                return;
            }
        };
        if self.run.is_none() {
            self.begin(&event, emit);
        }
        if matches!(event.body, EventBody::Start(_)) {
            return;
        }
        self.stats.events += 1;
        self.pass(event.boot, emit);
        let Some(run) = &mut self.run else { return };
        run.session.set_clock(Clock::of(event.boot, event.wall));
        let event = run.session.flows.follow(event);
        if is_forgotten(&event) {
            run.session.forgotten(&event, &mut counted(&mut self.stats, emit));
            return;
        }
        if let EventBody::Gap(gap) = &event.body {
            self.stats.lost += gap.lost;
        }
        if let Some(process) = asked_of(&event).filter(|_| run.has_facts) {
            process.identity.ask_all();
        }
        if let (Some(watch), Some(engine)) = (&mut self.watch, run.session.engine()) {
            watch(Moment::Event(&event), event.boot, engine, &run.session.flows);
        }
        run.session.judge(&event, &mut counted(&mut self.stats, emit));
    }

    /// Begins with the first event of a run. What was there follows it.
    fn begin(&mut self, first: &Event, emit: &mut impl FnMut(&Event)) {
        self.stats.runs += 1;
        let mut existing = Vec::new();
        let Start { attached, has_facts } = match &first.body {
            EventBody::Start(start) => *start,
            _ => {
                self.stats.without_start += 1;
                Start { attached: first.boot, has_facts: false }
            }
        };
        let mut session = Session::new(Living::default(), Clock::of(first.boot, first.wall));
        for (at, News { of, known, .. }) in self.news.drain(..) {
            session.learn_at(at, of, known);
        }
        let is_there = |recorded: &mut Recorded| matches!(recorded, Recorded::Event(event) if event.seq == 0 && !is_forgotten(event));
        while let Some(Recorded::Event(event)) = self.ahead.pop_front_if(is_there) {
            let event = session.flows.follow(event);
            if let Some(process) = asked_of(&event) {
                process.identity.ask_all();
            }
            existing.push(event);
        }
        self.stats.events += existing.len() as u64;
        let mut engine = Engine::new(self.rules, attached).with_recorded_answers();
        if has_facts {
            engine = engine.with_delivered_facts().with_held_alerts();
        }
        if let Some(watch) = &mut self.watch {
            watch(Moment::Start, first.boot, &engine, &session.flows);
        }
        session.start(engine, first.boot, existing, &mut counted(&mut self.stats, emit));
        self.run = Some(Run { session, has_facts, began: first.boot, now: first.boot });
    }

    /// Lets the time pass until then.
    fn pass(&mut self, until: BootNs, emit: &mut impl FnMut(&Event)) {
        let Some(run) = &mut self.run else { return };
        run.now = run.now.max(until);
        let mut before = |at: BootNs, engine: &Engine, flows: &mut Living| {
            if let Some(watch) = &mut self.watch {
                watch(Moment::Timer, at, engine, flows);
            }
        };
        run.session.pass_and(until, &mut before, &mut counted(&mut self.stats, emit));
    }
}

/// Whether the event says that a connection is not followed any more ([`Session::forget`]): what was there at the start has no
/// number either, but does not begin with its end.
fn is_forgotten(event: &Event) -> bool {
    event.seq == 0 && matches!(event.body, EventBody::Flow(Change::Close(..)))
}

/// The process of which the agent asks all with this event, unless it did before: it uses the network. Of
/// what is executed it asked less before, which is answered and settled by then.
fn asked_of(event: &Event) -> Option<&Arc<ProcessInfo>> {
    match &event.body {
        EventBody::Flow(change) => {
            let actor = change.connection().map(|conn| &conn.owner);
            actor.or_else(|| change.listener().map(|listener| &listener.owner))?.process.as_ref()
        }
        EventBody::Exec(exec) => {
            // Of what ran before the agent also where it exchanges data with who has a connection.
            let has_peers = event.seq == 0 && !exec.stdio_peers.is_empty();
            Some(&exec.process).filter(|_| exec.stdio.is_some() || exec.parent_stdio.is_some() || has_peers)
        }
        _ => None,
    }
}

/// Counts the alerts that are reported.
fn counted(stats: &mut ReplayStats, emit: &mut impl FnMut(&Event)) -> impl FnMut(&Event) {
    |event| {
        stats.alerts += 1;
        emit(event);
    }
}
