//! Every test of a detector is one of its explanations: a dry run before each event says what it then does.

use super::Rig;
use crate::event::alert::{Alert, Phase};
use crate::event::model::{Event, EventBody};
use crate::flow::model::Change;
use crate::rules::explain::Explanation;
use crate::rules::work;

/// The first events of a test, each of which is explained.
const ALL_EXPLAINED: u64 = 1_000;
/// Then one in so many is.
const THEN_EACH: u64 = 20;

impl Rig {
    /// Takes what was said, before it was judged, of each event that a rule looks at; of several rules with their ids.
    pub(crate) fn why_nots(&mut self) -> Vec<String> {
        std::mem::take(&mut self.why_nots)
    }

    /// What each rule would make of this event. Of rules of one id only the first could be asked. A dry run costs as much as is
    /// remembered: of a long test not every event is explained.
    pub(super) fn ask(&mut self, event: &Event) -> Vec<Explanation> {
        if event.seq > ALL_EXPLAINED && !event.seq.is_multiple_of(THEN_EACH) {
            return Vec::new();
        }
        let ids: Vec<&str> = self.rules.rules.iter().map(|rule| &*rule.about.id).collect();
        let is_alone = |id: &&str| ids.iter().filter(|other| *other == id).count() == 1;
        let asked = ids.iter().copied().filter(is_alone);
        let explain = |id| self.engine().explain(event, self.now, id, &self.session.flows);
        let explanations: Vec<Explanation> = work::uncounted(|| asked.filter_map(explain).collect());
        let is_one = ids.len() == 1;
        for of in explanations.iter().filter(|of| of.trace.is_looked_at()) {
            let mut said = if is_one { Vec::new() } else { format!("{}: ", of.rule.about.id).into_bytes() };
            of.write_why_not(&mut said);
            self.why_nots.push(String::from_utf8(said).expect("UTF-8"));
        }
        explanations
    }

    /// That each rule did what it said.
    pub(super) fn check(&self, event: &Event, expected: &[Explanation], alerts: &[Alert]) {
        for expected in expected {
            let id = &expected.rule.about.id;
            let raised = alerts.iter().any(|alert| alert.phase == Phase::Raised && alert.rule.id == *id);
            let waits = expected.decision.as_ref().is_some_and(|decision| decision.finds.is_none());
            // A comparison that is really made may be answered at once.
            let may_be_either = waits && self.recording.is_partial;
            // An exception may still come to hold: then it is raised late, or never.
            let is_pending = expected.rule.except.iter().any(|filter| filter.may_yet_match(event));
            // An alert of the same event may cover it.
            let covers = |alert: &Alert| {
                let mut rules = self.rules.rules.iter();
                rules.any(|rule| rule.about.id == alert.rule.id && rule.covers.contains(id))
            };
            let is_covered = alerts.iter().any(covers);
            // The end of a connection may decide what waits for it.
            let is_end = matches!(&event.body, EventBody::Flow(Change::Close(..)));
            let may_be_either =
                may_be_either || ((is_pending || is_covered) && !raised) || (is_end && raised);
            assert!(may_be_either || expected.raises() == raised, "{event:?} {expected:?}");
            let facts = expected.decision.as_ref().map_or(&[][..], |decision| &decision.facts);
            let predicted =
                |alert: &&Alert| expected.raises() && alert.phase == Phase::Raised && alert.rule.id == *id;
            for evidence in alerts.iter().find(predicted).into_iter().flat_map(|alert| &alert.evidence) {
                assert!(is_end || facts.contains(evidence), "{evidence:?} {expected:?}");
            }
        }
    }
}
