//! `find = "forbidden"`: whatever matches, told once for each program, peer and port.

use crate::event::alert::Subject;
use crate::event::model::Event;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Triggers, connection, service_port};
use crate::rules::model::Rule;
use crate::rules::{program, silence};

/// See the module.
#[derive(Debug)]
pub(super) struct Forbidden;

impl Detector for Forbidden {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(conn) = connection(event) else { return };
        let whose = program::of_connection(conn);
        let same = program::same(&(whose, conn.remote.ip(), service_port(conn)));
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
}
