//! What engines get beside events: paths that rules learned in earlier runs, and samples of connections.

use crate::flow::sample::{Sample, Sampler, Samples};
use crate::process::table::ProcessTable;
use crate::rules::path_memory::PathMemory;
use crate::rules::{Engine, Staged};
use crate::units::BootNs;

/// Makes engines, and waits for the samples that they ask for.
#[derive(Default)]
pub(super) struct EngineInputs {
    /// What rules learned in earlier runs.
    pub(super) memory: Option<PathMemory>,
    pub(super) samples: Option<(Sampler, Samples)>,
}

impl EngineInputs {
    /// Returns an engine of these rules for programs that were attached at this time.
    pub(super) fn engine(&self, rules: Staged, attached: BootNs, processes: &ProcessTable) -> Engine {
        let comparer = processes.comparer();
        // Without an inspector no facts come.
        let holds = comparer.is_some();
        let engine = Engine::of(rules, attached)
            .with_comparer(comparer)
            .with_sampler(self.samples.as_ref().map(|(sampler, _)| sampler.clone()))
            .with_memory(self.memory.clone())
            .with_delivered_facts();
        if holds { engine.with_held_alerts() } else { engine }
    }

    /// Resolves when a sample has come. May be cancelled.
    pub(super) async fn sampled(&self) {
        match &self.samples {
            Some((_, samples)) => samples.came().await,
            None => std::future::pending().await,
        }
    }

    /// The next sample that has come.
    pub(super) fn next_sample(&self) -> Option<Sample> {
        self.samples.as_ref()?.1.next()
    }
}
