//! The agent's own health as alerts: what is wrong with it is raised, escalated and resolved under one id, like what rules find.
//!
//! Such alerts have rules of the kind `health`, with ids that begin with `conn.`. They are not made by the engine: they exist without
//! rules too, and have ids of their own ([`FIRST_ID`]), so the ids of the engine's alerts, and what a replay gives, stay the same.
//!
//! A condition that comes again while its alert is open is counted as a repeat. It must have been over for a while before it is
//! resolved, so that what comes and goes does not fill the outputs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::event::alert::{Alert, AlertId, Covered, Evidence, Phase, RuleKind, RuleRef, Severity, Subject};
use crate::event::degraded::{Degradation, Degraded};
use crate::event::names::Named as _;
use crate::event::time::Rfc3339;
use crate::kernel::gap::Gap;
use crate::units::{BootNs, DurationNs};

/// The id of the first alert about the agent itself in a run. Rules never raise so many.
pub const FIRST_ID: AlertId = AlertId(1_000_000_000_000);

/// The output that is the clients of the socket: one that reads slowly loses its own events, which is an event and no alert. Else
/// whoever may connect could raise alerts at will.
pub const CLIENTS: &str = "socket";

const SECOND: u64 = 1_000_000_000;
/// How long nothing may be lost or dropped before that is over.
const QUIET: DurationNs = DurationNs(60 * SECOND);
/// How long an output must work before it works again.
const STEADY: DurationNs = DurationNs(10 * SECOND);
/// How long a limit must not be reached before that is over.
const WITHIN_LIMITS: DurationNs = DurationNs(600 * SECOND);
/// Losses that go on for so long are more severe.
const LASTING: DurationNs = DurationNs(600 * SECOND);
/// The wall clock jumped if it moved by more than this and a thousandth of the time against the time since boot. NTP slews it by at
/// most half of that thousandth.
pub const JUMP_MIN: DurationNs = DurationNs(SECOND);

/// What can be wrong with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Records were lost.
    Loss,
    /// An output drops lines: it takes them more slowly than they come.
    QueueFull,
    /// An output cannot be written.
    OutputDead,
    /// The history cannot be written.
    History,
    /// The wall clock was set.
    ClockJump,
    /// A limit was reached, see [`Degradation`].
    Degraded,
}

/// A change of an output, as whoever owns it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// What is concerned.
    pub condition: Condition,
    /// Where: the name of an output.
    pub place: Arc<str>,
    /// Whether it is wrong now; else it is right again.
    pub is_wrong: bool,
    /// What is known of it.
    pub evidence: Vec<Evidence>,
}

/// A condition, and where.
type Key = (Condition, Option<Arc<str>>);

struct Open {
    alert: Alert,
    /// When it came last.
    last: BootNs,
    /// When it is over, unless it comes again before.
    over: Option<(BootNs, Vec<Evidence>)>,
}

/// The open alerts about the agent itself.
#[derive(Default)]
pub(super) struct Health {
    raised: u64,
    open: BTreeMap<Key, Open>,
    /// Outputs that dropped lines, which may be because they cannot be written.
    dropping: Vec<(Arc<str>, Vec<Evidence>)>,
    reported: Vec<Alert>,
    clock_read: Option<BootNs>,
}

impl Condition {
    /// The id of its rule.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Loss => "conn.loss",
            Self::QueueFull => "conn.queue-full",
            Self::OutputDead => "conn.output-dead",
            Self::History => "conn.history",
            Self::ClockJump => "conn.clock-jump",
            Self::Degraded => "conn.degraded",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Loss => "Monitoring gap: kernel records lost",
            Self::QueueFull => "Monitoring degraded: output queue full, events dropped",
            Self::OutputDead => "Monitoring degraded: output not writable",
            Self::History => "Monitoring degraded: history not writable",
            Self::ClockJump => "System clock changed during monitoring",
            Self::Degraded => "Monitoring degraded: internal limit reached",
        }
    }

    const fn severity(self) -> Severity {
        match self {
            Self::Loss | Self::QueueFull | Self::OutputDead | Self::History => Severity::Medium,
            Self::ClockJump | Self::Degraded => Severity::Low,
        }
    }

    /// After so long without another report it is over; `None`: somebody reports that.
    const fn quiet(self) -> Option<DurationNs> {
        match self {
            Self::QueueFull | Self::ClockJump => Some(QUIET),
            Self::Degraded => Some(WITHIN_LIMITS),
            Self::Loss | Self::OutputDead | Self::History => None,
        }
    }
}

impl HealthReport {
    /// An output cannot be written.
    pub fn fails(condition: Condition, place: &Arc<str>, error: &dyn fmt::Display) -> Self {
        let evidence = vec![Evidence::text("error", error.to_string().into_bytes())];
        Self { condition, place: Arc::clone(place), is_wrong: true, evidence }
    }

    /// An output is written again; so much was dropped meanwhile.
    pub fn works(condition: Condition, place: &Arc<str>, dropped: u64) -> Self {
        let evidence = vec![Evidence::number("dropped", dropped)];
        Self { condition, place: Arc::clone(place), is_wrong: false, evidence }
    }
}

impl Health {
    /// Records were lost.
    pub(super) fn on_gap(&mut self, gap: &Gap) {
        let evidence = vec![
            Evidence::text("hook", gap.hook.label().as_bytes()),
            Evidence::number("lost", gap.lost),
            Evidence::text("cause", gap.cause.name().as_bytes()),
        ];
        self.wrong((Condition::Loss, None), evidence, gap.to);
    }

    /// The tables were compared with a snapshot that was begun at `seen`.
    pub(super) fn on_repair(&mut self, seen: BootNs, now: BootNs) {
        let key = (Condition::Loss, None);
        if self.open.get(&key).is_some_and(|open| open.last <= seen) {
            self.right(&key, Vec::new(), QUIET, now);
        }
    }

    /// Something was dropped or not followed.
    pub(super) fn on_degraded(&mut self, degraded: &Degraded, now: BootNs) {
        let count = Evidence::number("count", degraded.count);
        match (degraded.what, &degraded.place) {
            (Degradation::Output, Some(place)) if **place == *CLIENTS => {}
            (Degradation::Output, Some(place)) => self.dropping.push((Arc::clone(place), vec![count])),
            (Degradation::Output, None) => {}
            (what, _) => {
                let evidence = vec![count, Evidence::text("of", what.counted().as_bytes())];
                self.wrong((Condition::Degraded, Some(what.name().into())), evidence, now);
            }
        }
    }

    /// An output changed.
    pub(super) fn on_report(&mut self, report: HealthReport, now: BootNs) {
        let HealthReport { condition, place, is_wrong, evidence } = report;
        let key = (condition, Some(place));
        if is_wrong {
            self.wrong(key, evidence, now);
        } else {
            self.right(&key, evidence, STEADY, now);
        }
    }

    /// The clocks were read again at `now`: the wall clock is `clock`, and was `before`.
    pub(super) fn on_clock(&mut self, before: &Clock, clock: &Clock, now: BootNs) {
        let elapsed = self.clock_read.replace(now).map_or(DurationNs(0), |last| now.since(last));
        let (from, to) = (before.wall(now), clock.wall(now));
        let moved = DurationNs(from.0.abs_diff(to.0));
        if moved.0 <= JUMP_MIN.0 + elapsed.0 / 1000 {
            return;
        }
        let time = |at| {
            let mut text = Vec::new();
            Rfc3339::default().write(at, &mut text);
            text
        };
        let direction: &[u8] = if to > from { b"forward" } else { b"back" };
        let evidence = vec![
            Evidence::text("from", time(from)),
            Evidence::text("to", time(to)),
            Evidence::duration("moved", moved),
            Evidence::text("direction", direction),
        ];
        self.wrong((Condition::ClockJump, None), evidence, now);
    }

    /// Decides what is over and what got worse. To be called after the reports of the outputs.
    pub(super) fn pass(&mut self, now: BootNs) {
        for (place, evidence) in std::mem::take(&mut self.dropping) {
            let is_open = |condition| self.open.contains_key(&(condition, Some(Arc::clone(&place))));
            // It is known why.
            if !is_open(Condition::OutputDead) && !is_open(Condition::History) {
                self.wrong((Condition::QueueFull, Some(place)), evidence, now);
            }
        }
        let is_over = |_: &Key, open: &mut Open| open.over.as_ref().is_some_and(|(over, _)| *over <= now);
        for (_, open) in self.open.extract_if(.., is_over) {
            let (at, evidence) = open.over.unwrap_or((now, Vec::new()));
            self.reported.push(Alert { phase: Phase::Resolved, at, evidence, ..open.alert });
        }
    }

    /// When [`Self::pass`] must be called next.
    pub(super) fn next_deadline(&self) -> Option<BootNs> {
        self.open.values().filter_map(|open| open.over.as_ref().map(|(over, _)| *over)).min()
    }

    /// Whether [`Self::pass`] or [`Self::take`] has something to do.
    pub(super) fn is_due(&self, now: BootNs) -> bool {
        !self.reported.is_empty()
            || !self.dropping.is_empty()
            || self.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// What is to be reported, in its order.
    pub(super) fn take(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.reported)
    }

    /// The severities of those that are open.
    pub(super) fn open_severities(&self) -> impl Iterator<Item = Severity> {
        self.open.values().map(|open| open.alert.severity)
    }

    fn wrong(&mut self, key: Key, mut evidence: Vec<Evidence>, now: BootNs) {
        let condition = key.0;
        let over = condition.quiet().map(|quiet| (BootNs(now.0.saturating_add(quiet.0)), Vec::new()));
        if let Some(open) = self.open.get_mut(&key) {
            open.last = open.last.max(now);
            open.over = over;
            open.alert.repeats += 1;
            if condition == Condition::Loss
                && open.alert.severity < Severity::High
                && now.since(open.alert.raised) >= LASTING
            {
                open.alert.severity = Severity::High;
                let alert = Alert { phase: Phase::Escalated, at: now, evidence, ..open.alert.clone() };
                open.alert.repeats = 0;
                self.reported.push(alert);
            }
            return;
        }
        if let Some(place) = &key.1 {
            // Of a limit it is which one.
            let name = if condition == Condition::Degraded { "limit" } else { "place" };
            evidence.insert(0, Evidence::text(name, place.as_bytes()));
        }
        let alert = Alert {
            id: AlertId(FIRST_ID.0 + self.raised),
            phase: Phase::Raised,
            severity: condition.severity(),
            rule: Arc::new(RuleRef {
                id: condition.rule().into(),
                kind: RuleKind::Health,
                title: condition.title().into(),
                attack: Box::default(),
            }),
            subject: Subject::Absence,
            evidence,
            covered: Covered::All,
            suppress: None,
            at: now,
            raised: now,
            repeats: 0,
        };
        self.raised += 1;
        self.reported.push(alert.clone());
        self.open.insert(key, Open { alert, last: now, over });
    }

    fn right(&mut self, key: &Key, evidence: Vec<Evidence>, steady: DurationNs, now: BootNs) {
        if let Some(open) = self.open.get_mut(key)
            && open.over.is_none()
        {
            open.over = Some((BootNs(now.0.saturating_add(steady.0)), evidence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::gap::GapCause;
    use crate::units::WallNs;
    use conn_common::hook::HookId;

    const ERROR: &str = "No space left on device";

    fn at(seconds: u64) -> BootNs {
        BootNs(seconds * SECOND)
    }

    fn gap(to: u64) -> Gap {
        let hook = HookId::FentryTcpClose;
        Gap { hook, cpu: Some(0), lost: 5, from: at(to - 1), to: at(to), cause: GapCause::RingFull }
    }

    /// What is reported when this instant has come: the alert's number, its step, and the id of its rule.
    fn steps(health: &mut Health, now: u64) -> Vec<(u64, Phase, Box<str>)> {
        health.pass(at(now));
        let alerts = health.take();
        alerts.iter().map(|alert| (alert.id.0 - FIRST_ID.0, alert.phase, alert.rule.id.clone())).collect()
    }

    #[test]
    fn a_loss_is_over_when_it_was_repaired_and_all_was_quiet() {
        let mut health = Health::default();
        health.on_gap(&gap(10));
        health.on_gap(&gap(11));
        assert_eq!(steps(&mut health, 11), [(0, Phase::Raised, "conn.loss".into())], "one alert for both");
        assert_eq!(health.next_deadline(), None, "it is not repaired");
        health.on_repair(at(10), at(12));
        assert_eq!(health.next_deadline(), None, "that was before the second loss");
        health.on_repair(at(12), at(13));
        health.on_gap(&gap(20));
        assert_eq!(steps(&mut health, 100), [], "another one came meanwhile");
        health.on_repair(at(21), at(22));
        assert_eq!(steps(&mut health, 81), []);
        assert_eq!(health.next_deadline(), Some(at(82)));
        assert!(health.is_due(at(82)) && !health.is_due(at(81)));
        assert_eq!(steps(&mut health, 82), [(0, Phase::Resolved, "conn.loss".into())]);
        health.on_gap(&gap(90));
        assert_eq!(steps(&mut health, 90), [(1, Phase::Raised, "conn.loss".into())], "the next one");
    }

    #[test]
    fn losses_that_go_on_are_more_severe_once() {
        let mut health = Health::default();
        for second in [10, 300, 609] {
            health.on_gap(&gap(second));
        }
        assert_eq!(steps(&mut health, 609).len(), 1);
        health.on_gap(&gap(610));
        health.pass(at(610));
        let alerts = health.take();
        let [alert] = &alerts[..] else { panic!("{alerts:?}") };
        assert_eq!((alert.phase, alert.severity, alert.repeats), (Phase::Escalated, Severity::High, 3));
        health.on_gap(&gap(700));
        assert_eq!(steps(&mut health, 700), []);
        assert_eq!(health.open_severities().collect::<Vec<_>>(), [Severity::High]);
    }

    #[test]
    fn an_output_that_fails_now_and_then_is_one_alert() {
        let mut health = Health::default();
        let file: Arc<str> = "file".into();
        for second in 1..20 {
            health.on_report(HealthReport::fails(Condition::OutputDead, &file, &ERROR), at(second));
            health.on_report(HealthReport::works(Condition::OutputDead, &file, 2), at(second));
        }
        assert_eq!(steps(&mut health, 20), [(0, Phase::Raised, "conn.output-dead".into())]);
        health.pass(at(29));
        let alerts = health.take();
        let [alert] = &alerts[..] else { panic!("{alerts:?}") };
        assert_eq!((alert.phase, alert.repeats), (Phase::Resolved, 18));
        assert_eq!(alert.evidence, [Evidence::number("dropped", 2)]);
    }

    fn dropped(place: &str) -> Degraded {
        Degraded { what: Degradation::Output, place: Some(place.into()), count: 7, total: 7 }
    }

    #[test]
    fn lines_of_an_output_that_cannot_be_written_are_no_full_queue() {
        let mut health = Health::default();
        // As the loop does it: what was dropped is known before what the output says.
        for place in ["file", "pipe", CLIENTS] {
            health.on_degraded(&dropped(place), at(1));
        }
        health.on_report(HealthReport::fails(Condition::OutputDead, &"file".into(), &ERROR), at(1));
        health.pass(at(1));
        let alerts = health.take();
        let raised: Vec<_> = alerts.iter().map(|alert| (&*alert.rule.id, &alert.evidence[0].value)).collect();
        let place = |name: &[u8]| crate::event::alert::Value::Text(name.into());
        assert_eq!(raised, [("conn.output-dead", &place(b"file")), ("conn.queue-full", &place(b"pipe"))]);
        assert_eq!(steps(&mut health, 61), [(1, Phase::Resolved, "conn.queue-full".into())]);
        assert_eq!(health.open_severities().count(), 1, "the other is not over by itself");
    }

    #[test]
    fn each_limit_has_an_alert_of_its_own() {
        let mut health = Health::default();
        for what in [Degradation::Files, Degradation::Connections, Degradation::Files] {
            health.on_degraded(&Degraded { what, place: None, count: 1, total: 1 }, at(1));
        }
        assert_eq!(steps(&mut health, 1).len(), 2);
        assert_eq!(steps(&mut health, 600), []);
        assert_eq!(steps(&mut health, 601).len(), 2);
    }

    #[test]
    fn a_clock_that_is_set_jumps_and_one_that_is_slewed_does_not() {
        let clock = |wall: u64| Clock::of(BootNs(0), WallNs(wall));
        let day = 86_400 * SECOND;
        let mut health = Health::default();
        health.on_clock(&clock(2 * day), &clock(2 * day), at(1));
        // Half a thousandth of an hour is 1.8 s.
        health.on_clock(&clock(2 * day), &clock(2 * day + 18 * SECOND / 10), at(3601));
        assert_eq!(steps(&mut health, 3601), []);
        health.on_clock(&clock(2 * day), &clock(day), at(3602));
        health.pass(at(3602));
        let alerts = health.take();
        let [alert] = &alerts[..] else { panic!("{alerts:?}") };
        assert_eq!((alert.phase, &*alert.rule.id), (Phase::Raised, "conn.clock-jump"));
        let text = |text: &str| Evidence::text("", text.as_bytes()).value;
        let values: Vec<_> = alert.evidence.iter().map(|evidence| evidence.value.clone()).collect();
        let moved = crate::event::alert::Value::Duration(DurationNs(day));
        assert_eq!(values[2..], [moved, text("back")]);
        assert!(format!("{:?}", alert.evidence[0]).contains("from"), "{:?}", alert.evidence);
        assert_eq!(steps(&mut health, 3662), [(0, Phase::Resolved, "conn.clock-jump".into())]);
    }
}
