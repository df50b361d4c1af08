//! `find = "forbidden"`: whatever matches, told once for each program, peer and port.

use crate::event::alert::Subject;
use crate::event::model::Event;
use crate::flow::model::ConnEvent;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Triggers, connection, service_port};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::{program, silence};

/// See the module.
#[derive(Debug)]
pub(super) struct Forbidden;

fn same(conn: &ConnEvent) -> u64 {
    program::same(&(program::of_connection(conn), conn.remote.ip(), service_port(conn)))
}

impl Detector for Forbidden {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(conn) = connection(event) else { return };
        let same = same(conn);
        if scene.is_told(rule, same) {
            return;
        }
        let found = Found {
            same,
            evidence: Vec::new(),
            silence: silence::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        scene.raise(rule, found);
    }

    fn recall(&self, _rule: &Rule, event: &Event, _past: &Past<'_>) -> Option<Memory> {
        Some(Memory::finds(same(connection(event)?), "whatever matches is found", Vec::new()))
    }
}
