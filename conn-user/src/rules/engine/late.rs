//! Events that wait for what is found out of their process in the background, and are judged again when it is known.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Engine, subject};
use crate::event::alert::Alert;
use crate::event::model::{Event, EventBody};
use crate::process::identity::Identity;
use crate::process::info::ProcessInfo;
use crate::rules::detector::{self, Flows, RuleRun};
use crate::rules::timers::{Alarm, TimerId};
use crate::rules::work;
use crate::units::{BootNs, DurationNs};

/// How long an event of a process waits for facts that the background finds, where nobody says when they have come: the
/// inspector needs some milliseconds.
pub const LATE_FACTS: DurationNs = DurationNs(50_000_000);
/// How long it waits at most for an answer that is delivered. By the events' time, which runs fast when the reader was late.
pub(super) const ANSWER_MAX: DurationNs = DurationNs(60_000_000_000);
/// Most events that wait so.
pub(super) const LATE_MAX: usize = 4096;
/// Most of one process: one whose facts never come, because its executable is on a file system that hangs, must not take the room of
/// the others. Its further events differ by their connections only, and the rules wait with those before.
pub(super) const LATE_OF_ONE_MAX: u32 = 256;

/// An event that waits for facts of its process.
pub(super) struct Late {
    event: Event,
    /// It is what was there when the rules began.
    existing: bool,
    /// The rules that it was not matched by so far.
    rules: SmallVec<[RuleRun; 4]>,
    /// The rules whose secondary filters did not match it so far.
    secondary: SmallVec<[RuleRun; 4]>,
    timer: TimerId,
    /// The tokens of the events of the same process that began to wait before it and after it; 0: there is none.
    before: u64,
    after: u64,
}

/// The events of a process that wait, linked from the first to the last.
#[derive(Default)]
pub(super) struct WaitingOf {
    first: u64,
    last: u64,
    count: u32,
}

/// A connection or listener with events that wait for facts.
#[derive(Default)]
pub(super) struct LateSubject {
    events: u32,
    /// It has ended.
    pub(super) is_over: bool,
}

impl Engine {
    /// Facts of this identity became known: judges again what waits for them, at the clock or, if later, at this instant.
    pub fn on_facts(&mut self, identity: &Identity, at: BootNs, flows: &dyn Flows) -> Vec<Alert> {
        self.now = self.now.max(at);
        let key = identity.key();
        let first = self.late_of.get(&key).map(|waiting| waiting.first);
        let next = |token: &u64| self.late.get(token).map(|late| late.after).filter(|after| *after != 0);
        let waiting: SmallVec<[u64; 8]> = std::iter::successors(first, next).collect();
        for token in waiting {
            work::looked_at(1);
            let Some(mut late) = self.late.remove(&token) else { continue };
            let is_last = !is_unsettled(&late.event);
            self.judge_late(&mut late, is_last, self.now, flows);
            if (late.rules.is_empty() && late.secondary.is_empty()) || is_last {
                self.timers.cancel(late.timer);
                self.forget_late(token, &late);
            } else {
                self.late.insert(token, late);
            }
        }
        self.take_alerts()
    }

    /// Events that wait for facts of their process, and connections that wait to be sampled.
    pub fn waiting(&self) -> usize {
        self.late.len() + self.sampled.len()
    }

    /// No more facts and samples come: judges what waits for them, in its order, by what is known.
    pub fn on_last_facts(&mut self, flows: &dyn Flows) -> Vec<Alert> {
        let mut tokens: Vec<u64> = self.late.keys().copied().collect();
        tokens.sort_unstable();
        for token in tokens {
            let Some(mut late) = self.late.remove(&token) else { continue };
            self.timers.cancel(late.timer);
            self.judge_late(&mut late, true, self.now, flows);
            self.forget_late(token, &late);
        }
        self.judge_without_samples(flows);
        self.take_all_alerts()
    }

    /// Whether another event of the process with this key may wait.
    pub(super) fn has_room_to_wait(&self, key: u64) -> bool {
        self.late.len() < LATE_MAX
            && self.late_of.get(&key).is_none_or(|waiting| waiting.count < LATE_OF_ONE_MAX)
    }

    pub(super) fn wait_for_facts(
        &mut self,
        event: &Event,
        existing: bool,
        of: u64,
        (rules, secondary): (&[RuleRun], &[RuleRun]),
    ) {
        if !self.has_room_to_wait(of) {
            self.stats.late_dropped += 1;
            return;
        }
        self.late_last += 1;
        let token = self.late_last;
        let waiting = self.late_of.entry(of).or_default();
        let before = std::mem::replace(&mut waiting.last, token);
        waiting.count += 1;
        match self.late.get_mut(&before) {
            Some(before) => before.after = token,
            None => waiting.first = token,
        }
        let at = BootNs(event.boot.0.saturating_add(self.late_wait.0));
        let timer = self.timers.set(at, Alarm { rule: RuleRun::ENGINE, token });
        let (rules, secondary) = (SmallVec::from_slice(rules), SmallVec::from_slice(secondary));
        let late = Late { event: event.clone(), existing, rules, secondary, timer, before, after: 0 };
        self.late.insert(token, late);
        if let Some(id) = subject(event) {
            self.late_subjects.entry(id.0).or_default().events += 1;
        }
    }

    /// Judges an event by the rules that it was not matched by so far. Until the last time, an exception that may still come to
    /// hold keeps its rule waiting.
    pub(super) fn judge_late(&mut self, late: &mut Late, is_last: bool, now: BootNs, flows: &dyn Flows) {
        let Late { event, rules, secondary, existing, .. } = late;
        let (event, existing) = (&*event, *existing);
        let is_over = subject(event)
            .and_then(|id| self.late_subjects.get(&id.0))
            .is_some_and(|subject| subject.is_over);
        rules.retain(|run| {
            // One that was removed meanwhile waits no more.
            let Some(running) = self.at_work(*run) else { return false };
            let is_selected = running.selects(event) && (is_last || !running.may_yet_except(event));
            if is_selected {
                self.with(*run, now, flows, |detector, rule, context| {
                    context.existing = existing;
                    context.is_over = is_over;
                    detector.on_match(rule, event, context);
                });
            }
            !is_selected
        });
        secondary.retain(|run| {
            let Some(running) = self.at_work(*run) else { return false };
            let is_selected = running.detector.secondary().is_some_and(|of| of.filter.matches(event));
            if is_selected {
                self.with(*run, now, flows, |detector, rule, context| {
                    context.existing = existing;
                    context.is_over = is_over;
                    detector.on_secondary(rule, event, context);
                });
            }
            !is_selected
        });
    }

    /// An event waits no more.
    pub(super) fn forget_late(&mut self, token: u64, late: &Late) {
        let Late { before, after, .. } = *late;
        if let Some(before) = self.late.get_mut(&before) {
            before.after = after;
        }
        if let Some(after) = self.late.get_mut(&after) {
            after.before = before;
        }
        let key = user(&late.event).map(|process| process.identity.key());
        if let Some(key) = key
            && let Some(waiting) = self.late_of.get_mut(&key)
        {
            waiting.count -= 1;
            if waiting.first == token {
                waiting.first = after;
            }
            if waiting.last == token {
                waiting.last = before;
            }
            if waiting.count == 0 {
                self.late_of.remove(&key);
            }
        }
        if let Some(id) = subject(&late.event)
            && let Some(subject) = self.late_subjects.get_mut(&id.0)
        {
            subject.events -= 1;
            if subject.events == 0 {
                self.late_subjects.remove(&id.0);
            }
        }
    }
}

/// Whether facts of the event's process may still come.
pub(crate) fn is_unsettled(event: &Event) -> bool {
    user(event).is_some_and(|process| is_open(process))
}

/// Whether facts of a process may still come.
pub(super) fn is_open(process: &ProcessInfo) -> bool {
    let identity = &process.identity;
    let is_known = identity.exe().is_some()
        && identity.exe_is_host().is_some()
        && identity.copy_of_settled()
        && identity.sha256_settled();
    !process.kernel && !identity.is_settled() && !is_known
}

/// The process whose facts rules ask for.
pub(super) fn user(event: &Event) -> Option<&Arc<ProcessInfo>> {
    match &event.body {
        EventBody::Exec(exec) => Some(&exec.process),
        _ => match (detector::connection(event), detector::listener(event)) {
            (Some(conn), _) => conn.owner.process.as_ref(),
            (None, Some(listener)) => listener.owner.process.as_ref(),
            (None, None) => None,
        },
    }
}
