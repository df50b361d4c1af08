//! Why a rule reported an event, or did not: its words, its exceptions, and what its detector decides.

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::alerts::Reported;
use super::detector::Triggers;
use super::detectors::detector;
use super::dry_run::Decision;
use super::model::Rule;
use super::suppression;
use super::trace::text::write_seen;
use super::trace::{RuleTrace, Verdict, failing};
use crate::event::alert::Subject;
use crate::event::escape;
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::filter::{Filter, Names};
use crate::flow::model::{Change, Direction};
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, WallNs};

/// What a rule makes of an event, and by what.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Its filters.
    pub trace: RuleTrace,
    /// What its detector decides if the filters let the event pass; `None`: it does not look at such events.
    pub decision: Option<Decision>,
    /// What was reported the same before.
    pub reported: Option<Reported>,
}

impl Explanation {
    /// How far the rule was from reporting, the nearest first: what is looked at before what is not, then by the words that do
    /// not hold, then by the exceptions, then by what is decided.
    pub fn distance(&self) -> (bool, usize, u8) {
        let words = failing(self.trace.deciding());
        let finds = self.decision.as_ref().map(|decision| decision.finds);
        let rest = match (self.trace.verdict, finds) {
            (Verdict::Excepted(_), _) => 3,
            (_, Some(Some(true))) => 0,
            (_, Some(None)) => 1,
            (_, Some(Some(false)) | None) => 2,
        };
        (!self.trace.is_looked_at(), words, rest)
    }

    /// Whether the rule's question was asked.
    pub fn is_asked(&self) -> bool {
        self.trace.verdict == Verdict::Selected
    }

    /// Whether the rule raises an alert at this event.
    pub fn raises(&self) -> bool {
        self.is_asked() && self.is_found() && !self.is_only_counted()
    }

    /// Whether the rule finds something, but the same was reported already.
    pub fn is_only_counted(&self) -> bool {
        self.is_found() && self.reported.is_some_and(|reported| reported.is_repeat())
    }

    fn is_found(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| decision.finds == Some(true))
    }

    /// Appends in a few words what kept the rule from reporting: the first word that does not hold, the exception that does, or
    /// what its detector decides.
    pub fn write_why_not(&self, out: &mut Vec<u8>) {
        let words = self.trace.deciding();
        let says = match (self.trace.verdict, words.iter().find(|word| !word.holds)) {
            (_, Some(first)) => {
                out.extend_from_slice(
                    format!("fails {} of {} words: ", failing(words), words.len()).as_bytes(),
                );
                escape::text(first.word.as_bytes(), out);
                out.extend_from_slice(b"  ");
                return write_seen(first, out);
            }
            (Verdict::NotLookedAt, None) => "the rule does not look at such an event".to_owned(),
            (Verdict::Excepted(at), None) => format!("exception {} holds", at + 1),
            _ if self.is_only_counted() => "the same was reported already".to_owned(),
            _ => self.decision.as_ref().map(|decision| decision.says.clone()).unwrap_or_default(),
        };
        out.extend_from_slice(says.as_bytes());
    }
}

/// The event that a rule looked at when it reported this subject, as far as the subject says: for alerts of timers, and where
/// the event is not there any more. `None`: an absence has none.
pub fn as_event(
    rule: &Rule,
    subject: &Subject,
    started: Option<&Arc<ProcessInfo>>,
    at: BootNs,
    wall: WallNs,
) -> Option<Event> {
    let triggers = detector(&rule.detect).triggers();
    let body = match subject {
        Subject::Connection(conn) if triggers.intersect(Triggers::EXEC) => {
            let mut exec = ProcEvent::new(Arc::clone(started.or(conn.owner.process.as_ref())?));
            if started.is_some() {
                exec.parent_stdio = Some(conn.clone());
            } else {
                exec.stdio = Some(conn.clone());
            }
            EventBody::Exec(exec)
        }
        Subject::Connection(conn) => EventBody::Flow(match conn.direction {
            Direction::In => Change::Accept((**conn).clone()),
            Direction::Out if triggers.intersect(Triggers::BEGIN) => Change::Connect((**conn).clone()),
            Direction::Out | Direction::Unknown => Change::Established((**conn).clone()),
        }),
        Subject::Listener(listener) => EventBody::Flow(Change::Listen((**listener).clone())),
        Subject::Process(process) => EventBody::Exec(ProcEvent::new(Arc::clone(process))),
        Subject::Absence => return None,
    };
    Some(Event { seq: 0, boot: at, wall, body })
}

/// Exceptions that suppress what a rule says of an event: first the smallest one, as its alert has it, then wider and narrower
/// ones by unit and user. Each is asked whether it really holds for the event.
pub fn exceptions(event: &Event, first: Option<&str>, names: &Names) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let others = suppression::alternatives(event);
    for text in first.map(str::to_owned).into_iter().chain(others) {
        let holds = Filter::with_names(&text, names).is_ok_and(|filter| filter.matches(event));
        if holds && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}
