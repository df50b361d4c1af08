//! `find = "listener"`: something matching listens, or did already at the start.

use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::Event;
use crate::flow::model::ListenEvent;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{self, Context, Detector, Triggers};
use crate::rules::model::Rule;
use crate::rules::{program, suppression};
use crate::units::BootNs;

/// Finds listeners that match.
#[derive(Clone, Debug)]
pub(super) struct Listener;

impl Detector for Listener {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(listener) = detector::listener(event) else { return };
        if context.is_reported(rule, dedup_key(listener)) {
            return;
        }
        let mut evidence = vec![
            Evidence::new("listens_on", Value::End(listener.local)),
            Evidence::number("port", listener.local.port().into()),
        ];
        if let Some(exe) = listener.owner.process.as_ref().and_then(|process| process.exe.as_deref()) {
            evidence.push(Evidence::text("exe", exe));
        }
        if let Some(born) = &listener.born {
            evidence.push(Evidence::duration("listens_for", context.now.since(born.latest)));
        }
        raise(rule, listener, evidence, context.now, context);
    }
}

pub(super) fn dedup_key(listener: &ListenEvent) -> u64 {
    let owner = listener.owner.process.as_deref().map(program::name);
    let device = listener.scope.as_ref().and_then(|scope| scope.device.as_ref());
    program::key(&(owner, listener.local, listener.netns, device))
}

/// Raises an alert about a listener, which ends with it: one an executable and place.
pub(super) fn raise(
    rule: &Rule,
    listener: &ListenEvent,
    evidence: Vec<Evidence>,
    judged_from: BootNs,
    context: &mut Context<'_>,
) {
    let found = Found {
        dedup_key: dedup_key(listener),
        subject: Subject::Listener(Box::new(listener.clone())),
        evidence,
        suppress: suppression::of_listener(listener),
        judged_from,
        life: Life::With(listener.id),
    };
    context.raise(rule, found);
}
