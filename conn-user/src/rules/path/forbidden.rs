//! `find = "forbidden"`: whatever matches, reported once for each program, peer and port.

use crate::event::alert::Subject;
use crate::event::model::Event;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::model::Rule;
use crate::rules::{program, suppression};

/// Finds connections that match.
#[derive(Clone, Debug)]
pub(super) struct Forbidden;

impl Detector for Forbidden {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let dedup_key = program::key(&(program::of_connection(conn), conn.remote.ip(), conn.service_port()));
        if context.is_reported(rule, dedup_key) {
            return;
        }
        let found = Found {
            dedup_key,
            evidence: Vec::new(),
            suppress: suppression::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }
}
