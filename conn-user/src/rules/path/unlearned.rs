//! `find = "first-seen"`, `baseline = true`: a path that the baseline has no entry of.

use crate::event::alert::Subject;
use crate::event::model::Event;
use crate::flow::model::Direction;
use crate::rules::alerts::{Found, Life};
use crate::rules::baseline::{self, Finder, User, What};
use crate::rules::detector::{Detector, Scene, Triggers, connection, service_port};
use crate::rules::model::Rule;
use crate::rules::{program, silence};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let (Some(conn), Some(user)) = (connection(event), User::of(event)) else { return };
        // Which side is the service's is not known, and so is the port.
        if conn.direction == Direction::Unknown {
            return;
        }
        let (direction, ip, port) = (conn.direction, conn.remote.ip(), service_port(conn));
        if self.0.knows_connection(user, (direction, ip, port), scene) {
            return;
        }
        let same = program::same(&(user.name(), direction, baseline::same_net(ip), port));
        if scene.is_told(rule, same)
            || (!self.0.knows_program(user, scene) && baseline::is_deferred(event, scene))
        {
            return;
        }
        let near = |what: &What| match what {
            What::Connection { direction: of, remote, ports } if *of == direction => {
                2 * u8::from(ports.hold(port)) + u8::from(remote.holds(ip, scene.names))
            }
            _ => 0,
        };
        let mut evidence = baseline::evidence("connection", user, near, scene);
        evidence.push(baseline::zone(ip, scene.names));
        let found = Found {
            same,
            evidence,
            silence: silence::of_connection(conn, true),
            judged_from: event.boot,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        scene.raise(rule, found);
    }
}
