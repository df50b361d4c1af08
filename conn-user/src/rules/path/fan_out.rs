//! `find = "fan-out"`: one process with many peers, or many ports of one peer, within a window.
//!
//! Peers count when a connection begins. Ports count when an attempt fails (refused, unanswered, given up): what a scan finds are
//! mostly ports at which nobody listens, and a client that uses many ports of a server, as passive FTP does, gets them from it.
//!
//! What the children of one process do counts for each of the nearest processes above them: tools such as `timeout` and `xargs sh -c`
//! put a process of its own between a loop and each attempt. Where one child alone has nearly all of them, it
//! is that one that scans, which is a finding of `peers` or `ports`, and of the children none.
//!
//! Distinct ones are kept with the time of their last use, at most `limit` and one more of each process until it is reported, and
//! about a thousand from then on. It is over when no new one came for a window.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::event::alert::{AlertId, Evidence, Subject, Value};
use crate::event::model::Event;
use crate::flow::model::{ConnEvent, Source};
use crate::process::hash::IntMap;
use crate::process::lineage;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::lru::Lru;
use crate::rules::model::{FanOutOf, Rule};
use crate::rules::program::ProcessKey;
use crate::rules::{program, suppression, work};
use crate::units::{BootNs, DurationNs};

/// Most processes (and peers, of a rule on ports); the one that was active longest ago is evicted, but for those with an open alert.
const GROUPS_MAX: usize = 8_192;

/// Programs above a process ([`lineage::near`]) for whose processes it counts as a child.
const PROGRAMS: usize = 3;
/// Processes above it for which it does, at most.
const ABOVE_MAX: usize = 8;

/// A child that has more than this share of all that the children used, in tenths, scans by itself.
const ONE_CHILD: usize = 9;

/// Most that are kept of one process once it is reported; one that was dropped counts again when it comes again.
const KEPT_MAX: usize = 1_024;

#[derive(Clone, Debug, Default)]
struct Group {
    /// Distinct ones, by the time of their first use in the window.
    order: VecDeque<(u64, BootNs)>,
    /// Those in `order`.
    used: IntMap<u64, Use>,
    /// Since the alert: all distinct ones that came, at least.
    count: u64,
    alert: Option<AlertId>,
    /// The next number that is reported as worse.
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    /// The last one.
    last: BootNs,
    /// The process that used it first.
    by: u64,
}

/// Finds connections to many hosts or ports by one process.
#[derive(Clone, Debug)]
pub(super) struct FanOut {
    of: FanOutOf,
    limit: usize,
    window: DurationNs,
    groups: Lru<Group>,
    forgotten: u64,
}

impl FanOut {
    pub(super) fn new(of: FanOutOf, limit: u32, window: DurationNs) -> Self {
        Self { of, limit: limit.max(1) as usize, window, groups: Lru::default(), forgotten: 0 }
    }

    /// Returns the groups for which a connection counts, the nearest one first: that of the process (or of the host where the recording
    /// knows no processes), or those of the processes above it. None: not known whose it is.
    fn groups_of(&self, conn: &ConnEvent) -> impl Iterator<Item = u64> + use<> {
        let peer = self.of.is_of_ports().then(|| conn.remote.ip());
        let of_process = |pid, start| program::key(&(ProcessKey::new(pid, start), peer));
        let mut keys = [None; ABOVE_MAX];
        match conn.owner.process.as_deref() {
            Some(process) if self.of.is_of_children() => {
                // Process 1 is the parent of what has nothing in common.
                let above = lineage::near(&process.ancestors, PROGRAMS).take_while(|one| one.pid.0 > 1);
                for (key, one) in keys.iter_mut().zip(above) {
                    *key = Some(of_process(one.pid, one.start));
                }
            }
            Some(process) => keys[0] = Some(of_process(process.pid, process.start)),
            None => keys[0] = program::host(conn).map(|host| program::key(&(host, peer))),
        }
        keys.into_iter().flatten()
    }

    /// Counts an attempt for a group, and raises its alert or makes it worse. Returns whether the group has one, or had one within the
    /// throttle: then the attempt is nothing of the groups above it.
    fn count(
        &mut self,
        (key, is_nearest): (u64, bool),
        rule: &Rule,
        event: &Event,
        conn: &ConnEvent,
        context: &mut Context<'_>,
    ) -> bool {
        let (item, by) = (self.item_of(conn), user_of(conn));
        if !self.groups.enter(key, GROUPS_MAX, &mut self.forgotten) {
            if is_nearest {
                context.note(|| Note::new("it is not counted: limit reached"));
            }
            return false;
        }
        let (limit, window, of) = (self.limit, self.window, self.of);
        let Some(group) = self.groups.get_mut(key) else { return false };
        let name = of.counted();
        let explain = |says: String, count: usize| {
            Note::new(says).with([
                Evidence::number(name, count as u64),
                Evidence::number("limit", limit as u64),
                Evidence::duration("window", window),
            ])
        };
        let is_explained = is_nearest || group.alert.is_some();
        let reported = |group: &Group| {
            explain(format!("reported already, of these {name}"), group.in_window(event.boot, window))
                .key(key)
        };
        if let Some(used) = group.used.get_mut(&item) {
            used.last = event.boot;
            if is_explained {
                context.note(|| match (group.alert, group.in_window(event.boot, window)) {
                    (Some(_), _) => reported(group),
                    (None, count) => {
                        explain(format!("not a new one: with it {count} {name}, of {limit} allowed"), count)
                    }
                });
            }
            return group.alert.is_some();
        }
        group.expire(event.boot, window);
        if group.alert.is_some() {
            group.count += 1;
            if group.order.len() > limit.max(KEPT_MAX)
                && let Some((oldest, _)) = group.order.pop_front()
            {
                group.used.remove(&oldest);
            }
        }
        group.order.push_back((item, event.boot));
        group.used.insert(item, Use { last: event.boot, by });
        let count = group.order.len();
        if count > limit
            && of.is_of_children()
            && group.alert.is_none()
            && let Some(one) = one_child(group.used.values().map(|used| used.by))
        {
            context.note(|| {
                explain(
                    format!("with this one {count} {name}, nearly all of one child: not of the children"),
                    count,
                )
            });
            group.remove_of(one);
            return true;
        }
        if is_explained || count > limit {
            context.note(|| match group.alert {
                Some(_) => reported(group),
                None if count <= limit => {
                    explain(format!("with this one {count} {name}, of {limit} allowed"), count)
                }
                None => explain(format!("with this one {count} {name}, {limit} are allowed"), count),
            });
        }
        if count <= limit {
            return group.alert.is_some();
        }
        let first = group.order.front().map_or(event.boot, |(_, since)| *since);
        let evidence = |count: u64| {
            vec![
                Evidence::number(name, count),
                Evidence::number("limit", limit as u64),
                Evidence::duration("window", window),
                Evidence::new("last", Value::End(conn.remote)),
            ]
        };
        match group.alert {
            None => {
                group.count = group.order.len() as u64;
                let found = Found {
                    dedup_key: key,
                    evidence: evidence(group.count),
                    suppress: suppression::of_opener(conn),
                    judged_from: first,
                    life: Life::Detector,
                    subject: Subject::Connection(Box::new(conn.clone())),
                };
                group.alert = context.raise(rule, found);
                group.next = group.count * 2;
                if group.alert.is_some() {
                    context.set_timer(BootNs(event.boot.0.saturating_add(window.0)), key);
                    self.groups.pin(key);
                } else {
                    // Reported within the throttle: it begins anew.
                    group.clear();
                }
            }
            Some(alert) if group.count >= group.next => {
                group.next = group.count * 2;
                context.escalate(alert, rule.severity, evidence(group.count));
            }
            Some(_) => {}
        }
        true
    }

    fn item_of(&self, conn: &ConnEvent) -> u64 {
        let mut hash = DefaultHasher::new();
        if self.of.is_of_ports() {
            conn.service_port().hash(&mut hash);
        } else {
            conn.remote.ip().hash(&mut hash);
        }
        hash.finish()
    }
}

/// Returns the process whose connection it is, as a number.
fn user_of(conn: &ConnEvent) -> u64 {
    conn.owner
        .process
        .as_deref()
        .map_or(0, |process| program::key(&ProcessKey::new(process.pid, process.start)))
}

/// Returns the child that has nearly all of those that these children used; `None`: there is none.
fn one_child(by: impl Iterator<Item = u64>) -> Option<u64> {
    let (mut counts, mut total) = (IntMap::<u64, usize>::default(), 0);
    for by in by {
        work::looked_at(1);
        *counts.entry(by).or_default() += 1;
        total += 1;
    }
    counts.into_iter().find(|(_, count)| count * 10 > total * ONE_CHILD).map(|(by, _)| by)
}

impl Group {
    /// Forgets what one process used.
    fn remove_of(&mut self, by: u64) {
        self.used.retain(|_, used| used.by != by);
        self.order.retain(|(item, _)| self.used.contains_key(item));
    }

    fn clear(&mut self) {
        self.order.clear();
        self.used.clear();
    }

    /// Returns how many were used within the window before `now`.
    fn in_window(&self, now: BootNs, window: DurationNs) -> usize {
        self.used.values().filter(|used| now.since(used.last) <= window).count()
    }

    /// Forgets what was not used within the window before `now`.
    fn expire(&mut self, now: BootNs, window: DurationNs) {
        while let Some(&(item, since)) = self.order.front() {
            work::looked_at(1);
            let last = self.used.get(&item).map_or(since, |used| used.last);
            if now.since(since) <= window {
                return;
            }
            self.order.pop_front();
            if now.since(last) <= window {
                // Used again since: it counts from then on.
                self.order.push_back((item, last));
            } else {
                self.used.remove(&item);
            }
        }
    }
}

impl Detector for FanOut {
    fn triggers(&self) -> Triggers {
        if self.of.is_of_ports() { Triggers::FAILED } else { Triggers::BEGIN }
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        // When those that were there before were opened is not known: not within one window.
        let Some(conn) = connection(event) else { return };
        if conn.source != Source::Live || context.existing {
            return context.note(|| Note::new("it was there before: when it began is not known"));
        }
        context.note(|| Note::new("whose connection it is is not known"));
        let (mut groups, mut is_nearest) = (self.groups_of(conn), true);
        while let Some(key) = groups.next() {
            let of = (key, std::mem::replace(&mut is_nearest, false));
            if self.count(of, rule, event, conn, context) {
                // What this group found would be found again for those above it.
                for above in groups.by_ref() {
                    if let Some(group) = self.groups.get_mut(above).filter(|group| group.alert.is_none()) {
                        group.clear();
                    }
                }
            }
        }
    }

    fn on_timer(&mut self, _rule: &Rule, token: u64, context: &mut Context<'_>) {
        let Some(group) = self.groups.get_mut(token) else { return };
        let newest = group.order.back().map_or(BootNs(0), |(_, since)| *since);
        let calm = BootNs(newest.0.saturating_add(self.window.0));
        if calm > context.now {
            context.set_timer(calm, token);
            return;
        }
        if let Some(alert) = group.alert.take() {
            let name = self.of.counted();
            context.resolve(alert, vec![Evidence::number(name, group.count)]);
        }
        self.groups.remove(token);
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::alert::Phase;
    use crate::flow::model::Direction;
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, child, evidence, process, rule, seconds};

    fn rig(of: FanOutOf) -> Rig {
        let detect = PathRule::FanOut { of, limit: 10, window: seconds(60) };
        Rig::new(rule(Detect::Path(detect), "dir:out"))
    }

    #[test]
    fn a_scan_is_reported_gets_worse_and_ends() {
        let mut rig = rig(FanOutOf::Peers);
        let scanner = process(10, "/tmp/s");
        for at in 1..=10 {
            rig.connect(&scanner, &format!("10.0.1.{at}:22"));
        }
        assert!(rig.reported().is_empty(), "as many as are normal");
        rig.connect(&scanner, "10.0.1.11:22");
        let alert = rig.only();
        assert_eq!((alert.phase, evidence(&alert, "peers")), (Phase::Raised, Some(&Value::Number(11))));
        for at in 12..=100 {
            rig.connect(&scanner, &format!("10.0.1.{at}:22"));
        }
        assert_eq!(rig.phases(), [(1, Phase::Escalated); 3], "at 22, 44 and 88");
        rig.pass(seconds(61));
        let alert = rig.only();
        assert_eq!((alert.phase, evidence(&alert, "peers")), (Phase::Resolved, Some(&Value::Number(100))));
        assert_eq!(rig.timers(), 0);
    }

    #[test]
    fn slowly_or_by_several_processes_or_again_and_again_is_normal() {
        let mut rig = rig(FanOutOf::Peers);
        let slow = process(10, "/usr/bin/slow");
        for at in 1..=40 {
            rig.pass(seconds(7));
            rig.connect(&slow, &format!("10.0.1.{at}:22"));
        }
        for at in 1..=40 {
            rig.connect(&process(100 + at, "/usr/bin/curl"), &format!("10.0.2.{at}:443"));
        }
        let busy = process(11, "/usr/bin/busy");
        for at in 0..200 {
            rig.connect(&busy, &format!("10.0.3.{}:443", at % 10));
        }
        assert!(rig.reported().is_empty());
    }

    #[test]
    fn what_was_there_before_was_not_opened_at_once() {
        let detect = PathRule::FanOut { of: FanOutOf::Peers, limit: 10, window: seconds(60) };
        let mut rig = Rig::before(vec![rule(Detect::Path(detect), "dir:out")]);
        for at in 1..=40 {
            rig.existing(Direction::Out, &process(11, "/usr/bin/pool"), None, &format!("10.0.3.{at}:443"));
        }
        rig.begin();
        assert!(rig.reported().is_empty());
    }

    #[test]
    fn a_process_between_a_loop_and_each_attempt_hides_nothing() {
        let mut rig = rig(FanOutOf::PeersOfChildren);
        let looping = process(10, "/usr/bin/bash");
        let attempt = |rig: &mut Rig, at: u32| {
            let subshell = child(&child(&looping, 3_000 + at, "/usr/bin/bash"), 4_000 + at, "/usr/bin/bash");
            let between = child(&subshell, 1_000 + at, "/usr/bin/timeout");
            rig.connect(&child(&between, 2_000 + at, "/usr/bin/curl"), &format!("10.0.1.{at}:80"));
        };
        for at in 1..=10 {
            attempt(&mut rig, at);
        }
        assert!(rig.reported().is_empty(), "as many as are normal");
        for at in 11..=40 {
            attempt(&mut rig, at);
        }
        assert_eq!(rig.phases(), [(1, Phase::Raised), (1, Phase::Escalated)], "at 11 and 22");
    }

    /// One child that scans is a finding of its own; a little of the others does not make it one of all.
    #[test]
    fn a_child_that_scans_alone_is_not_of_the_children() {
        let mut rig = rig(FanOutOf::PeersOfChildren);
        let shell = process(10, "/usr/bin/bash");
        rig.connect(&child(&shell, 11, "/usr/bin/curl"), "10.0.2.1:443");
        let scanner = child(&shell, 12, "/usr/bin/nmap");
        for at in 1..=100 {
            rig.connect(&scanner, &format!("10.0.1.{at}:80"));
        }
        assert!(rig.reported().is_empty());
        // Beside it a loop.
        for at in 1..=11 {
            rig.connect(&child(&shell, 1_000 + at, "/usr/bin/curl"), &format!("10.0.3.{at}:80"));
        }
        assert_eq!(rig.only().phase, Phase::Raised);
    }

    #[test]
    fn a_scan_is_reported_for_the_nearest_process_above_it_alone() {
        let mut rig = rig(FanOutOf::PeersOfChildren);
        let session = process(10, "/usr/bin/bash");
        let script = child(&session, 11, "/usr/bin/bash");
        for at in 1..=21 {
            rig.connect(&child(&script, 1_000 + at, "/usr/bin/curl"), &format!("10.0.1.{at}:80"));
        }
        assert_eq!(rig.only().phase, Phase::Raised);
        rig.pass(seconds(61));
        assert_eq!(rig.only().phase, Phase::Resolved);
        for at in 1..=40 {
            rig.connect(&child(&script, 2_000 + at, "/usr/bin/curl"), &format!("10.0.1.{at}:80"));
        }
        assert!(rig.reported().is_empty(), "within the throttle");
    }

    #[test]
    fn ports_of_one_peer() {
        let mut rig = rig(FanOutOf::Ports);
        let scanner = process(10, "/usr/bin/nmap");
        let fail = |rig: &mut Rig, remote: &str, errno| {
            let id = rig.connect(&scanner, remote);
            rig.fail(id, errno);
        };
        for port in 1..=10 {
            fail(&mut rig, &format!("10.0.1.1:{port}"), libc::ECONNREFUSED);
            fail(&mut rig, &format!("10.0.1.2:{port}"), libc::ETIMEDOUT);
            rig.open_and_close(&scanner, &format!("10.0.1.2:{}", 100 + port), None);
        }
        assert!(rig.reported().is_empty(), "ten, and open ones");
        fail(&mut rig, "10.0.1.2:11", 0);
        assert_eq!(evidence(&rig.only(), "ports"), Some(&Value::Number(11)));
    }
}
