//! `find = "listener"`, `baseline = true`: a listener that the baseline has no entry of.

use crate::event::model::Event;
use crate::rules::baseline::{self, Finder, User, What};
use crate::rules::detector::{self, Detector, Scene, Triggers};
use crate::rules::model::Rule;

use super::listener;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unlearned(Finder);

impl Detector for Unlearned {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let (Some(listener), Some(user)) = (detector::listener(event), User::of(event)) else { return };
        let local = listener.local;
        // At which port it listens is not known.
        if local.port() == 0 || self.0.knows_listener(user, local, scene) {
            return;
        }
        if scene.is_told(rule, listener::same(listener))
            || (!self.0.knows_program(user, scene) && baseline::is_deferred(event, scene))
        {
            return;
        }
        let near = |what: &What| match what {
            What::Listener { ports, .. } => 1 + u8::from(ports.hold(local.port())),
            _ => 0,
        };
        let evidence = baseline::evidence("listener", user, near, scene);
        listener::raise(rule, listener, evidence, scene.now, scene);
    }
}
