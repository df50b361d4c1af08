//! `find = "exec"`: a program that matches is executed, whether or not it uses the network.

use std::sync::Arc;

use crate::event::alert::Subject;
use crate::event::model::{Event, EventBody};
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers};
use crate::rules::model::Rule;
use crate::rules::{program, suppression};

/// Detects executed programs.
#[derive(Clone, Debug)]
pub(super) struct Exec;

impl Detector for Exec {
    fn triggers(&self) -> Triggers {
        Triggers::EXEC
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let EventBody::Exec(exec) = &event.body else { return };
        let process = &exec.process;
        let dedup_key = program::key(&(program::name(process), process.uid, program::parent(process)));
        if context.is_reported(rule, dedup_key) {
            return;
        }
        let found = Found {
            dedup_key,
            subject: Subject::Process(Arc::clone(process)),
            evidence: super::executed(event, process),
            suppress: suppression::of_started(process),
            judged_from: context.now,
            life: Life::Moment,
        };
        context.raise(rule, found);
    }
}
