//! A session: rules, their time, and the stream of events that they judge.
//!
//! The agent, a replay, `conn run`, tests of rules and the detectors' test rig all drive rules through a [`Session`]. It owns the
//! engine, the view of living connections that detectors ask, the numbers of events, and the delivery of facts that the
//! background finds. What it does depends only on the order of calls, so that a recording, which has that order, gives the
//! same alerts.
//!
//! # The session clock
//!
//! * The clock is the largest instant among the events judged and the timers fired so far. It never goes back.
//! * Before an event is judged, every timer that is due at or before the clock or the event's own instant, whichever is
//!   later, fires, earliest first, each at its own instant. Timers due at one instant fire in the order in which they were set.
//! * An event may carry an instant before the clock: records are in the order of their reservation in the ring and carry the
//!   instant at which the program ran, so two CPUs or hooks swap within microseconds; a connect that waited for its port
//!   (`flow/lookups.rs`) and a gap carry older ones. Such an event is judged where it stands in the stream, with its own instant.
//!   What it sets for an instant that has passed fires before the next event.
//! * The tables change with a record, before its events are judged. So a driver lets time pass ([`Session::pass`]) up to the
//!   record's instant first: a timer that fires sees the connections as they were.
//! * Time passes without events, too: a driver says how far ([`Session::pass`]). The clock moves only to the timers that
//!   fire, not to the instant up to which it looked: nothing else can be distinguished.
//!
//! # Facts
//!
//! What the background finds out of a process comes as [`Answer`]s. The driver hands them over between two records
//! ([`Session::deliver`]), never in the middle of one; then everything that holds the process has them, events that wait for them are
//! judged again, and [`EventBody::Facts`] shows the point. A replay applies them there. Recordings without such lines know them only by
//! later events; there [`Session::learn_at`] sets the most likely instant.
//!
//! # What the stream must show
//!
//! A replay knows the clock by the instants of the events. When a timer fired and an event older than it follows, the events do
//! not show how far the clock had come. Then [`EventBody::Clock`] goes before the event. With it the clock of a replay is, at
//! each event, that of the run. Alerts count for nothing here: a recording without them is as good.

pub mod living;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::living::Living;
use crate::clock::Clock;
use crate::event::alert::Alert;
use crate::event::model::{Event, EventBody, Facts};
use crate::flow::model::{Actor, Change, ConnEvent, EndedHow, Ending, UnknownReason};
use crate::flow::sample::Sample;
use crate::process::identity::Identity;
use crate::process::inspect::Answer;
use crate::rules::Engine;
use crate::rules::detector::Flows;
use crate::units::BootNs;

/// What happens next while time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Facts,
    Timer(BootNs),
}

/// An engine with its clock, the connections that its detectors ask for, and the numbers of the events.
pub struct Session<F> {
    /// The connections that live.
    pub flows: F,
    engine: Option<Engine>,
    /// The instant that the stream shows: of the latest event handed out.
    shown: BootNs,
    seq: u64,
    records: bool,
    clock: Clock,
    /// Facts of a recording that become known at an instant: of what, and what.
    upcoming: BTreeMap<(BootNs, Reverse<u64>), (Identity, Identity)>,
    upcoming_last: u64,
}

impl<F: Flows> Session<F> {
    /// Returns a session without rules, whose events have the wall time that this clock says.
    pub fn new(flows: F, clock: Clock) -> Self {
        Self {
            flows,
            engine: None,
            shown: BootNs(0),
            seq: 0,
            records: false,
            clock,
            upcoming: BTreeMap::new(),
            upcoming_last: 0,
        }
    }

    /// Has the stream show what a replay needs.
    pub const fn record(&mut self) {
        self.records = true;
    }

    /// Begins to judge by this engine at `now`; `existing` are the connections and listeners from before, as events.
    pub fn start(
        &mut self,
        engine: Engine,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        out: &mut impl FnMut(&Event),
    ) {
        let engine = self.engine.insert(engine);
        let alerts = engine.start(now, existing, &self.flows);
        self.emit_alerts(alerts, out);
    }

    /// Lets time pass up to `now`, then has the rules replaced by a function that gets the connections and the engine, and returns
    /// the alerts.
    pub fn set_rules(
        &mut self,
        now: BootNs,
        replace: impl FnOnce(&F, &mut Option<Engine>) -> Vec<Alert>,
        out: &mut impl FnMut(&Event),
    ) {
        self.pass(now, out);
        let alerts = replace(&self.flows, &mut self.engine);
        self.emit_alerts(alerts, out);
    }

    /// The engine, once it judges.
    pub const fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Replaces the wall clock, which may have been set.
    pub const fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The wall clock.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The instant of the next timer, or of facts that become known.
    pub fn next_deadline(&self) -> Option<BootNs> {
        let facts = self.upcoming.first_key_value().map(|((at, _), _)| *at);
        [facts, self.engine.as_ref().and_then(Engine::next_deadline)].into_iter().flatten().min()
    }

    /// Makes these facts known at an instant. Of two at one instant the later call comes first.
    pub fn learn_at(&mut self, at: BootNs, of: Identity, known: Identity) {
        self.upcoming_last += 1;
        self.upcoming.insert((at, Reverse(self.upcoming_last)), (of, known));
    }

    /// Lets time pass up to an instant: timers fire and facts become known, each at its own.
    #[inline]
    pub fn pass(&mut self, until: BootNs, out: &mut impl FnMut(&Event)) {
        if self.is_due(until) {
            self.pass_and(until, &mut |_, _, _| {}, out);
        }
    }

    /// Lets time pass up to an instant, as [`Self::pass`] does; `before` is called with the instant of each
    /// timer before it fires.
    pub fn pass_and(
        &mut self,
        until: BootNs,
        before: &mut impl FnMut(BootNs, &Engine, &mut F),
        out: &mut impl FnMut(&Event),
    ) {
        while let Some(next) = self.next_until(until) {
            match next {
                Next::Facts => {
                    let Some(((at, _), (of, known))) = self.upcoming.pop_first() else { return };
                    of.learn(&known);
                    self.know(at, &of, out);
                }
                Next::Timer(due) => {
                    let Some(engine) = &mut self.engine else { return };
                    before(due, engine, &mut self.flows);
                    let alerts = engine.fire_next(until, &self.flows);
                    self.emit_alerts(alerts, out);
                }
            }
        }
    }

    /// Whether a timer is due at or before an instant or the clock, or facts become known.
    #[inline]
    fn is_due(&self, until: BootNs) -> bool {
        self.next_until(until).is_some()
    }

    #[inline]
    fn next_until(&self, until: BootNs) -> Option<Next> {
        let timer = self.engine.as_ref().and_then(|engine| engine.next_due(until));
        let facts = self.upcoming.first_key_value().map(|((at, _), _)| *at);
        if let Some(facts) = facts
            && facts <= timer.unwrap_or(until)
        {
            return Some(Next::Facts);
        }
        timer.map(Next::Timer)
    }

    /// Numbers an event, hands it out, and judges it; the alerts follow it.
    pub fn emit(&mut self, boot: BootNs, body: EventBody, out: &mut impl FnMut(&Event)) {
        self.pass(boot, out);
        self.show_clock(boot, out);
        self.seq += 1;
        let event = Event { seq: self.seq, boot, wall: self.clock.wall(boot), body };
        self.shown = self.shown.max(boot);
        out(&event);
        self.judge(&event, out);
    }

    /// Hands out an event without a number that is not judged: of a recording alone.
    pub fn note(&mut self, boot: BootNs, body: EventBody, out: &mut impl FnMut(&Event)) {
        self.shown = self.shown.max(boot);
        out(&Event { seq: 0, boot, wall: self.clock.wall(boot), body });
    }

    /// Judges an event that has a number, after the timers due by then; the alerts are handed out, the event is not.
    pub fn judge(&mut self, event: &Event, out: &mut impl FnMut(&Event)) {
        self.pass(event.boot, out);
        let Some(engine) = &mut self.engine else { return };
        let alerts = engine.on_event(event, &self.flows);
        if !alerts.is_empty() {
            self.emit_alerts(alerts, out);
        }
    }

    /// Makes an answer of the background known, at this point of the stream: between two events, at the clock's instant. Timers that are
    /// due by the clock fire before; the stream shows it.
    pub fn deliver(&mut self, answer: Answer, out: &mut impl FnMut(&Event)) {
        let now = self.engine.as_ref().map_or(self.shown, |engine| engine.now().max(self.shown));
        self.pass(now, out);
        let process = Arc::clone(answer.process());
        answer.apply();
        let facts = Facts { is_settled: process.identity.is_settled(), process: Arc::clone(&process) };
        self.note(now, EventBody::Facts(facts), out);
        self.know(now, &process.identity, out);
    }

    /// Makes a sample known, at this point of the stream, as [`Self::deliver`] does.
    pub fn deliver_sample(&mut self, sample: Sample, out: &mut impl FnMut(&Event)) {
        let now = self.engine.as_ref().map_or(self.shown, |engine| engine.now().max(self.shown));
        self.pass(now, out);
        self.note(now, EventBody::Sample(sample), out);
        self.sampled(now, &sample, out);
    }

    /// Has the rules judge a sample that they asked for, at this instant.
    pub fn sampled(&mut self, at: BootNs, sample: &Sample, out: &mut impl FnMut(&Event)) {
        let Some(engine) = &mut self.engine else { return };
        let alerts = engine.on_sample(sample, at, &self.flows);
        self.emit_alerts(alerts, out);
    }

    /// Judges again what waits for facts of this identity, which were applied at this instant.
    pub fn know(&mut self, at: BootNs, identity: &Identity, out: &mut impl FnMut(&Event)) {
        let Some(engine) = &mut self.engine else { return };
        let alerts = engine.on_facts(identity, at, &self.flows);
        self.emit_alerts(alerts, out);
    }

    /// Events that wait for facts, and connections that wait to be sampled.
    pub fn waiting(&self) -> usize {
        self.engine.as_ref().map_or(0, Engine::waiting)
    }

    /// Alerts that wait for facts of their process.
    pub fn held(&self) -> usize {
        self.engine.as_ref().map_or(0, Engine::held)
    }

    /// The stream ends, and no more facts come: what waits for them is judged, and alerts that wait are
    /// handed out, by what is known.
    pub fn finish(&mut self, out: &mut impl FnMut(&Event)) {
        let Some(engine) = &mut self.engine else { return };
        let alerts = engine.on_last_facts(&self.flows);
        self.emit_alerts(alerts, out);
    }

    /// A connection is not followed any more, and no event shows its end: there was no room, or a record begins anew what the
    /// start-up snapshot had. The stream shows it as a close without a number.
    pub fn forget(&mut self, conn: ConnEvent, out: &mut impl FnMut(&Event)) {
        let Some(engine) = &self.engine else { return };
        let now = engine.now().max(self.shown);
        self.pass(now, out);
        let closer = Actor::unknown(UnknownReason::Lost);
        let ending = Ending { how: EndedHow::Unseen, errno: 0, closer, duration: None, traffic: None };
        let body = EventBody::Flow(Change::Close(conn, ending));
        let event = Event { seq: 0, boot: now, wall: self.clock.wall(now), body };
        if self.records {
            self.shown = now;
            out(&event);
        }
        self.forgotten(&event, out);
    }

    /// Handles what [`Self::forget`] has the stream show.
    pub fn forgotten(&mut self, event: &Event, out: &mut impl FnMut(&Event)) {
        let Some(engine) = &mut self.engine else { return };
        let alerts = engine.forget(event, &self.flows);
        self.emit_alerts(alerts, out);
    }

    /// Numbers and hands out an alert that no rule raised: one about the agent itself.
    pub fn report(&mut self, alert: Alert, out: &mut impl FnMut(&Event)) {
        self.emit_alerts(vec![alert], out);
    }

    /// The clock is ahead of what the stream shows with an event of this instant.
    fn show_clock(&mut self, boot: BootNs, out: &mut impl FnMut(&Event)) {
        let Some(now) = self.engine.as_ref().map(Engine::now) else { return };
        if self.records && now > self.shown.max(boot) {
            self.note(now, EventBody::Clock, out);
        }
    }

    fn emit_alerts(&mut self, alerts: Vec<Alert>, out: &mut impl FnMut(&Event)) {
        for alert in alerts {
            self.seq += 1;
            let (boot, wall) = (alert.at, self.clock.wall(alert.at));
            out(&Event { seq: self.seq, boot, wall, body: EventBody::Alert(Box::new(alert)) });
        }
    }
}
