//! Connections that are sampled: the test answers.

use std::sync::mpsc::Receiver;

use super::{BEGAN, Rig};
use crate::flow::model::ConnId;
use crate::flow::sample::{Counters, Question, Sample, Sampler};
use crate::rules::Engine;

impl Rig {
    /// Samples come as the test says ([`Rig::sampled`]); the second one has the questions. To be called before [`Rig::begin`].
    pub(crate) fn sampling(mut self) -> (Self, Receiver<Question>) {
        let (sampler, questions) = Sampler::unanswered();
        let engine = Engine::new(&self.rules, BEGAN).with_delivered_facts().with_sampler(Some(sampler));
        self.engine = Some(engine);
        self.recording.has_facts = true;
        (self, questions)
    }

    /// A sample of a connection has come.
    pub(crate) fn sampled(&mut self, id: ConnId, counters: Option<Counters>) {
        let sample = Sample { id, counters };
        self.hand_over(|session, out| session.deliver_sample(sample, &mut &mut *out));
    }
}
