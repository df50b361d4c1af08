//! `find = "network"`: a matching process opens, accepts or listens.

use std::sync::Arc;

use crate::event::alert::{AlertId, Evidence, Subject};
use crate::event::model::Event;
use crate::flow::model::ConnId;
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Triggers, connection, listener};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::{program, silence};

/// See the module.
#[derive(Debug)]
pub(super) struct Network;

/// A use of the network by a process that is known.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) id: ConnId,
    pub(super) process: Arc<ProcessInfo>,
    subject: Subject,
}

/// A program and user are told once, whatever they do.
pub(super) fn same(process: &ProcessInfo) -> u64 {
    program::same(&(program::name(process), process.uid))
}

/// Who uses the network, as [`Use`] has it.
pub(super) fn user(event: &Event) -> Option<&Arc<ProcessInfo>> {
    let owner = connection(event).map(|conn| &conn.owner);
    owner.or_else(|| listener(event).map(|listener| &listener.owner))?.process.as_ref()
}

/// Whether it was told of this process's program.
pub(super) fn is_told(process: &ProcessInfo, rule: &Rule, scene: &mut Scene<'_>) -> bool {
    scene.is_told(rule, same(process))
}

impl Use {
    /// What an event of [`Triggers::BEGIN`] or [`Triggers::LISTEN`] tells of; `None`: by whom is not known.
    pub(super) fn of(event: &Event) -> Option<Self> {
        if let Some(conn) = connection(event) {
            let process = Arc::clone(conn.owner.process.as_ref()?);
            return Some(Self { id: conn.id, process, subject: Subject::Connection(Box::new(conn.clone())) });
        }
        let listener = listener(event)?;
        let process = Arc::clone(listener.owner.process.as_ref()?);
        Some(Self { id: listener.id, process, subject: Subject::Listener(Box::new(listener.clone())) })
    }

    /// Raises the alert, unless it was told.
    pub(super) fn raise(
        self,
        rule: &Rule,
        evidence: Vec<Evidence>,
        life: Life,
        scene: &mut Scene<'_>,
    ) -> Option<AlertId> {
        let same = same(&self.process);
        self.raise_as(same, rule, evidence, life, scene)
    }

    /// Likewise, as the same finding as others of this number.
    pub(super) fn raise_as(
        self,
        same: u64,
        rule: &Rule,
        evidence: Vec<Evidence>,
        life: Life,
        scene: &mut Scene<'_>,
    ) -> Option<AlertId> {
        let Self { process, subject, .. } = self;
        let silence = silence::of_started(&process);
        let judged_from = scene.now;
        scene.raise(rule, Found { same, subject, evidence, silence, judged_from, life })
    }
}

impl Detector for Network {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN.and(Triggers::LISTEN)
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        // A rule on processes says nothing of one that is not known, even if its filter only excludes.
        if user(event).is_some_and(|process| !is_told(process, rule, scene))
            && let Some(used) = Use::of(event)
        {
            let life = Life::With(used.id);
            used.raise(rule, Vec::new(), life, scene);
        }
    }

    fn recall(&self, _rule: &Rule, event: &Event, _past: &Past<'_>) -> Option<Memory> {
        Some(match user(event) {
            Some(process) => Memory::finds(same(process), "whatever matches is found", Vec::new()),
            None => Memory::lets_be("which process it is is not known", Vec::new()),
        })
    }
}
