//! Samples of connections: a rule asks for one ([`crate::rules::detector::Context::sample`]) and judges when it has come.

use super::Engine;
use crate::event::alert::Alert;
use crate::flow::model::ConnId;
use crate::flow::sample::{Sample, Sampler};
use crate::rules::detector::{Context, Detector, Flows};
use crate::rules::model::Rule;
use crate::units::BootNs;

impl Engine {
    /// Lets rules have connections sampled. Without it they judge by what is known.
    #[must_use]
    pub fn with_sampler(mut self, sampler: Option<Sampler>) -> Self {
        self.sampler = sampler;
        self
    }

    /// Has a sample judged by the rules that asked for it, at the clock or, if later, at this instant.
    pub fn on_sample(&mut self, sample: &Sample, at: BootNs, flows: &dyn Flows) -> Vec<Alert> {
        self.now = self.now.max(at);
        self.judge_sample(sample, flows);
        self.take_alerts()
    }

    fn judge_sample(&mut self, sample: &Sample, flows: &dyn Flows) {
        self.each_waiting(sample.id, flows, |detector, rule, context| {
            detector.on_sample(rule, sample, context);
        });
    }

    /// No more samples come: rules judge without them.
    pub(super) fn judge_without_samples(&mut self, flows: &dyn Flows) {
        let mut ids: Vec<u64> = self.sampled.keys().copied().collect();
        ids.sort_unstable();
        for id in ids.into_iter().map(ConnId) {
            self.each_waiting(id, flows, |detector, rule, context| detector.on_no_sample(rule, id, context));
        }
    }

    /// Has the detectors of the rules that wait for a sample of this connection do something; they wait no more.
    fn each_waiting(
        &mut self,
        id: ConnId,
        flows: &dyn Flows,
        mut act: impl FnMut(&mut dyn Detector, &Rule, &mut Context<'_>),
    ) {
        let Some(followers) = self.sampled.remove(&id.0) else { return };
        for run in followers.iter() {
            self.with(run, self.now, flows, &mut act);
        }
    }
}
