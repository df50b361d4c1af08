//! What a detector remembers that bears on an event: for people who ask why it reported, or did not.

use std::sync::Arc;

use super::baseline::Baseline;
use super::model::Rule;
use crate::event::alert::Evidence;
use crate::event::human;
use crate::filter::Names;
use crate::flow::model::ConnId;
use crate::units::{BootNs, DurationNs};

/// What a detector knows when it is asked, before it judges the event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What is the same about this finding and others that are reported once; `None`: it would find nothing.
    pub same: Option<u64>,
    /// Whether it would find something in this event; `None`: that is not decided by the event, but by time.
    pub finds: Option<bool>,
    /// Why, in a sentence of our own.
    pub says: String,
    /// What it goes by.
    pub facts: Vec<Evidence>,
    /// The connection that an alert would be about, where it is not that of the event.
    pub about: Option<ConnId>,
}

/// The instant of a recollection.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    /// The instant of the event.
    pub now: BootNs,
    /// When the rule began.
    pub began: BootNs,
    /// The zones and lists.
    pub names: &'a Names,
    /// What is normal.
    pub baseline: &'a Baseline,
    /// Connections can be sampled.
    pub can_sample: bool,
    /// Active rules that report programs that the baseline does not have.
    pub program_rules: &'a [Arc<Rule>],
}

impl Memory {
    /// Something that is found.
    pub(super) fn finds(same: u64, says: impl Into<String>, facts: Vec<Evidence>) -> Self {
        Self { same: Some(same), finds: Some(true), says: says.into(), facts, about: None }
    }

    /// Nothing is found.
    pub(super) fn not_raised(says: impl Into<String>, facts: Vec<Evidence>) -> Self {
        Self { same: None, finds: Some(false), says: says.into(), facts, about: None }
    }

    /// An alert would be about this connection.
    #[must_use]
    pub(super) fn about(self, conn: ConnId) -> Self {
        Self { about: Some(conn), ..self }
    }

    /// Time decides.
    pub(super) fn waits(same: Option<u64>, says: impl Into<String>, facts: Vec<Evidence>) -> Self {
        Self { same, finds: None, says: says.into(), facts, about: None }
    }
}

/// A duration as people say it.
pub(super) fn lasting(duration: DurationNs) -> String {
    let mut out = Vec::new();
    human::write_duration(duration, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
