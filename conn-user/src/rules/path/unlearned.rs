//! `find = "first-seen"`, `baseline = true`: a path that the baseline has no entry of.

use std::net::IpAddr;

use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::Names;
use crate::flow::model::Direction;
use crate::rules::alerts::{Found, Life};
use crate::rules::baseline::{self, Baseline, Finder, User, What};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::{program, suppression};

/// Finds connections that are not in the baseline.
#[derive(Clone, Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let Some(user) = baseline::user(event, context) else { return };
        let taken = (conn.direction, conn.remote.ip(), conn.service_port());
        let (names, known) = (context.names, context.baseline);
        let evidence = || evidence(user, taken, names, known);
        // Nor is the port known then.
        if conn.direction == Direction::Unknown {
            return context.note(|| Note::new("which side is the service's is not known").with(evidence()));
        }
        if self.0.knows_connection(user, taken, context) {
            return context.note(|| baseline::known("connection").with(evidence()));
        }
        let dedup_key = dedup_key(user, taken);
        if context.is_reported(rule, dedup_key)
            || self.0.defers_program("connection", (event, user), evidence, context)
        {
            return;
        }
        context.note(|| baseline::unknown("connection"));
        let found = Found {
            dedup_key,
            evidence: evidence(),
            suppress: suppression::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }
}

/// Direction, remote address, port of the service.
type Taken = (Direction, IpAddr, u16);

fn dedup_key(user: User<'_>, (direction, ip, port): Taken) -> u64 {
    program::key(&(user.name(), direction, baseline::same_net(ip), port))
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
