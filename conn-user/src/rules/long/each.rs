//! Each connection by itself: level after level under one alert, resolved at the end with the final duration.

use super::super::alerts::{Found, Life};
use super::super::detector::{Context, Detector, Triggers, connection};
use super::super::dry_run::{Note, lasting};
use super::super::model::{LongRule, Rule};
use super::super::suppression;
use super::super::timers::TimerId;
use crate::event::alert::{AlertId, Evidence, Severity, Subject};
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::flow::model::{Change, ConnEvent, ConnId};
use crate::process::hash::IntMap;
use crate::units::{BootNs, DurationNs};

/// Most connections of one rule that are waited for; later ones are not judged, and that is counted.
const OPEN_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
struct Open {
    since: BootNs,
    /// The next level, by its place.
    level: usize,
    timer: Option<TimerId>,
    alert: Option<AlertId>,
}

/// Finds single connections that are open for long.
#[derive(Clone)]
pub(super) struct Each {
    levels: Box<[(DurationNs, Severity)]>,
    open: IntMap<u64, Open>,
    not_followed: u64,
}

impl Each {
    pub(super) fn new(rule: &LongRule) -> Self {
        Self { levels: rule.levels.clone(), open: IntMap::default(), not_followed: 0 }
    }

    /// Explains what is waited for.
    fn explain(&self, conn: &ConnEvent, open: &Open, now: BootNs) -> Note {
        let (mut facts, lasted) = (age(conn, open.since, now), now.since(open.since));
        let next = self.levels.get(open.level).map(|(next, _)| *next);
        facts.extend(next.map(|next| Evidence::duration("next_level", next)));
        let says = match next.map(|next| next.0.saturating_sub(lasted.0)) {
            None => "the last level is passed and reported".to_owned(),
            Some(0) => "it is open as long as the next level: it is reported".to_owned(),
            Some(left) => format!("reported if it is open for {} more", lasting(DurationNs(left))),
        };
        Note::new(says).with(facts).waits().key(conn.id.0)
    }

    /// Waits for the next level. Ones that are passed already were reported by the one before.
    fn wait(&mut self, id: ConnId, context: &mut Context<'_>) {
        let Some(open) = self.open.get_mut(&id.0) else { return };
        open.timer = self.levels.get(open.level).map(|(after, _)| {
            context.set_timer(BootNs(open.since.0.saturating_add(after.0)).max(context.now), id.0)
        });
    }
}

/// From when on a connection is certainly open.
pub(in crate::rules) fn since(conn: &ConnEvent, now: BootNs) -> BootNs {
    conn.established.or(conn.born.map(|born| born.latest)).unwrap_or(now)
}

/// How long it is open, and by which bounds where its beginning was not seen.
fn age(conn: &ConnEvent, since: BootNs, now: BootNs) -> Vec<Evidence> {
    let mut evidence = vec![Evidence::duration("open_for", now.since(since))];
    if let (None, Some(born)) = (conn.established, conn.born) {
        evidence.push(Evidence::text("at_least_by", born.latest_by.name().as_bytes()));
        if let Some(earliest) = born.earliest() {
            evidence.push(Evidence::duration("open_for_at_most", now.since(earliest)));
            evidence.push(Evidence::text("at_most_by", born.earliest_by.name().as_bytes()));
        }
    }
    evidence
}

impl Detector for Each {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn on_match(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let now = context.now;
        if let Some(open) = self.open.get(&conn.id.0) {
            return context.note(|| self.explain(conn, open, now));
        }
        if self.open.len() >= OPEN_MAX {
            self.not_followed += 1;
            return context.note(|| Note::new("it is not followed: limit reached"));
        }
        let since = since(conn, event.boot);
        if !context.follow(conn.id) {
            return;
        }
        let open = Open { since, level: 0, timer: None, alert: None };
        context.note(|| self.explain(conn, &open, now));
        self.open.insert(conn.id.0, open);
        self.wait(conn.id, context);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let Some(open) = self.open.remove(&conn.id.0) else { return };
        if let Some(timer) = open.timer {
            context.cancel_timer(timer);
        }
        if let Some(alert) = open.alert {
            let mut evidence = age(conn, open.since, event.boot);
            if let EventBody::Flow(Change::Close(_, ending)) = &event.body {
                evidence.push(Evidence::text("end", ending.how.name().as_bytes()));
                if let Some(traffic) = ending.traffic {
                    evidence.push(Evidence::number("bytes_in", traffic.bytes_in));
                    evidence.push(Evidence::number("bytes_out", traffic.bytes_out));
                }
            }
            context.resolve(alert, evidence);
        }
    }

    fn on_timer(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        let id = ConnId(token);
        let Some(open) = self.open.get_mut(&token) else { return };
        open.timer = None;
        let Some(conn) = context.flows.connection(id) else {
            self.open.remove(&token);
            return;
        };
        let lasted = context.now.since(open.since);
        let passed = self.levels.iter().take_while(|(after, _)| *after <= lasted).count();
        let Some(&(level, severity)) = passed.checked_sub(1).and_then(|last| self.levels.get(last)) else {
            return self.wait(id, context);
        };
        open.level = passed;
        let mut evidence = age(&conn, open.since, context.now);
        evidence.push(Evidence::duration("level", level));
        match open.alert {
            Some(alert) => context.escalate(alert, severity, evidence),
            None => {
                let suppress = suppression::of_connection(&conn, true);
                let found = Found {
                    dedup_key: token,
                    subject: Subject::Connection(Box::new(conn)),
                    evidence,
                    suppress,
                    judged_from: open.since,
                    life: Life::Detector,
                };
                open.alert = context.raise_as(rule, found, severity);
            }
        }
        self.wait(id, context);
    }
}
