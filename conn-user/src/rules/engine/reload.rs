//! Other rules take over while the engine is at work.

use std::sync::Arc;

use super::{Audience, Engine, Running};
use crate::event::alert::Alert;
use crate::event::model::Event;
use crate::rules::RuleSet;
use crate::rules::detector::{Flows, RuleRun};
use crate::rules::index::Index;
use crate::rules::stage::{Added, Layout, Retired, Staged};
use crate::rules::work;
use crate::units::BootNs;

impl Engine {
    /// Replaces the active rules. A rule that stays as it is goes on: with what it remembers, its timers and alerts. The alerts of those that
    /// go, or change, are resolved. A new one begins now, with `existing` as in [`Self::start`].
    pub fn set_rules(
        &mut self,
        rules: &RuleSet,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) -> Vec<Alert> {
        self.apply(self.layout.stage(rules), now, existing, flows)
    }

    /// Returns the active rules with their places, from which others are staged ([`Layout::stage`]).
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Replaces the active rules with staged ones, as [`Self::set_rules`] does with rules that are not. Costs as much as has changed;
    /// `existing` is not asked for if no rule begins.
    pub fn apply(
        &mut self,
        staged: Staged,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) -> Vec<Alert> {
        let staged = staged.based_on(&self.layout);
        let Staged { layout, index, removed, added, added_index, when_replaced, .. } = staged;
        let mut retired = Vec::with_capacity(removed.len());
        for place in removed {
            work::looked_at(1);
            if let Some(running) = self.running.get_mut(place as usize).and_then(Option::take) {
                self.timers.cancel_rule(running.run);
                self.forgotten_before += running.detector.forgotten();
                retired.push(running);
            }
        }
        self.alerts.end_rules(retired.iter().map(|running| running.run), now);
        let index = std::mem::replace(&mut self.index, index);
        let layout = std::mem::replace(&mut self.layout, layout);
        let retired = Retired::new((retired, index, layout));
        let places: Vec<u32> = added.iter().map(|added| added.place).collect();
        self.add(added, now);
        self.begin(&places, added_index.as_ref(), now, existing, flows);
        if let Some(when_replaced) = when_replaced {
            when_replaced(retired);
        }
        self.take_alerts()
    }

    /// Puts rules at their places.
    pub(super) fn add(&mut self, added: Vec<Added>, began: BootNs) {
        self.running.resize_with(self.layout.places(), || None);
        for Added { place, rule, mut detector } in added {
            work::looked_at(1);
            if let Some(memory) = &self.memory {
                detector.restore(&rule, memory, began);
            }
            self.runs += 1;
            let run = RuleRun { place, serial: self.runs };
            if let Some(running) = self.running.get_mut(place as usize) {
                *running = Some(Running { run, rule, detector, began });
            }
        }
    }

    /// Lets the rules at these places begin; `index` is theirs alone, where there are others.
    pub(super) fn begin(
        &mut self,
        places: &[u32],
        index: Option<&Index>,
        now: BootNs,
        existing: impl IntoIterator<Item = Event>,
        flows: &dyn Flows,
    ) {
        if places.is_empty() {
            return;
        }
        self.now = self.now.max(now);
        for &place in places {
            if let Some(run) = self.run_at(place) {
                self.with(run, now, flows, |detector, rule, context| detector.on_start(rule, context));
            }
        }
        for event in existing {
            self.judge(&event, Audience::Beginning(index), flows);
        }
    }

    fn run_at(&self, place: u32) -> Option<RuleRun> {
        self.running.get(place as usize)?.as_ref().map(|running| running.run)
    }

    /// The rule, if it is still at work.
    pub(super) fn at_work(&self, run: RuleRun) -> Option<&Running> {
        self.running.get(run.place as usize)?.as_ref().filter(|running| running.run == run)
    }
}
