//! `find = "network"`: a matching process opens, accepts or listens.

use std::sync::Arc;

use crate::event::alert::{AlertId, Evidence, Subject};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::ConnId;
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection, listener};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::reach::Reach;
use crate::rules::{program, suppression};

/// Finds processes that use the network.
#[derive(Clone, Debug)]
pub(super) struct Network;

/// A use of the network by a process that is known.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) id: ConnId,
    pub(super) process: Arc<ProcessInfo>,
    subject: Subject,
}

/// A program of a user is reported once, whatever it does.
pub(super) fn same_program(process: &ProcessInfo) -> u64 {
    program::key(&(program::name(process), process.uid))
}

/// A program of a user is reported once for each program that starts it, namespace, and reach of what it does: else a harmless use, made on
/// purpose, would hide another one.
pub(super) fn dedup_key(process: &ProcessInfo, event: &Event, names: &Names) -> u64 {
    program::key(&(same_program(process), program::parent(process), Reach::of(event, names)))
}

/// Who uses the network, as [`Use`] has it.
fn user(event: &Event) -> Option<&Arc<ProcessInfo>> {
    let owner = connection(event).map(|conn| &conn.owner);
    owner.or_else(|| listener(event).map(|listener| &listener.owner))?.process.as_ref()
}

/// Returns who uses the network, and explains if that is not known.
pub(super) fn used_by<'e>(event: &'e Event, context: &mut Context<'_>) -> Option<&'e Arc<ProcessInfo>> {
    let process = user(event);
    if process.is_none() {
        context.note(|| Note::new("which process it is is not known"));
    }
    process
}

/// Whether it was reported this process's program.
pub(super) fn is_reported(process: &ProcessInfo, rule: &Rule, context: &mut Context<'_>) -> bool {
    context.is_reported(rule, same_program(process))
}

impl Use {
    /// What an event of [`Triggers::BEGIN`] or [`Triggers::LISTEN`] reports; `None`: by whom is not known.
    pub(super) fn of(event: &Event) -> Option<Self> {
        if let Some(conn) = connection(event) {
            let process = Arc::clone(conn.owner.process.as_ref()?);
            return Some(Self { id: conn.id, process, subject: Subject::Connection(Box::new(conn.clone())) });
        }
        let listener = listener(event)?;
        let process = Arc::clone(listener.owner.process.as_ref()?);
        Some(Self { id: listener.id, process, subject: Subject::Listener(Box::new(listener.clone())) })
    }

    /// Raises the alert, unless the same one, by this number, was reported.
    pub(super) fn raise(
        self,
        dedup_key: u64,
        rule: &Rule,
        evidence: Vec<Evidence>,
        life: Life,
        context: &mut Context<'_>,
    ) -> Option<AlertId> {
        let Self { process, subject, .. } = self;
        let suppress = suppression::of_started(&process);
        let judged_from = context.now;
        context.raise(rule, Found { dedup_key, subject, evidence, suppress, judged_from, life })
    }
}

impl Detector for Network {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN.and(Triggers::LISTEN)
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        // A rule on processes says nothing of one that is not known, even if its filter only excludes.
        let Some(dedup_key) = used_by(event, context).map(|process| dedup_key(process, event, context.names))
        else {
            return;
        };
        if !context.is_reported(rule, dedup_key)
            && let Some(used) = Use::of(event)
        {
            let life = Life::With(used.id);
            used.raise(dedup_key, rule, Vec::new(), life, context);
        }
    }
}
