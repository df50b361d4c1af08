//! Dry runs: what a detector decides about an event, by its own code, and why.
//!
//! To explain an event, the engine copies the detector of a rule and hands the event to the copy. The copy's [`Context`] changes
//! nothing: it records what the detector does. Why it does so, and what it goes by, the decision itself reports where it is made
//! ([`Context::note`]); that is evaluated in dry runs only.
//!
//! [`Context`]: super::detector::Context
//! [`Context::note`]: super::detector::Context::note

use super::alerts::{Alerts, Found, Reported};
use super::detector::{Detector, RuleRun};
use super::model::Rule;
use crate::event::alert::{AlertId, Evidence, Severity, Subject};
use crate::event::human;
use crate::flow::model::ConnId;
use crate::units::{BootNs, DurationNs};

/// What a detector decides about an event if the rule's filters let it pass, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Whether it finds something, of which an alert is raised unless it repeats one; `None`: time decides.
    pub finds: Option<bool>,
    /// Why, in a sentence of our own.
    pub says: String,
    /// What it goes by. Of a finding, also the evidence of its alert.
    pub facts: Vec<Evidence>,
}

/// Why a detector decides as it does, for people.
#[derive(Debug)]
pub(super) struct Note {
    says: String,
    facts: Vec<Evidence>,
    waits: bool,
    key: Option<u64>,
    about: Option<ConnId>,
}

impl Note {
    /// Returns the note of a decision. Without more it is that nothing is found, unless an alert is raised.
    pub(super) fn new(says: impl Into<String>) -> Self {
        Self { says: says.into(), facts: Vec::new(), waits: false, key: None, about: None }
    }

    /// Adds what the decision goes by.
    #[must_use]
    pub(super) fn with(mut self, facts: impl IntoIterator<Item = Evidence>) -> Self {
        self.facts.extend(facts);
        self
    }

    /// Time decides, though nothing new is waited for.
    #[must_use]
    pub(super) const fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// The dedup key of an alert that was raised, or may be later.
    #[must_use]
    pub(super) const fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Such an alert is about this connection and not that of the event.
    #[must_use]
    pub(super) const fn about(mut self, conn: ConnId) -> Self {
        self.about = Some(conn);
        self
    }
}

/// What a detector found in a dry run.
#[derive(Debug)]
struct Raised {
    evidence: Vec<Evidence>,
    earlier: Option<Reported>,
}

/// Records what a detector does.
#[derive(Debug, Default)]
pub(super) struct DryRun {
    /// The first finding.
    raised: Option<Raised>,
    /// A timer was set, or a sample or a comparison asked for.
    pub(super) waits: bool,
    /// A comparison of the executable is due.
    pub(super) compares: bool,
    pub(super) note: Option<Note>,
}

impl DryRun {
    /// Records a finding. Returns the id of its alert; `None`: it repeats another one.
    pub(super) fn raise(
        &mut self,
        alerts: &Alerts,
        of: (RuleRun, &Rule),
        found: Found,
        severity: Severity,
        now: BootNs,
    ) -> Option<AlertId> {
        let conn = if let Subject::Connection(conn) = &found.subject { Some(conn.id) } else { None };
        let earlier = alerts.earlier(of, found.dedup_key, conn, severity, now);
        self.raised.get_or_insert(Raised { evidence: found.evidence, earlier });
        (!earlier.is_some_and(|earlier| earlier.is_repeat())).then(|| alerts.next_id())
    }

    /// Returns what was decided, and what was reported of the same before. `conn`: the connection of the event.
    pub(super) fn finish(
        self,
        alerts: &Alerts,
        of: (RuleRun, &Rule),
        conn: Option<ConnId>,
        now: BootNs,
    ) -> (Decision, Option<Reported>) {
        let Self { raised, waits, note, .. } = self;
        let waits = waits || note.as_ref().is_some_and(|note| note.waits);
        let finds = if raised.is_some() { Some(true) } else { Some(false).filter(|_| !waits) };
        let earlier = match (&raised, &note) {
            (Some(raised), _) => raised.earlier,
            (None, Some(Note { key: Some(key), about, .. })) => {
                alerts.earlier(of, *key, about.or(conn), of.1.severity, now)
            }
            (None, _) => None,
        };
        let (says, mut facts) = match note {
            Some(note) => (note.says, note.facts),
            None if raised.is_some() => ("every match raises an alert".to_owned(), Vec::new()),
            None if waits => ("time decides".to_owned(), Vec::new()),
            None => ("it does nothing with such an event".to_owned(), Vec::new()),
        };
        for evidence in raised.into_iter().flat_map(|raised| raised.evidence) {
            if facts.iter().all(|fact| fact.name != evidence.name) {
                facts.push(evidence);
            }
        }
        (Decision { finds, says, facts }, earlier)
    }
}

/// Copies a detector with all that it remembers, for a dry run.
pub trait CopyDetector {
    /// Returns the copy.
    fn copy(&self) -> Box<dyn Detector>;
}

impl<D: Detector + Clone + 'static> CopyDetector for D {
    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

/// A duration as people say it.
pub(super) fn lasting(duration: DurationNs) -> String {
    let mut out = Vec::new();
    human::write_duration(duration, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
