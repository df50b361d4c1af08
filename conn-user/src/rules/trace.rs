//! A rule asked aloud of one event: whether it looks at such events, which words hold, which exceptions.

pub mod text;

use super::detector::Triggers;
use super::detectors::detector;
use super::model::Rule;
use crate::event::model::Event;
use crate::filter::Names;
use crate::filter::trace::WordTrace;

/// What a rule's filters say of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTrace {
    /// Which sorts of events the rule looks at.
    pub looks_at: Triggers,
    /// Of which sorts the event is.
    pub sorts: Triggers,
    /// The words of `match`.
    pub matches: Vec<WordTrace>,
    /// The exceptions, in their order.
    pub except: Vec<ExceptTrace>,
    /// The secondary filter, such as `to` of a pivot rule.
    pub secondary: Option<SecondaryTrace>,
    /// The secondary filter decides about this event, and not `match`.
    pub by_secondary: bool,
    /// What comes of it.
    pub verdict: Verdict,
}

/// A secondary filter, checked against an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondaryTrace {
    /// The key of the rule that has it.
    pub key: &'static str,
    /// What it selects, in the plural.
    pub selects: &'static str,
    /// What `match` selects.
    pub match_selects: &'static str,
    /// Alerts are raised at events that it selects, and not at those that `match` does.
    pub raises: bool,
    /// Its words.
    pub words: Vec<WordTrace>,
}

/// An exception, asked of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExceptTrace {
    /// As it is written.
    pub filter: String,
    /// Its words.
    pub words: Vec<WordTrace>,
}

/// What the filters of a rule make of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule does not look at such events.
    NotLookedAt,
    /// A word of the filter that decides does not hold.
    MatchFailed,
    /// This exception holds, the first one that does: its place in `except`.
    Excepted(usize),
    /// The rule's question is asked.
    Selected,
}

impl ExceptTrace {
    /// Whether it holds: the rule does not look at the event.
    pub fn holds(&self) -> bool {
        self.words.iter().all(|word| word.holds)
    }

    /// How many of its words do not hold.
    pub fn missing(&self) -> usize {
        failing(&self.words)
    }
}

/// How many words do not hold.
pub fn failing(words: &[WordTrace]) -> usize {
    words.iter().filter(|word| !word.holds).count()
}

impl RuleTrace {
    /// Whether the event is of a sort that the rule looks at.
    pub fn is_looked_at(&self) -> bool {
        self.sorts.intersect(self.looks_at)
    }

    /// The words that decide about this event.
    pub fn deciding(&self) -> &[WordTrace] {
        match &self.secondary {
            Some(secondary) if self.by_secondary => &secondary.words,
            _ => &self.matches,
        }
    }

    /// Returns the key of the filter that decides about this event.
    pub fn deciding_key(&self) -> &'static str {
        self.secondary.as_ref().filter(|_| self.by_secondary).map_or("match", |secondary| secondary.key)
    }
}

impl Rule {
    /// Asks the filters of the rule of the event. `names` are those of the rule's files.
    pub fn trace(&self, event: &Event, names: &Names) -> RuleTrace {
        let detector = detector(&self.detect);
        let (looks_at, sorts) = (detector.triggers(), Triggers::of_reported(event));
        let matches = self.matches.trace(event, names);
        let except: Vec<ExceptTrace> = self
            .except
            .iter()
            .map(|except| ExceptTrace { filter: except.to_string(), words: except.trace(event, names) })
            .collect();
        let secondary = detector.secondary().map(|of| SecondaryTrace {
            key: of.key,
            selects: of.selects,
            match_selects: of.match_selects,
            raises: of.raises,
            words: of.filter.trace(event, names),
        });
        let by_secondary = secondary.is_some() && detector.secondary_decides(event);
        let verdict = Verdict::NotLookedAt;
        let mut trace = RuleTrace { looks_at, sorts, matches, except, secondary, by_secondary, verdict };
        // A detector that asks for the exceptions itself applies them to what its secondary filter selects.
        let excepts = by_secondary || !detector.asks_exceptions();
        trace.verdict = if !trace.is_looked_at() {
            Verdict::NotLookedAt
        } else if failing(trace.deciding()) > 0 {
            Verdict::MatchFailed
        } else {
            let holds = trace.except.iter().position(ExceptTrace::holds).filter(|_| excepts);
            holds.map_or(Verdict::Selected, Verdict::Excepted)
        };
        trace
    }

    /// Which sorts of events it looks at.
    pub fn looks_at(&self) -> Triggers {
        detector(&self.detect).triggers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::samples;
    use crate::rules::model::{Detect, ProcessRule};
    use crate::rules::testing::rule;

    #[test]
    fn the_verdict_is_what_the_rule_does() {
        let mut rule = rule(Detect::Process(ProcessRule::Network), "dport:443,22,8080,53");
        rule.except = Box::new([
            crate::filter::Filter::new("proc:nobody").expect("a filter"),
            crate::filter::Filter::new("dir:in").expect("a filter"),
        ]);
        let mut verdicts = Vec::new();
        for event in samples::all() {
            let trace = rule.trace(&event, Names::builtin());
            assert_eq!(
                trace.verdict == Verdict::Selected,
                trace.is_looked_at() && rule.selects(&event),
                "{event:?}"
            );
            verdicts.push(trace.verdict);
        }
        for verdict in [Verdict::NotLookedAt, Verdict::MatchFailed, Verdict::Excepted(1), Verdict::Selected] {
            assert!(verdicts.contains(&verdict), "{verdict:?} of {verdicts:?}");
        }
    }
}
