//! `find = "first-seen"`, `baseline = true`: a path that the baseline has no entry of.

use std::net::IpAddr;

use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::Names;
use crate::flow::model::Direction;
use crate::rules::alerts::{Found, Life};
use crate::rules::baseline::{self, Baseline, Finder, User, What};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::{program, suppression};

/// Finds connections that are not in the baseline.
#[derive(Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let (Some(conn), Some(user)) = (connection(event), User::of(event)) else { return };
        // Which side is the service's is not known, and so is the port.
        if conn.direction == Direction::Unknown {
            return;
        }
        let (direction, ip, port) = (conn.direction, conn.remote.ip(), conn.service_port());
        if self.0.knows_connection(user, (direction, ip, port), context) {
            return;
        }
        let same = same(user, (direction, ip, port));
        if context.is_reported(rule, same)
            || (!self.0.knows_program(user, context) && baseline::is_deferred(event, context))
        {
            return;
        }
        let evidence = evidence(user, (direction, ip, port), context.names, context.baseline);
        let found = Found {
            dedup_key: same,
            evidence,
            suppress: suppression::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let conn = connection(event)?;
        let Some(user) = User::of(event) else { return Some(baseline::of_nobody()) };
        let path = (conn.direction, conn.remote.ip(), conn.service_port());
        let facts = evidence(user, path, past.names, past.baseline);
        if conn.direction == Direction::Unknown {
            return Some(Memory::not_raised("which side is the service's is not known", facts));
        }
        let is_known = past.baseline.has_connection(user, path, past.names);
        let same = same(user, path);
        Some(baseline::recollection_of_use(is_known, (event, user), same, "connection", facts, past))
    }
}

/// Direction, remote address, port of the service.
type Taken = (Direction, IpAddr, u16);

fn same(user: User<'_>, (direction, ip, port): Taken) -> u64 {
    program::same(&(user.name(), direction, baseline::same_net(ip), port))
}

fn evidence(user: User<'_>, (direction, ip, port): Taken, names: &Names, known: &Baseline) -> Vec<Evidence> {
    let near = |what: &What| match what {
        What::Connection { direction: of, remote, ports } if *of == direction => {
            2 * u8::from(ports.hold(port)) + u8::from(remote.holds(ip, names))
        }
        _ => 0,
    };
    let mut evidence = baseline::evidence("connection", user, near, known);
    evidence.push(baseline::zone(ip, names));
    evidence
}
