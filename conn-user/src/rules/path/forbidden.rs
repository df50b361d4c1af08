//! `find = "forbidden"`: whatever matches, reported once for each program, peer and port.

use crate::event::alert::Subject;
use crate::event::model::Event;
use crate::flow::model::ConnEvent;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::{program, suppression};

/// Finds connections that match.
#[derive(Debug)]
pub(super) struct Forbidden;

fn same(conn: &ConnEvent) -> u64 {
    program::same(&(program::of_connection(conn), conn.remote.ip(), conn.service_port()))
}

impl Detector for Forbidden {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let same = same(conn);
        if context.is_reported(rule, same) {
            return;
        }
        let found = Found {
            dedup_key: same,
            evidence: Vec::new(),
            suppress: suppression::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }

    fn recall(&self, _rule: &Rule, event: &Event, _past: &Past<'_>) -> Option<Memory> {
        Some(Memory::finds(same(connection(event)?), "whatever matches is found", Vec::new()))
    }
}
