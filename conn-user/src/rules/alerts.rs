//! The life of alerts: raised, escalated, resolved, each reported once; the same finding not again and again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::model::Rule;
use super::rule_run::RuleRun;
use super::suppression;
use super::work;
use crate::event::alert::{Alert, AlertId, Covered, Evidence, Phase, Severity, Subject};
use crate::flow::coverage::{Coverage, Seen};
use crate::flow::model::{ConnId, Source};
use crate::process::hash::IntMap;
use crate::units::{BootNs, DurationNs};

/// Most alerts that are open at once. Beyond them the oldest is reported as resolved because a limit was reached.
const OPEN_MAX: usize = 16_384;
/// So many closed alerts may be in the order of age beside as many as are open.
const SLACK: usize = 1_024;
/// Most findings that are remembered to be reported only once; the oldest is forgotten.
const RECENT_MAX: usize = 65_536;

/// What a detector found.
#[derive(Debug)]
pub struct Found {
    /// Two findings of one rule with the same key are reported once.
    pub dedup_key: u64,
    /// What it is about.
    pub subject: Subject,
    /// What it was judged by.
    pub evidence: Vec<Evidence>,
    /// The exception that suppresses it.
    pub suppress: Option<Box<str>>,
    /// The beginning of the span that was judged; its end is now.
    pub judged_from: BootNs,
    /// How it ends.
    pub life: Life,
}

/// How an alert ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is over when it is reported.
    Moment,
    /// With this connection or listener.
    With(ConnId),
    /// When its detector says so.
    Detector,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlertStats {
    /// Alerts raised.
    pub raised: u64,
    /// Findings that were not reported, because the same had been.
    pub repeats: u64,
    /// Alerts that were ended because a limit was reached.
    pub evicted: u64,
    /// Findings that were forgotten because a limit was reached: the same may have been reported again.
    pub forgotten: u64,
}

/// What was reported a finding before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The alert.
    pub id: AlertId,
    /// How long ago it was reported last.
    pub ago: DurationNs,
    /// It is open: the same is only counted.
    pub is_open: bool,
    /// For how long the same is only counted still, by the rule's throttle.
    pub throttled_for: Option<DurationNs>,
    /// How often it was counted since.
    pub repeats: u64,
}

impl Reported {
    /// Whether the same finding is only counted now.
    pub const fn is_repeat(&self) -> bool {
        self.is_open || self.throttled_for.is_some()
    }
}

#[derive(Debug)]
struct Recent {
    id: AlertId,
    /// When it was reported last.
    at: BootNs,
    /// Its number in the order of [`Alerts::recent_order`].
    serial: u64,
    repeats: u64,
}

impl Recent {
    /// Returns for how long the same is only counted, by the throttle of the rule.
    fn throttled_for(&self, rule: &Rule, now: BootNs) -> Option<DurationNs> {
        let left = rule.throttle.0.saturating_sub(now.since(self.at).0);
        (left > 0).then_some(DurationNs(left))
    }
}

#[derive(Debug)]
struct Open {
    alert: Alert,
    rule: RuleRun,
    dedup_key: u64,
    /// Rules whose findings it covers, see [`Rule::covers`].
    covers: Arc<[Box<str>]>,
    /// The connection or listener with which it ends.
    with: Option<ConnId>,
}

/// The alerts of an engine.
#[derive(Debug, Default)]
pub struct Alerts {
    last: u64,
    open: IntMap<u64, Open>,
    /// Open alerts by rule.
    by_rule: BTreeSet<(RuleRun, u64)>,
    /// Ids of open alerts by age; some are closed already.
    by_age: VecDeque<AlertId>,
    /// Alerts that end with a connection or listener.
    bound: IntMap<u64, smallvec::SmallVec<[AlertId; 2]>>,
    recent: IntMap<u64, Recent>,
    recent_order: VecDeque<(u64, u64)>,
    serial: u64,
    reported: Vec<Alert>,
    stats: AlertStats,
}

impl Alerts {
    /// The severities of those that are open, in no order.
    pub(super) fn open_severities(&self) -> impl Iterator<Item = Severity> {
        self.open.values().map(|open| open.alert.severity)
    }

    /// Whether the same finding was reported and is not to be reported again; then it is counted as a repeat.
    pub(super) fn is_reported(&mut self, (run, rule): (RuleRun, &Rule), dedup_key: u64, now: BootNs) -> bool {
        match self.recent.get_mut(&mix(dedup_key, run)) {
            Some(recent)
                if self.open.contains_key(&recent.id.0) || recent.throttled_for(rule, now).is_some() =>
            {
                recent.repeats += 1;
                self.stats.repeats += 1;
                true
            }
            _ => false,
        }
    }

    /// Returns the key of what a finding only repeats: the same one, or that of an open alert which covers it. Counts nothing.
    fn repeated(
        &self,
        (run, rule): (RuleRun, &Rule),
        dedup_key: u64,
        conn: Option<ConnId>,
        severity: Severity,
        now: BootNs,
    ) -> Option<u64> {
        let key = mix(dedup_key, run);
        let is_repeat = self.recent.get(&key).is_some_and(|recent| {
            self.open.contains_key(&recent.id.0) || recent.throttled_for(rule, now).is_some()
        });
        if is_repeat { Some(key) } else { self.covering(conn?, &rule.about.id, severity) }
    }

    /// Returns what was reported before of the same finding, or the open alert about this connection that covers it. Counts
    /// nothing.
    pub(super) fn earlier(
        &self,
        of: (RuleRun, &Rule),
        dedup_key: u64,
        conn: Option<ConnId>,
        severity: Severity,
        now: BootNs,
    ) -> Option<Reported> {
        let own = mix(dedup_key, of.0);
        let key = self.repeated(of, dedup_key, conn, severity, now).unwrap_or(own);
        let recent = self.recent.get(&key)?;
        Some(Reported {
            id: recent.id,
            ago: now.since(recent.at),
            is_open: self.open.contains_key(&recent.id.0),
            throttled_for: recent.throttled_for(of.1, now).filter(|_| key == own),
            repeats: recent.repeats,
        })
    }

    /// Returns the id of the next alert.
    pub(super) const fn next_id(&self) -> AlertId {
        AlertId(self.last + 1)
    }

    pub(super) fn raise(
        &mut self,
        (run, rule): (RuleRun, &Rule),
        found: Found,
        severity: Severity,
        now: BootNs,
        coverage: &Coverage,
    ) -> Option<AlertId> {
        let conn = if let Subject::Connection(conn) = &found.subject { Some(conn.id) } else { None };
        if let Some(repeated) = self.repeated((run, rule), found.dedup_key, conn, severity, now) {
            if let Some(recent) = self.recent.get_mut(&repeated) {
                recent.repeats += 1;
            }
            self.stats.repeats += 1;
            return None;
        }
        let key = mix(found.dedup_key, run);
        let repeats = self.recent.get(&key).map_or(0, |recent| recent.repeats);
        self.last += 1;
        self.stats.raised += 1;
        let id = AlertId(self.last);
        let alert = Alert {
            id,
            phase: Phase::Raised,
            severity,
            rule: Arc::clone(&rule.about),
            covered: covered(coverage, &found, now),
            subject: found.subject,
            evidence: found.evidence,
            suppress: found
                .suppress
                .filter(|filter| severity < Severity::Critical || suppression::is_narrow(filter)),
            at: now,
            raised: now,
            repeats,
        };
        self.remember(key, id, now);
        self.reported.push(alert.clone());
        if found.life != Life::Moment {
            let with = if let Life::With(conn) = found.life { Some(conn) } else { None };
            if let Some(conn) = with {
                self.bound.entry(conn.0).or_default().push(id);
            }
            let covers = Arc::clone(&rule.covers);
            self.open.insert(id.0, Open { alert, rule: run, dedup_key: key, covers, with });
            self.by_rule.insert((run, id.0));
            // One that stays open at the front keeps those behind it that are closed.
            if self.by_age.len() > 2 * self.open.len() + SLACK {
                self.by_age.retain(|id| self.open.contains_key(&id.0));
            }
            self.by_age.push_back(id);
            self.make_room(now);
        }
        Some(id)
    }

    /// Returns the key of an open alert that covers a finding of this rule: it is about the same connection, and not less severe.
    fn covering(&self, conn: ConnId, rule: &str, severity: Severity) -> Option<u64> {
        let covers = |open: &&Open| {
            open.alert.severity >= severity && open.covers.iter().any(|covered| **covered == *rule)
        };
        let bound = self.bound.get(&conn.0)?;
        bound.iter().filter_map(|id| self.open.get(&id.0)).find(covers).map(|open| open.dedup_key)
    }

    pub(super) fn escalate(&mut self, id: AlertId, severity: Severity, evidence: Vec<Evidence>, now: BootNs) {
        let Some(open) = self.open.get_mut(&id.0) else { return };
        open.alert.severity = severity;
        open.alert.evidence = evidence;
        let repeats = take_repeats(&mut self.recent, open.dedup_key, now);
        self.reported.push(Alert { phase: Phase::Escalated, at: now, repeats, ..open.alert.clone() });
    }

    pub(super) fn resolve(&mut self, id: AlertId, evidence: Vec<Evidence>, now: BootNs) {
        let Some(Open { alert, rule, dedup_key, with, .. }) = self.open.remove(&id.0) else { return };
        self.by_rule.remove(&(rule, id.0));
        // An alert that ends before its connection must not stay bound to one that never ends.
        if let Some(conn) = with
            && let Some(bound) = self.bound.get_mut(&conn.0)
        {
            bound.retain(|own| *own != id);
            if bound.is_empty() {
                self.bound.remove(&conn.0);
            }
        }
        let repeats = take_repeats(&mut self.recent, dedup_key, now);
        self.reported.push(Alert { phase: Phase::Resolved, at: now, evidence, repeats, ..alert });
        while self.by_age.front().is_some_and(|first| !self.open.contains_key(&first.0)) {
            self.by_age.pop_front();
        }
    }

    /// A connection or listener ended: so do the alerts that are bound to it.
    pub(super) fn on_end(&mut self, id: ConnId, evidence: impl Fn() -> Vec<Evidence>, now: BootNs) {
        if self.bound.is_empty() {
            return;
        }
        for alert in self.bound.remove(&id.0).unwrap_or_default() {
            self.resolve(alert, evidence(), now);
        }
    }

    /// Ends the alerts of these rules, which were removed.
    pub(super) fn end_rules(&mut self, removed: impl Iterator<Item = RuleRun>, now: BootNs) {
        let of = |run| self.by_rule.range((run, 0)..=(run, u64::MAX)).map(|(_, id)| *id);
        let mut ids: Vec<u64> = removed.flat_map(of).collect();
        work::looked_at(ids.len());
        ids.sort_unstable();
        for id in ids {
            self.resolve(AlertId(id), vec![Evidence::text("why", *b"the rule is no longer active")], now);
        }
    }

    /// Whether something waits to be reported.
    pub(super) const fn has_reported(&self) -> bool {
        !self.reported.is_empty()
    }

    /// What is to be reported, in its order.
    pub(super) fn take(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.reported)
    }

    /// The counters.
    pub const fn stats(&self) -> AlertStats {
        self.stats
    }

    fn make_room(&mut self, now: BootNs) {
        while self.open.len() > OPEN_MAX {
            let Some(oldest) = self.by_age.pop_front() else { return };
            if self.open.contains_key(&oldest.0) {
                self.stats.evicted += 1;
                self.resolve(oldest, vec![Evidence::text("why", *b"too many alerts are open")], now);
            }
        }
    }

    fn remember(&mut self, key: u64, id: AlertId, at: BootNs) {
        self.serial += 1;
        let serial = self.serial;
        self.recent_order.push_back((key, serial));
        self.recent.insert(key, Recent { id, at, serial, repeats: 0 });
        while self.recent_order.len() > RECENT_MAX {
            let Some((oldest, serial)) = self.recent_order.pop_front() else { return };
            // A later finding of the same has its own place in the order.
            if self.recent.get(&oldest).is_some_and(|recent| recent.serial == serial) {
                self.recent.remove(&oldest);
                self.stats.forgotten += 1;
            }
        }
    }
}

/// The findings that were not reported since the last step; from now on they are counted anew.
fn take_repeats(recent: &mut IntMap<u64, Recent>, key: u64, now: BootNs) -> u64 {
    recent.get_mut(&key).map_or(0, |recent| {
        recent.at = recent.at.max(now);
        std::mem::take(&mut recent.repeats)
    })
}

/// A finding of a rule, as a number.
fn mix(one: u64, run: RuleRun) -> u64 {
    let other = u64::from(run.serial) << 32 | u64::from(run.place);
    (one ^ other.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ other
}

/// Whether everything that was judged was seen: what existed when the agent began was not, however short the span is of which
/// the rule asks.
fn covered(coverage: &Coverage, found: &Found, to: BootNs) -> Covered {
    match coverage.of(found.judged_from, to) {
        Seen::All if found.subject.source() == Some(Source::Snapshot) => Covered::Since(coverage.attached()),
        Seen::All => Covered::All,
        Seen::Since(since) => Covered::Since(since),
        Seen::Except(losses) => Covered::Except {
            lost: losses.iter().map(|loss| loss.gap.lost).sum(),
            repaired: losses.iter().all(|loss| loss.repaired.is_some()),
        },
        Seen::Unknown => Covered::Unknown,
    }
}
