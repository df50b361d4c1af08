//! `find = "pivot"`: who came in goes on. A process that accepted a connection which the rule matches, or a process that it
//! started since, opens one that `to` matches.
//!
//! A server accepts for many and forks a child for each: of an ancestor counts the connection that it accepted last before
//! it started the child through which the path goes. Of the process itself each counts that is open, or ended not longer than
//! `within` ago; the latest is shown. A server that asks others in the course of its work (a proxy, an application with a
//! database) is a pivot by trade: such are the rule's exceptions.

use std::sync::Arc;

use super::ways_in::{WayIn, WaysIn};
use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::Event;
use crate::filter::Filter;
use crate::flow::model::{ConnEvent, Direction};
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Secondary, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::{program, suppression};
use crate::units::{BootNs, DurationNs};

/// Most accepted connections that are remembered.
const ENTRIES_MAX: usize = 16_384;

/// Finds connections onward by what was reached from outside.
#[derive(Clone, Debug)]
pub(super) struct Pivot {
    to: Filter,
    /// The process that was reached counts itself.
    own: bool,
    ways: WaysIn,
    /// A timer waits for the next one that counts no more.
    has_timer: bool,
}

impl Pivot {
    pub(super) fn new(to: &Filter, within: DurationNs, own: bool) -> Self {
        Self { to: to.clone(), own, ways: WaysIn::new(ENTRIES_MAX, within), has_timer: false }
    }

    /// Waits for the next one that counts no more: one timer, however many have ended.
    fn wait(&mut self, context: &mut Context<'_>) {
        if !self.has_timer
            && let Some(due) = self.ways.next_expiry()
        {
            context.set_timer(due, 0);
            self.has_timer = true;
        }
    }

    /// The way in of this process or of the nearest ancestor that has one, and the processes in between.
    fn way_in(&self, process: &ProcessInfo, now: BootNs) -> Option<(&WayIn, usize)> {
        if self.own
            && let Some(way) = self.ways.last(process.pid, process.start, now)
        {
            return Some((way, 0));
        }
        let mut child_started = process.start;
        for (depth, ancestor) in (1..).zip(&*process.ancestors) {
            if let Some(way) = self.ways.last(ancestor.pid, ancestor.start, child_started) {
                return Some((way, depth));
            }
            child_started = ancestor.start;
        }
        None
    }
}

impl Detector for Pivot {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn secondary(&self) -> Option<Secondary<'_>> {
        Some(Secondary {
            key: "to",
            selects: "ways out",
            match_selects: "ways in",
            raises: true,
            filter: &self.to,
        })
    }

    fn secondary_decides(&self, event: &Event) -> bool {
        connection(event).is_some_and(|conn| conn.direction == Direction::Out)
    }

    /// They are about the connection out: a server that is excepted is a way in all the same.
    fn asks_exceptions(&self) -> bool {
        true
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        // One that goes out is a way in only where the rule asks for such: a relay that called its operator.
        let is_way_in = |conn: &ConnEvent| match conn.direction {
            Direction::In => true,
            Direction::Out => !rule.matches.may_go(Some(Direction::In)),
            Direction::Unknown => false,
        };
        let Some(conn) = connection(event) else { return };
        if !is_way_in(conn) {
            return context.note(|| {
                Note::new(if conn.direction == Direction::Unknown {
                    "which side opened it is not known"
                } else {
                    "it goes out, and is no way in by the rule's `match`"
                })
            });
        }
        let Some(process) = &conn.owner.process else { return context.note(of_nobody) };
        context.note(|| Note::new("it is a way in, and is remembered as one"));
        if self.ways.is_open(conn.id) {
            return;
        }
        // One that was there before was accepted at some time since its process started.
        let at = conn.established.or(conn.born.map(|born| born.earliest)).unwrap_or(event.boot);
        let way = WayIn { at, from: conn.remote, local: conn.local, process: Arc::clone(process) };
        self.ways.enter(conn.id, way);
        if !context.follow(conn.id) {
            self.ways.end(conn.id, context.now);
            self.wait(context);
        }
    }

    fn on_secondary(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event).filter(|conn| conn.direction == Direction::Out) else { return };
        let Some(process) = conn.owner.process.as_deref() else { return context.note(of_nobody) };
        if rule.excepts(event) {
            return context.note(|| {
                let way = self.way_in(process, event.boot);
                let facts = way.map(|(way, depth)| evidence(way, process, depth, event.boot));
                Note::new("an exception matches the way out").with(facts.into_iter().flatten())
            });
        }
        let Some((way, depth)) = self.way_in(process, event.boot) else {
            return context.note(|| {
                let says = "no connection in that matches leads to this process or one above it";
                Note::new(says).with([
                    Evidence::number("ways_in_known", self.ways.len() as u64),
                    Evidence::number("processes_above", process.ancestors.len() as u64),
                ])
            });
        };
        context.note(|| Note::new("somebody came in to this process and goes on"));
        let dedup_key =
            program::key(&(program::name(process), way.from.ip(), conn.remote.ip(), conn.service_port()));
        if context.is_reported(rule, dedup_key) {
            return;
        }
        let found = Found {
            dedup_key,
            evidence: evidence(way, process, depth, event.boot),
            suppress: suppression::of_connection(conn, false),
            judged_from: way.at,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(ConnEvent::clone(conn))),
        };
        context.raise(rule, found);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        self.ways.end(conn.id, event.boot);
        self.wait(context);
    }

    fn on_timer(&mut self, _rule: &Rule, _token: u64, context: &mut Context<'_>) {
        self.has_timer = false;
        self.ways.expire(context.now);
        self.wait(context);
    }

    fn forgotten(&self) -> u64 {
        self.ways.evicted()
    }
}

/// Explains that it is not known who has the connection.
fn of_nobody() -> Note {
    Note::new("whose connection it is is not known")
}

fn evidence(way: &WayIn, process: &ProcessInfo, depth: usize, now: BootNs) -> Vec<Evidence> {
    vec![
        Evidence::new("from", Value::End(way.from)),
        Evidence::new("entered_at", Value::End(way.local)),
        Evidence::new("entered", Value::Process(Arc::clone(&way.process))),
        Evidence::new("via", program::chain(process, depth)),
        Evidence::duration("after", now.since(way.at)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::alert::Phase;
    use crate::flow::model::EndedHow;
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, child, evidence, process, rule, seconds};

    fn rig() -> Rig {
        let to = Filter::new("dir:out raddr:rfc1918").expect("a filter");
        let detect = PathRule::Pivot { to, within: seconds(60), own: true };
        Rig::new(rule(Detect::Path(detect), "dir:in raddr:external"))
    }

    /// The engine begins at 1,000 s; a pid in ticks of 10 ms is the start: 100,000 is then.
    const THEN: u32 = 100_000;

    #[test]
    fn through_a_session_with_the_chain() {
        let mut rig = rig();
        let sshd = process(800, "/usr/sbin/sshd");
        rig.accept(&sshd, "10.0.0.1:22", "203.0.113.1:5000");
        rig.accept(&sshd, "10.0.0.1:22", "203.0.113.2:5000");
        rig.pass(seconds(1));
        let session = child(&sshd, THEN + 100, "/usr/sbin/sshd");
        let shell = child(&session, THEN + 101, "/bin/bash");
        let ssh = child(&shell, THEN + 102, "/usr/bin/ssh");
        rig.pass(seconds(1));
        // Accepted after the session began: not its way in.
        rig.accept(&sshd, "10.0.0.1:22", "203.0.113.3:5000");
        rig.pass(seconds(5));
        rig.connect(&ssh, "10.0.0.9:22");
        let alert = rig.only();
        assert_eq!(evidence(&alert, "from"), Some(&Value::End("203.0.113.2:5000".parse().expect("end"))));
        let names = ["sshd[800]", "sshd[100100]", "bash[100101]", "ssh[100102]"];
        let via = names.iter().map(|name| Value::Text(name.as_bytes().into())).collect();
        assert_eq!(evidence(&alert, "via"), Some(&Value::List(via)));
    }

    #[test]
    fn exceptions_are_about_the_way_out() {
        let to = Filter::new("dir:out raddr:rfc1918").expect("a filter");
        let detect = PathRule::Pivot { to, within: seconds(60), own: true };
        let except = [Filter::new("proc:web").expect("a filter")].into();
        let mut rig = Rig::new(Rule { except, ..rule(Detect::Path(detect), "dir:in raddr:external") });
        let web = process(801, "/usr/sbin/web");
        rig.accept(&web, "10.0.0.1:80", "203.0.113.1:5000");
        rig.connect(&web, "10.0.0.9:5432");
        assert!(rig.reported().is_empty(), "its own work");
        rig.connect(&child(&web, THEN, "/usr/bin/curl"), "10.0.0.9:8000");
        assert_eq!(rig.only().phase, Phase::Raised);
    }

    #[test]
    fn what_is_no_pivot() {
        let mut rig = rig();
        let web = process(801, "/usr/sbin/web");
        let inside = rig.accept(&web, "10.0.0.1:80", "10.0.0.7:5000");
        rig.connect(&web, "10.0.0.9:5432");
        rig.close(inside, EndedHow::PeerFin, None);
        let outside = rig.accept(&web, "10.0.0.1:80", "203.0.113.1:5000");
        rig.connect(&web, "198.51.100.4:443");
        rig.connect(&process(802, "/usr/bin/cron"), "10.0.0.9:5432");
        rig.close(outside, EndedHow::PeerFin, None);
        rig.pass(seconds(61));
        rig.connect(&web, "10.0.0.9:5432");
        assert!(rig.reported().is_empty(), "from inside, to outside, by another, too late");
        assert_eq!(rig.timers(), 0);
        let again = rig.accept(&web, "10.0.0.1:80", "203.0.113.1:5000");
        rig.close(again, EndedHow::PeerFin, None);
        rig.pass(seconds(59));
        let id = rig.connect(&web, "10.0.0.9:5432");
        rig.fail(id, 111);
        assert_eq!(rig.phases(), [(1, Phase::Raised), (1, Phase::Resolved)]);
    }
}
