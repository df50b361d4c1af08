//! What rules of kind `first-seen` learned in earlier runs, and where they report what they learn.
//!
//! Detectors know no files: what they learn goes through a bounded channel to whoever keeps it ([`crate::agent::state`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::program;
use crate::units::{BootNs, DurationNs};

/// Paths that wait to be kept. What does not fit is learned again after the next start.
const LEARNED_MAX: usize = 4096;

/// What a rule learned in earlier runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPaths {
    /// For how long it has watched in all.
    pub watched: DurationNs,
    /// The paths as their hashes, in the order in which they were learned.
    pub paths: Vec<u64>,
}

/// By a name that changes with the rule's own definition of a path.
pub type KnownByRule = HashMap<Box<str>, KnownPaths>;

/// Something that a rule reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The rule of this name began.
    Began(Arc<str>, BootNs),
    /// It learned this path.
    Path(Arc<str>, u64),
    /// Nothing more comes.
    End,
}

/// What rules remember from earlier runs.
#[derive(Clone, Debug)]
pub struct PathMemory {
    known: Arc<KnownByRule>,
    learned: SyncSender<Learned>,
}

impl PathMemory {
    /// Returns a memory of what is known, and where it reports what is learned.
    pub fn new(known: KnownByRule) -> (Self, SyncSender<Learned>, Receiver<Learned>) {
        let (learned, reports) = sync_channel(LEARNED_MAX);
        (Self { known: Arc::new(known), learned: learned.clone() }, learned, reports)
    }

    /// Returns what the rule of this name knows.
    pub(super) fn of(&self, name: &str) -> Option<&KnownPaths> {
        self.known.get(name)
    }

    /// Reports something. Never waits. Returns whether it will be kept.
    fn report(&self, learned: Learned) -> bool {
        self.learned.try_send(learned).is_ok()
    }
}

/// Where a rule reports what it learns, under a name of its own.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    memory: PathMemory,
    name: Arc<str>,
}

impl Reporter {
    /// Returns the reporter of the rule of this name, which begins now. A report that will not be kept adds to `forgotten`.
    pub(super) fn begin(memory: &PathMemory, name: Arc<str>, now: BootNs, forgotten: &mut u64) -> Self {
        let began = Learned::Began(Arc::clone(&name), now);
        *forgotten += u64::from(!memory.report(began));
        Self { memory: memory.clone(), name }
    }

    /// Reports a path.
    pub(super) fn learn(&self, path: u64, forgotten: &mut u64) {
        let learned = Learned::Path(Arc::clone(&self.name), path);
        *forgotten += u64::from(!self.memory.report(learned));
    }
}

/// Returns the hash of a constant: the hashes of paths mean nothing to a program that hashes it otherwise.
pub fn hash_probe() -> u64 {
    program::key(&("conn first-seen", 1_u32, [0_u8; 4]))
}
