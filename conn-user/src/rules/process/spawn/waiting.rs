//! Executions that wait for samples of connections: when did each last receive data, and did it send any after that? The answers come
//! within milliseconds. Without one a connection counts: it has ended meanwhile, or cannot be asked for.
//!
//! A program that fetches something and then runs a command of its own looks like one that runs a remote command up to that point. The
//! latter sends the output back: so it is sampled again for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Open, Spawn};
use crate::event::alert::{Evidence, Severity, Value};
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::flow::model::{Change, ConnEvent, ConnId};
use crate::flow::sample::{Counters, Sample};
use crate::process::info::ProcessInfo;
use crate::rules::detector::Context;
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::program;
use crate::rules::timers::TimerId;
use crate::units::{BootNs, DurationNs};

/// How long the first samples are waited for. A recording of a run without this rule has none.
const PATIENCE: DurationNs = DurationNs(10_000_000_000);
/// Limit of executions that wait; one beyond it is judged without samples.
const WAITING_MAX: usize = 1024;
/// When a connection that has sent nothing yet is sampled again, after the execution. The last time is at the end of `answered`.
const AGAIN: [DurationNs; 5] = [
    DurationNs(100_000_000),
    DurationNs(500_000_000),
    DurationNs(2_000_000_000),
    DurationNs(5_000_000_000),
    DurationNs(15_000_000_000),
];
/// A connection that ends so soon after the execution may not have been sampled, on a busy machine.
const SOON: DurationNs = DurationNs(1_000_000_000);
/// How long the last sample is waited for.
const LAST: DurationNs = DurationNs(1_000_000_000);

/// An execution of a program.
#[derive(Clone, Debug)]
pub(super) struct Execution {
    at: BootNs,
    /// The program, as it was then.
    pub(super) process: Arc<ProcessInfo>,
    executed: Vec<Evidence>,
    /// How long before it the connection received data.
    received: Option<DurationNs>,
    /// The connection sent nothing for this time after it.
    unanswered: Option<DurationNs>,
}

impl Execution {
    pub(super) fn new(event: &Event, process: &Arc<ProcessInfo>) -> Self {
        Self {
            at: event.boot,
            process: Arc::clone(process),
            executed: super::super::executed(event, process),
            received: None,
            unanswered: None,
        }
    }

    /// Returns the evidence, for a connection found so many generations above.
    pub(super) fn evidence(&self, depth: usize) -> Vec<Evidence> {
        let mut evidence = self.executed.clone();
        evidence.push(Evidence::new("started", Value::Process(Arc::clone(&self.process))));
        evidence.push(Evidence::new("via", program::chain(&self.process, depth)));
        evidence.extend(self.received.map(|before| Evidence::duration("received_before", before)));
        evidence.extend(self.unanswered.map(|after| Evidence::duration("unanswered_for", after)));
        evidence
    }

    /// Returns the severity of an alert about it.
    pub(super) fn severity(&self, rule: &Rule) -> Severity {
        if self.unanswered.is_some() { rule.severity.min(Severity::Low) } else { rule.severity }
    }
}

/// A connection that received data shortly before the execution, and has sent nothing since.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    id: ConnId,
    depth: usize,
    received: DurationNs,
    bytes_out: u64,
}

/// An execution with the connections that it may serve.
#[derive(Clone, Debug)]
struct Pending {
    execution: Execution,
    /// Those whose first samples are outstanding, each with the generations above the program.
    asked: SmallVec<[(ConnId, usize); 4]>,
    unanswered: SmallVec<[Unanswered; 1]>,
    /// `None` while it fires.
    timer: Option<TimerId>,
}

/// Executions that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_token: BTreeMap<u64, Pending>,
    last_token: u64,
}

/// What a sample says of a connection.
enum Finding {
    /// It was asked for an earlier execution, and lacks what came in between.
    Older,
    /// The kernel does not know the connection: it has ended, or cannot be found.
    Unknown,
    /// Nothing came for too long.
    Idle,
    Counts(Option<DurationNs>),
    Unanswered(Unanswered),
}

impl Spawn {
    /// Has the connections sampled that the program may serve. Returns `false` if that cannot be done.
    pub(super) fn wait(
        &mut self,
        event: &Event,
        exec: &ProcEvent,
        rule: &Rule,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(mut asked) = self.connections_of(&exec.process) else { return false };
        context.note(|| {
            let first = asked.first().and_then(|(id, depth)| Some((self.open.get(&id.0)?, *depth)));
            match first {
                Some((open, depth)) => open.excepted(depth, event, exec),
                None => self.no_connection(event, exec),
            }
        });
        asked.retain(|(id, _)| {
            let is_wanted = |open: &Open| {
                !open.is_excepted(*id, rule, event) && !context.is_reported(rule, open.dedup_key())
            };
            self.open.get(&id.0).is_some_and(is_wanted)
        });
        if asked.is_empty() {
            return true;
        }
        let sample = |context: &mut Context<'_>, id| {
            context.flows.connection(id).is_some_and(|conn| context.sample(&conn))
        };
        if self.waiting.by_token.len() >= WAITING_MAX || !asked.iter().all(|(id, _)| sample(context, *id)) {
            return false;
        }
        context.note(|| {
            let (id, depth) = asked.first().copied().unwrap_or((ConnId(0), 0));
            let says = "the kernel is asked when the connections received data last";
            match self.open.get(&id.0) {
                Some(open) => open.note(says, depth, event, exec).key(open.dedup_key()).about(id),
                None => Note::new(says),
            }
        });
        self.waiting.last_token += 1;
        let token = self.waiting.last_token;
        let timer = Some(context.set_timer(BootNs(context.now.0.saturating_add(PATIENCE.0)), token));
        let execution = Execution::new(event, &exec.process);
        self.waiting.by_token.insert(token, Pending { execution, asked, unanswered: SmallVec::new(), timer });
        true
    }

    /// Judges a sample.
    pub(super) fn judge_sample(&mut self, rule: &Rule, sample: &Sample, context: &mut Context<'_>) {
        let Some(conn) = context.flows.connection(sample.id) else { return };
        for token in self.waiting.waiting_for(sample.id) {
            let Some(pending) = self.waiting.by_token.get(&token) else { continue };
            let first = pending.asked.iter().find(|(id, _)| *id == sample.id);
            let again = pending.unanswered.iter().find(|unanswered| unanswered.id == sample.id);
            match (first, again) {
                (Some(&(_, depth)), _) => match self.finding(&pending.execution, sample, depth) {
                    Finding::Older if context.sample(&conn) => {}
                    // Its end may be in the ring still, and says what was sent.
                    Finding::Unknown if self.answered.is_some() && self.waits_for_end(token, context) => {}
                    Finding::Older | Finding::Unknown => {
                        self.judge(token, conn.clone(), depth, None, rule, context);
                    }
                    Finding::Counts(received) => {
                        self.judge(token, conn.clone(), depth, received, rule, context);
                    }
                    Finding::Idle => self.note(token, sample.id, None, context),
                    Finding::Unanswered(unanswered) => self.note(token, sample.id, Some(unanswered), context),
                },
                (None, Some(&Unanswered { depth, received, bytes_out, .. })) => {
                    // What was sent after the execution is the answer.
                    let execution = pending.execution.at;
                    let is_answer =
                        |now: Counters| now.bytes_out > bytes_out || has_answered(&now, execution);
                    if sample.counters.is_some_and(is_answer) {
                        self.judge(token, conn.clone(), depth, Some(received), rule, context);
                    }
                }
                (None, None) => {}
            }
        }
    }

    fn finding(&self, execution: &Execution, sample: &Sample, depth: usize) -> Finding {
        let Some(counters) = sample.counters else { return Finding::Unknown };
        if counters.asked < execution.at {
            return Finding::Older;
        }
        let received = execution.at.since(counters.received);
        if self.received.is_some_and(|most| received > most) {
            Finding::Idle
        } else if self.answered.is_none() || has_answered(&counters, execution.at) {
            Finding::Counts(Some(received))
        } else {
            Finding::Unanswered(Unanswered { id: sample.id, depth, received, bytes_out: counters.bytes_out })
        }
    }

    /// Takes note of a first sample that decides nothing yet. After the last one, connections that sent nothing are sampled again.
    fn note(&mut self, token: u64, id: ConnId, unanswered: Option<Unanswered>, context: &mut Context<'_>) {
        let Some(mut pending) = self.waiting.take(token, context) else { return };
        pending.asked.retain(|(asked, _)| *asked != id);
        pending.unanswered.extend(unanswered);
        let (execution, patience) =
            (pending.execution.at, BootNs(pending.execution.at.0.saturating_add(PATIENCE.0)));
        let at = match (pending.asked.is_empty(), pending.unanswered.is_empty()) {
            (true, true) => return,
            (true, false) => self.next(execution, context.now),
            (false, _) => patience,
        };
        pending.timer = Some(context.set_timer(at.max(context.now), token));
        self.waiting.by_token.insert(token, pending);
    }

    /// Has an execution wait for the end of its connection, for as long as that is soon. Returns `false` if it is not any more.
    fn waits_for_end(&mut self, token: u64, context: &mut Context<'_>) -> bool {
        let Some(pending) = self.waiting.by_token.get_mut(&token) else { return false };
        let until = BootNs(pending.execution.at.0.saturating_add(SOON.0));
        if until <= context.now {
            return false;
        }
        if let Some(timer) = pending.timer.take() {
            context.cancel_timer(timer);
        }
        pending.timer = Some(context.set_timer(until, token));
        true
    }

    /// Returns when a connection is sampled next, or, after the last time, when nothing more is waited for.
    fn next(&self, execution: BootNs, now: BootNs) -> BootNs {
        let (passed, end) = (now.since(execution), self.answered.unwrap_or_default());
        let next = AGAIN.into_iter().chain([end]).find(|after| *after > passed && *after <= end);
        BootNs(execution.0.saturating_add(next.unwrap_or(DurationNs(end.0.saturating_add(LAST.0))).0))
    }

    /// Judges a connection that has ended.
    pub(super) fn judge_ended(
        &mut self,
        rule: &Rule,
        conn: &ConnEvent,
        event: &Event,
        context: &mut Context<'_>,
    ) {
        let bytes_out = match &event.body {
            EventBody::Flow(Change::Close(_, ending)) => ending.traffic.map(|traffic| traffic.bytes_out),
            _ => None,
        };
        for token in self.waiting.waiting_for(conn.id) {
            let Some(pending) = self.waiting.by_token.get(&token) else { continue };
            match pending.unanswered.iter().find(|unanswered| unanswered.id == conn.id) {
                Some(of) if bytes_out.is_some_and(|bytes_out| bytes_out <= of.bytes_out) => {
                    self.judge_unanswered(token, conn.clone(), rule, context);
                }
                Some(&Unanswered { depth, received, .. }) => {
                    self.judge(token, conn.clone(), depth, Some(received), rule, context);
                }
                // It ended faster than it could be sampled: nothing was seen to be sent.
                None if self.answered.is_some() && context.now.since(pending.execution.at) < SOON => {
                    self.judge_unanswered(token, conn.clone(), rule, context);
                }
                None => {
                    let depth =
                        pending.asked.iter().find(|(id, _)| *id == conn.id).map_or(0, |(_, depth)| *depth);
                    self.judge(token, conn.clone(), depth, None, rule, context);
                }
            }
        }
    }

    /// Judges executions that wait for the first sample of a connection, which does not come.
    pub(super) fn judge_without_sample(&mut self, rule: &Rule, id: ConnId, context: &mut Context<'_>) {
        let Some(conn) = context.flows.connection(id) else { return };
        for token in self.waiting.waiting_for(id) {
            let Some(pending) = self.waiting.by_token.get(&token) else { continue };
            if let Some(&(_, depth)) = pending.asked.iter().find(|(asked, _)| *asked == id) {
                self.judge(token, conn.clone(), depth, None, rule, context);
            }
        }
    }

    /// Samples again, or judges an execution for which nothing more is waited for.
    pub(super) fn on_time(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        let Some(pending) = self.waiting.by_token.get_mut(&token) else { return };
        pending.timer = None;
        let execution = pending.execution.at;
        if let Some(&(id, depth)) = pending.asked.first() {
            match context.flows.connection(id) {
                Some(conn) => self.judge(token, conn, depth, None, rule, context),
                None => drop(self.waiting.by_token.remove(&token)),
            }
        } else if context.now.since(execution) > self.answered.unwrap_or_default() {
            let first = pending.unanswered.first().and_then(|of| context.flows.connection(of.id));
            match first {
                Some(conn) => self.judge_unanswered(token, conn, rule, context),
                None => drop(self.waiting.by_token.remove(&token)),
            }
        } else {
            for of in &pending.unanswered {
                if let Some(conn) = context.flows.connection(of.id) {
                    context.sample(&conn);
                }
            }
            let at = self.next(execution, context.now);
            let timer = Some(context.set_timer(at, token));
            if let Some(pending) = self.waiting.by_token.get_mut(&token) {
                pending.timer = timer;
            }
        }
    }

    fn judge(
        &mut self,
        token: u64,
        conn: ConnEvent,
        depth: usize,
        received: Option<DurationNs>,
        rule: &Rule,
        context: &mut Context<'_>,
    ) {
        let Some(Pending { mut execution, .. }) = self.waiting.take(token, context) else { return };
        execution.received = received;
        self.raise(conn, &execution, depth, rule, context);
    }

    fn judge_unanswered(&mut self, token: u64, conn: ConnEvent, rule: &Rule, context: &mut Context<'_>) {
        let Some(Pending { mut execution, asked, unanswered, .. }) = self.waiting.take(token, context) else {
            return;
        };
        let sampled = unanswered.iter().find(|of| of.id == conn.id);
        let asked = asked.iter().find(|(id, _)| *id == conn.id).map(|(_, depth)| *depth);
        execution.received = sampled.map(|of| of.received);
        execution.unanswered = Some(context.now.since(execution.at));
        let depth = sampled.map(|of| of.depth).or(asked).unwrap_or(0);
        self.raise(conn, &execution, depth, rule, context);
    }
}

/// Whether data were sent after the execution and after the last were received, as far as the kernel's ticks say.
fn has_answered(counters: &Counters, execution: BootNs) -> bool {
    counters.bytes_out > 0 && counters.sent >= counters.received.max(execution)
}

impl Waiting {
    /// Returns the tokens of the executions that wait for a sample of this connection.
    fn waiting_for(&self, id: ConnId) -> SmallVec<[u64; 2]> {
        let waits = |pending: &Pending| {
            pending.asked.iter().any(|(asked, _)| *asked == id)
                || pending.unanswered.iter().any(|unanswered| unanswered.id == id)
        };
        self.by_token.iter().filter(|(_, pending)| waits(pending)).map(|(token, _)| *token).collect()
    }

    /// Takes out an execution and cancels its timer.
    fn take(&mut self, token: u64, context: &mut Context<'_>) -> Option<Pending> {
        let mut pending = self.by_token.remove(&token)?;
        if let Some(timer) = pending.timer.take() {
            context.cancel_timer(timer);
        }
        Some(pending)
    }
}
