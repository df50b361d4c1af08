//! Explains events by dry runs of the rules' detectors.

use std::sync::Arc;

use super::{Engine, Running};
use crate::event::model::Event;
use crate::rules::alerts::Reported;
use crate::rules::detector::{Context, Effects, Flows, connection};
use crate::rules::dry_run::{Decision, DryRun};
use crate::rules::explain::Explanation;
use crate::rules::trace::RuleTrace;
use crate::units::BootNs;

impl Engine {
    /// Returns what the rule of this id would make of an event that was not judged yet, and why: by a dry run of a copy of its
    /// detector, which costs as much as the detector remembers. Judges nothing. `None`: there is no such active rule.
    pub fn explain(&self, event: &Event, now: BootNs, rule: &str, flows: &dyn Flows) -> Option<Explanation> {
        let running = self.running(rule)?;
        let trace = running.rule.trace(event, &self.layout.names);
        let decides = trace.is_looked_at().then(|| self.dry_run(running, &trace, event, now, flows));
        let (decision, reported) = decides.unzip();
        Some(Explanation { rule: Arc::clone(&running.rule), trace, decision, reported: reported.flatten() })
    }

    /// Returns what a detector does with an event that it looks at, and what was reported of the same before. An event that the
    /// rule's filters do not let pass goes to the method that they decide about.
    fn dry_run(
        &self,
        running: &Running,
        trace: &RuleTrace,
        event: &Event,
        now: BootNs,
        flows: &dyn Flows,
    ) -> (Decision, Option<Reported>) {
        let mut detector = running.detector.copy();
        let mut run = DryRun::default();
        let mut context = Context {
            now,
            began: running.began,
            existing: false,
            names: &self.layout.names,
            baseline: &self.layout.baseline,
            program_rules: &self.layout.program_rules,
            coverage: &self.coverage,
            flows,
            rule: running.run,
            comparer: self.comparer.as_ref(),
            sampler: self.sampler.as_ref(),
            has_recorded_answers: self.has_recorded_answers,
            effects: Effects::Dry { run: &mut run, alerts: &self.alerts, exits: &self.exits },
            is_over: false,
        };
        let is_secondary = detector.secondary().is_some_and(|of| of.filter.matches(event));
        if running.selects(event) || !trace.by_secondary {
            detector.on_match(&running.rule, event, &mut context);
        }
        if is_secondary || trace.by_secondary {
            detector.on_secondary(&running.rule, event, &mut context);
        }
        run.finish(&self.alerts, (running.run, &*running.rule), connection(event).map(|conn| conn.id), now)
    }
}
