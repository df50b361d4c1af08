//! `find = "fan-out"`: one process with many peers, or many ports of one peer, within a window.
//!
//! Peers count when a connection begins. Ports count when an attempt fails (refused, unanswered, given up): what a scan finds are
//! mostly ports at which nobody listens, and a client that uses many ports of a server, as passive FTP does, gets them from it.
//!
//! Distinct ones are kept with the time of their last use, at most `limit` and one more of each process until it is told, and
//! about a thousand from then on. It is over when no new one came for a window.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::event::alert::{AlertId, Evidence, Subject, Value};
use crate::event::model::Event;
use crate::flow::model::{ConnEvent, Source};
use crate::process::hash::IntMap;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Triggers, connection, service_port};
use crate::rules::lru::Lru;
use crate::rules::memory::{Memory, Past};
use crate::rules::model::{FanOutOf, Rule};
use crate::rules::program::ProcessKey;
use crate::rules::{program, silence, work};
use crate::units::{BootNs, DurationNs};

/// Most processes (and peers, of a rule on ports); the one that was active longest ago is evicted, but for those with an open alert.
const GROUPS_MAX: usize = 8_192;

/// Most that are kept of one process once it is told; one that was dropped counts again when it comes again.
const KEPT_MAX: usize = 1_024;

#[derive(Debug, Default)]
struct Group {
    /// Distinct ones, by the time of their first use in the window.
    order: VecDeque<(u64, BootNs)>,
    /// Those in `order`, with their last use.
    used: IntMap<u64, BootNs>,
    /// Since the alert: all distinct ones that came, at least.
    count: u64,
    alert: Option<AlertId>,
    /// The next number that is told as worse.
    next: u64,
}

/// See the module.
#[derive(Debug)]
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

    /// The process, or the host where the recording knows no processes. `None`: not known whose it is.
    fn group_of(&self, conn: &ConnEvent) -> Option<u64> {
        let peer = self.of.is_of_ports().then(|| conn.remote.ip());
        match conn.owner.process.as_deref() {
            Some(process) if self.of.is_of_children() => {
                // Process 1 is the parent of what has nothing in common.
                let parent = process.ancestors.first().filter(|parent| parent.pid.0 > 1)?;
                Some(program::same(&(ProcessKey::new(parent.pid, parent.start), peer)))
            }
            Some(process) => Some(program::same(&(ProcessKey::new(process.pid, process.start), peer))),
            None => program::host(conn).map(|host| program::same(&(host, peer))),
        }
    }

    fn item_of(&self, conn: &ConnEvent) -> u64 {
        let mut hash = DefaultHasher::new();
        if self.of.is_of_ports() {
            service_port(conn).hash(&mut hash);
        } else {
            conn.remote.ip().hash(&mut hash);
        }
        hash.finish()
    }
}

impl Group {
    /// Forgets what was not used within the window before `now`.
    fn expire(&mut self, now: BootNs, window: DurationNs) {
        while let Some(&(item, since)) = self.order.front() {
            work::looked_at(1);
            let last = self.used.get(&item).copied().unwrap_or(since);
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

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        // When those that were there before were opened is not known: not within one window.
        let Some(conn) = connection(event).filter(|conn| conn.source == Source::Live && !scene.existing)
        else {
            return;
        };
        let Some(key) = self.group_of(conn) else { return };
        let item = self.item_of(conn);
        if !self.groups.enter(key, GROUPS_MAX, &mut self.forgotten) {
            return;
        }
        let (limit, window, of) = (self.limit, self.window, self.of);
        let Some(group) = self.groups.get_mut(key) else { return };
        if let Some(last) = group.used.get_mut(&item) {
            *last = event.boot;
            return;
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
        group.used.insert(item, event.boot);
        if group.order.len() <= limit {
            return;
        }
        let name = of.counted();
        let first = group.order.front().map_or(event.boot, |(_, since)| *since);
        let evidence = |count: u64| {
            vec![
                Evidence::number(name, count),
                Evidence::number("limit", limit as u64),
                Evidence::duration("window", window),
                Evidence { name: "last", value: Value::End(conn.remote) },
            ]
        };
        match group.alert {
            None => {
                group.count = group.order.len() as u64;
                let found = Found {
                    same: key,
                    evidence: evidence(group.count),
                    silence: silence::of_opener(conn),
                    judged_from: first,
                    life: Life::Detector,
                    subject: Subject::Connection(Box::new(conn.clone())),
                };
                group.alert = scene.raise(rule, found);
                group.next = group.count * 2;
                if group.alert.is_some() {
                    scene.set_timer(BootNs(event.boot.0.saturating_add(window.0)), key);
                    self.groups.pin(key);
                } else {
                    // Told within the throttle: it begins anew.
                    group.order.clear();
                    group.used.clear();
                }
            }
            Some(alert) if group.count >= group.next => {
                group.next = group.count * 2;
                scene.escalate(alert, rule.severity, evidence(group.count));
            }
            Some(_) => {}
        }
    }

    fn on_timer(&mut self, _rule: &Rule, token: u64, scene: &mut Scene<'_>) {
        let Some(group) = self.groups.get_mut(token) else { return };
        let newest = group.order.back().map_or(BootNs(0), |(_, since)| *since);
        let calm = BootNs(newest.0.saturating_add(self.window.0));
        if calm > scene.now {
            scene.set_timer(calm, token);
            return;
        }
        if let Some(alert) = group.alert.take() {
            let name = self.of.counted();
            scene.resolve(alert, vec![Evidence::number(name, group.count)]);
        }
        self.groups.remove(token);
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn recall(&self, _rule: &Rule, event: &Event, _past: &Past<'_>) -> Option<Memory> {
        let conn = connection(event)?;
        let Some(key) = self.group_of(conn) else {
            return Some(Memory::lets_be("whose connection it is is not known", Vec::new()));
        };
        if conn.source != Source::Live {
            return Some(Memory::lets_be("it was there before: when it began is not known", Vec::new()));
        }
        let item = self.item_of(conn);
        let name = self.of.counted();
        // Those that are as good as forgotten are not counted.
        let group = self.groups.get(key);
        let uses = group.into_iter().flat_map(|group| &group.used);
        let others =
            uses.filter(|(other, last)| **other != item && event.boot.since(**last) <= self.window).count();
        let is_known = group.is_some_and(|group| group.used.contains_key(&item));
        let count = others + 1;
        let facts = vec![
            Evidence::number(name, count as u64),
            Evidence::number("limit", self.limit as u64),
            Evidence::duration("window", self.window),
        ];
        Some(if group.is_some_and(|group| group.alert.is_some()) {
            Memory {
                same: Some(key),
                finds: Some(false),
                says: format!("told already, of these {name}"),
                facts,
                about: None,
            }
        } else if is_known {
            Memory::lets_be(
                format!("not a new one: with it {count} {name}, of {} allowed", self.limit),
                facts,
            )
        } else if count <= self.limit {
            Memory::lets_be(format!("with this one {count} {name}, of {} allowed", self.limit), facts)
        } else {
            Memory::finds(key, format!("with this one {count} {name}, {} are allowed", self.limit), facts)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::alert::Phase;
    use crate::flow::model::Direction;
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, evidence, process, rule, seconds};

    fn rig(of: FanOutOf) -> Rig {
        let detect = PathRule::FanOut { of, limit: 10, window: seconds(60) };
        Rig::new(rule(Detect::Path(detect), "dir:out"))
    }

    #[test]
    fn a_scan_is_told_gets_worse_and_ends() {
        let mut rig = rig(FanOutOf::Peers);
        let scanner = process(10, "/tmp/s");
        for at in 1..=10 {
            rig.connect(&scanner, &format!("10.0.1.{at}:22"));
        }
        assert!(rig.told().is_empty(), "as many as are normal");
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
        assert!(rig.told().is_empty());
    }

    #[test]
    fn what_was_there_before_was_not_opened_at_once() {
        let detect = PathRule::FanOut { of: FanOutOf::Peers, limit: 10, window: seconds(60) };
        let mut rig = Rig::before(vec![rule(Detect::Path(detect), "dir:out")]);
        for at in 1..=40 {
            rig.existing(Direction::Out, &process(11, "/usr/bin/pool"), None, &format!("10.0.3.{at}:443"));
        }
        rig.begin();
        assert!(rig.told().is_empty());
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
        assert!(rig.told().is_empty(), "ten, and open ones");
        fail(&mut rig, "10.0.1.2:11", 0);
        assert_eq!(evidence(&rig.only(), "ports"), Some(&Value::Number(11)));
    }
}
