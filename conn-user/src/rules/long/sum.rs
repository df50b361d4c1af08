//! All connections of one executable to one peer together: many of half an hour are as long as one of a day.
//!
//! What is summed is the time during which connections were open, each for itself: two at once count twice. Connections that
//! are open are in the sum with what they have lasted; a timer waits for the instant at which the level is reached.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::net::IpAddr;

use super::super::alerts::{Found, Life};
use super::super::detector::{Context, Detector, Flows, Triggers, connection};
use super::super::dry_run::{Note, lasting};
use super::super::lru::Lru;
use super::super::model::{LongRule, Rule};
use super::super::timers::TimerId;
use super::super::{program, suppression, work};
use super::each::since;
use crate::event::alert::{AlertId, Evidence, Severity, Subject};
use crate::event::model::Event;
use crate::flow::model::{ConnEvent, ConnId};
use crate::process::hash::{IntBuild, IntMap};
use crate::units::{BootNs, DurationNs};

/// Most pairs of an executable and a peer that are summed; then the one that was used longest ago is evicted, but for those with an open
/// connection.
const PAIRS_MAX: usize = 16_384;
/// A pair without a connection for so long begins anew.
const FORGET: DurationNs = DurationNs(24 * 3600 * 1_000_000_000);

#[derive(Clone, Debug, Default)]
struct Pair {
    /// Of the connections that ended.
    past: DurationNs,
    /// Open ones.
    open: u32,
    /// Sum of the beginnings of the open ones, in nanoseconds.
    begun: u128,
    connections: u64,
    used: BootNs,
    level: usize,
    timer: Option<TimerId>,
    alert: Option<AlertId>,
    /// The open one that was added last.
    latest: Option<ConnId>,
}

/// An open connection. Those of a pair are linked: an alert shows one of them.
#[derive(Clone, Debug)]
struct Open {
    pair: u64,
    begun: BootNs,
    /// The one of its pair that was added before it.
    before: Option<ConnId>,
    /// The one that was added after it.
    after: Option<ConnId>,
}

/// Open connections of a pair that are asked for when an alert shows one. The first is there, unless the tables forgot it.
const EXAMPLES_MAX: usize = 8;

impl Pair {
    fn total(&self, now: BootNs) -> DurationNs {
        let open = (u128::from(now.0) * u128::from(self.open)).saturating_sub(self.begun);
        DurationNs(self.past.0.saturating_add(u64::try_from(open).unwrap_or(u64::MAX)))
    }
}

/// Finds programs that are connected to one peer for long, over all their connections.
#[derive(Clone)]
pub(super) struct Sum {
    levels: Box<[(DurationNs, Severity)]>,
    /// Pinned while a connection is open.
    pairs: Lru<Pair>,
    open: IntMap<u64, Open>,
    evicted: u64,
}

/// The executable (or name; the host where neither is known) and the peer.
fn pair_of(conn: &ConnEvent) -> u64 {
    let mut hash = IntBuild::default().build_hasher();
    let (program, host) = program::of_connection(conn);
    if let Some(program) = program {
        program.hash(&mut hash);
    }
    for ip in host.into_iter().chain([conn.remote.ip()]) {
        match ip {
            IpAddr::V4(ip) => hash.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => hash.write(&ip.octets()),
        }
    }
    hash.finish()
}

impl Sum {
    pub(super) fn new(rule: &LongRule) -> Self {
        Self { levels: rule.levels.clone(), pairs: Lru::default(), open: IntMap::default(), evicted: 0 }
    }

    /// Explains what is waited for.
    fn explain(&self, key: u64, now: BootNs) -> Note {
        let Some(pair) = self.pairs.get(key) else { return Note::new("it is not counted") };
        let next = self.levels.get(pair.level).map(|(next, _)| *next);
        let first =
            if pair.connections == 1 { "the first connection of this program to this peer: " } else { "" };
        let says = match next.map(|next| next.0.saturating_sub(pair.total(now).0)) {
            None => "the last level is passed and reported".to_owned(),
            Some(0) => "they are open as long as the next level: it is reported".to_owned(),
            Some(left) => {
                format!("{first}reported if they are open for {} more in all", lasting(DurationNs(left)))
            }
        };
        let next = next.map(|next| Evidence::duration("next_level", next));
        Note::new(says).with(evidence(pair, now)).with(next).waits().key(key)
    }

    /// Waits for the instant at which the sum reaches the next level, if the connections that are open stay so.
    fn wait(&mut self, key: u64, context: &mut Context<'_>) {
        let Some(pair) = self.pairs.get_mut(key) else { return };
        if let Some(timer) = pair.timer.take() {
            context.cancel_timer(timer);
        }
        let Some((level, _)) = self.levels.get(pair.level) else { return };
        if pair.open > 0 {
            let missing = level.0.saturating_sub(pair.total(context.now).0).div_ceil(u64::from(pair.open));
            pair.timer = Some(context.set_timer(BootNs(context.now.0.saturating_add(missing)), key));
        }
    }

    /// Links a connection with the open ones of its pair.
    fn link(&mut self, id: ConnId, key: u64, begun: BootNs) {
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let before = pair.latest.replace(id);
        if let Some(before) = before.and_then(|before| self.open.get_mut(&before.0)) {
            before.after = Some(id);
        }
        self.open.insert(id.0, Open { pair: key, begun, before, after: None });
    }

    /// Takes out a connection that was open.
    fn unlink(&mut self, id: ConnId) -> Option<Open> {
        let open = self.open.remove(&id.0)?;
        if let Some(before) = open.before.and_then(|before| self.open.get_mut(&before.0)) {
            before.after = open.after;
        }
        match open.after.and_then(|after| self.open.get_mut(&after.0)) {
            Some(after) => after.before = open.before,
            None => {
                if let Some(pair) = self.pairs.get_mut(open.pair) {
                    pair.latest = open.before;
                }
            }
        }
        Some(open)
    }
}

/// An open connection of a pair, by the latest one.
fn example(open: &IntMap<u64, Open>, latest: Option<ConnId>, flows: &dyn Flows) -> Option<ConnEvent> {
    let of_pair = std::iter::successors(latest, |id| open.get(&id.0)?.before);
    of_pair.take(EXAMPLES_MAX).inspect(|_| work::looked_at(1)).find_map(|id| flows.connection(id))
}

impl Detector for Sum {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn on_match(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let (key, now) = (pair_of(conn), context.now);
        if self.open.contains_key(&conn.id.0) {
            return context.note(|| self.explain(key, now));
        }
        if !self.pairs.enter(key, PAIRS_MAX, &mut self.evicted) {
            return context.note(|| Note::new("it is not counted: limit reached"));
        }
        // One that has ended since adds nothing any more.
        if !context.follow(conn.id) {
            return;
        }
        let begun = since(conn, event.boot);
        self.pairs.pin(key);
        let Some(pair) = self.pairs.get_mut(key) else { return };
        if pair.open == 0 && pair.alert.is_none() && event.boot.since(pair.used) > FORGET {
            // None waits: a timer is set only while one is open.
            *pair = Pair::default();
        }
        pair.open += 1;
        pair.begun += u128::from(begun.0);
        pair.connections += 1;
        pair.used = event.boot;
        self.link(conn.id, key, begun);
        context.note(|| self.explain(key, now));
        self.wait(key, context);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let Some(Open { pair: key, begun, .. }) = self.unlink(conn.id) else { return };
        let Some(pair) = self.pairs.get_mut(key) else { return };
        pair.open = pair.open.saturating_sub(1);
        pair.begun = pair.begun.saturating_sub(u128::from(begun.0));
        pair.past = DurationNs(pair.past.0.saturating_add(event.boot.since(begun).0));
        pair.used = event.boot;
        if pair.open == 0
            && let Some(alert) = pair.alert.take()
        {
            let evidence = evidence(pair, event.boot);
            if let Some(timer) = pair.timer.take() {
                context.cancel_timer(timer);
            }
            // It begins anew: else the next connection, however short, would be reported at once.
            *pair = Pair { used: event.boot, ..Pair::default() };
            context.resolve(alert, evidence);
        }
        let is_idle = pair.open == 0;
        self.wait(key, context);
        if is_idle {
            self.pairs.unpin(key);
        }
    }

    fn on_timer(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        let Some(pair) = self.pairs.get_mut(token) else { return };
        pair.timer = None;
        let total = pair.total(context.now);
        let passed = self.levels.iter().take_while(|(after, _)| *after <= total).count();
        if passed > pair.level
            && let Some(&(level, severity)) = self.levels.get(passed - 1)
        {
            pair.level = passed;
            let mut evidence = evidence(pair, context.now);
            evidence.push(Evidence::duration("level", level));
            match pair.alert {
                Some(alert) => context.escalate(alert, severity, evidence),
                None => {
                    if let Some(conn) = example(&self.open, pair.latest, context.flows) {
                        let found = Found {
                            dedup_key: token,
                            suppress: suppression::of_connection(&conn, true),
                            subject: Subject::Connection(Box::new(conn)),
                            evidence,
                            judged_from: context.began,
                            life: Life::Detector,
                        };
                        pair.alert = context.raise_as(rule, found, severity);
                    }
                }
            }
        }
        self.wait(token, context);
    }
}

fn evidence(pair: &Pair, now: BootNs) -> Vec<Evidence> {
    vec![
        Evidence::duration("open_in_all", pair.total(now)),
        Evidence::number("connections", pair.connections),
        Evidence::number("open_now", pair.open.into()),
    ]
}
