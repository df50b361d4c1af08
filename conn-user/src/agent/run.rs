//! The loop proper: reads while there is something to read, sleeps while there is not, and ends cleanly.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backlog::{BATCH, Backlog};
use super::health::HealthReport;
use super::pipeline::Pipeline;
use super::resync::{Resync, ResyncStats};
use super::source::{Programs, Records};
use super::start::Agent;
use crate::clock::{BootTimer, boot_now};
use crate::event::model::Event;
use crate::flow::snapshot::model::Snapshot;
use crate::kernel::load::Session;
use crate::kernel::ring::{RingReader, Turn};
use crate::priority;
use crate::rules::Staged;
use crate::rules::engine::ALERT_FACTS;
use crate::units::BootNs;

/// How old the offset between the two clocks may get.
const CLOCK_REFRESH: Duration = Duration::from_secs(1);

/// How long after records came the kernel's counts are compared: a loss that no later record shows is reported then.
const AUDIT: Duration = Duration::from_secs(1);

/// How long the end waits for what rules want to know of processes: /proc answers within milliseconds, and a large executable
/// takes a second to hash. A hung file system never answers.
const LAST_FACTS: Duration = Duration::from_secs(2);

/// Where events go.
pub trait Consumer {
    /// Takes an event; must not block.
    fn on_event(&mut self, event: &Event);

    /// Hands what it took to whoever writes it. Called after each batch, not after each event; must not block.
    ///
    /// # Errors
    /// When the output is gone; the loop ends with this error.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until what it took is written, for as long as it gets on. Called at the end.
    ///
    /// # Errors
    /// The errors of [`Self::flush`].
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> {
        let flushed = self.flush();
        async { flushed }
    }

    /// Looks at the agent, where somebody asked it to. Called after each [`Self::flush`]; must not block.
    fn look(&mut self, _agent: View<'_>) {}

    /// Resolves when it wants to be flushed, or to look, though nothing was reported. May be cancelled.
    fn wakes(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    /// How many lines each of its outputs has dropped.
    fn dropped(&self) -> Vec<(Arc<str>, u64)> {
        Vec::new()
    }

    /// What has changed since the last call about whether its outputs can be written.
    fn health(&mut self) -> Vec<HealthReport> {
        Vec::new()
    }

    /// Whether its own judgement waits for what is found out of processes in the background.
    fn waits_for_facts(&self) -> bool {
        false
    }

    /// Whether it wants no more.
    fn is_done(&self) -> bool {
        false
    }
}

/// An agent between two batches of records, for those who ask how it is.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The tables, the rules and the account of records.
    pub pipeline: &'a Pipeline,
    /// How often the tables were repaired after a loss.
    pub repairs: ResyncStats,
}

/// When the loop ends by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// End after this time.
    pub duration: Option<Duration>,
}

/// Runs until `stop` resolves, the limits are reached or the consumer is done; then detaches, reads what is left,
/// and reports losses at the tail.
///
/// # Errors
/// When the ring cannot be read or the consumer's output is gone.
pub async fn run(
    agent: &mut Agent,
    consumer: &mut impl Consumer,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    agent.parts().run(consumer, limits, stop).await
}

/// What the loop drives.
pub(super) struct Parts<'a, R, P> {
    pub(super) records: &'a mut R,
    pub(super) programs: &'a mut P,
    pub(super) pipeline: &'a mut Pipeline,
    pub(super) resync: &'a mut Resync,
    pub(super) reloads: &'a mut mpsc::Receiver<Staged>,
    pub(super) priority: &'a mut priority::Held,
}

impl<R: Records, P: Programs> Parts<'_, R, P> {
    /// See [`run`].
    pub(super) async fn run(
        mut self,
        consumer: &mut impl Consumer,
        limits: Limits,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        tokio::pin!(stop);
        let mut deadline = BootTimer::new()?;
        let end = limits.duration.map(|duration| Instant::now() + duration);
        let mut clock_read = Instant::now();
        let mut audit: Option<Instant> = None;
        let mut audited = self.pipeline.records();
        loop {
            self.priority.keep(self.records.is_behind());
            let mut turn = self
                .records
                .turn(BATCH, |bytes| self.pipeline.on_bytes(bytes, &mut |event| consumer.on_event(event)));
            if self.pipeline.take_compat() {
                self.programs.trace_compat();
            }
            self.pipeline.deliver(&mut |event| consumer.on_event(event));
            // What is still in the ring may be what somebody waits for.
            let read_until = if turn == Turn::More { self.pipeline.read_until() } else { boot_now() };
            if self.pipeline.next_deadline().is_some_and(|deadline| deadline <= read_until) {
                self.pipeline.on_time(read_until, &mut |event| consumer.on_event(event));
            }
            if self.pipeline.is_pulse_due(read_until) {
                let dropped = consumer.dropped().iter().map(|(_, lines)| lines).sum();
                self.pipeline.beat(dropped, read_until, &mut |event| consumer.on_event(event));
            }
            if let Ok(rules) = self.reloads.try_recv() {
                self.set_rules(rules, &mut |event| consumer.on_event(event));
            }
            let now = Instant::now();
            if audit.is_none() && (self.pipeline.records() != audited || self.pipeline.suspects_loss()) {
                audit = Some(now + AUDIT);
            }
            if audit.is_some_and(|audit| now >= audit) {
                audit = None;
                self.audit(&mut |event| consumer.on_event(event));
                self.report_degraded(consumer, false);
                audited = self.pipeline.records();
                turn = Turn::More;
            }
            if self.pipeline.take_loss() {
                self.resync.want(self.pipeline.has_lost_processes());
            }
            if turn != Turn::More {
                self.resync.begin_if_due();
            }
            if self.resync.is_ready() {
                let taken = self.resync.taken().await;
                self.repair(taken, &mut |event| consumer.on_event(event));
                turn = Turn::More;
            }
            if now - clock_read > CLOCK_REFRESH {
                self.pipeline.refresh_clock();
                clock_read = now;
            }
            consumer.flush()?;
            if self.check_health(consumer, read_until) {
                consumer.flush()?;
            }
            consumer.look(View { pipeline: self.pipeline, repairs: self.resync.stats() });
            if consumer.is_done() || end.is_some_and(|end| now >= end) {
                break;
            }
            // However much there is to read, a signal is not kept waiting, nor a task on this thread.
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::task::yield_now() => {}
            }
            match turn {
                Turn::More => {}
                // tokio's timers have a resolution of a millisecond, too coarse; nothing else runs on this thread.
                Turn::Nap(nap) => std::thread::sleep(nap),
                Turn::Idle => {
                    let due = self.pipeline.next_deadline();
                    tokio::select! {
                        () = &mut stop => break,
                        ready = self.records.readable() => ready?,
                        () = until(end) => {}
                        reached = deadline.until(due) => reached?,
                        () = self.pipeline.answered() => {}
                        () = until(audit) => {}
                        () = consumer.wakes() => {}
                        Some(rules) = self.reloads.recv() => {
                            self.set_rules(rules, &mut |event| consumer.on_event(event));
                        }
                        taken = self.resync.taken() => {
                            self.repair(taken, &mut |event| consumer.on_event(event));
                        }
                    }
                }
            }
        }
        self.finish(consumer).await
    }

    /// Reads what is in the ring and reports the losses that the kernel's counts show, so that no later record reports one of before.
    fn audit(&mut self, emit: &mut impl FnMut(&Event)) {
        let (counts, skipped) = (self.programs.all_counts(), self.programs.skipped_runs());
        self.records.catch_up(|bytes| self.pipeline.on_bytes(bytes, emit));
        self.pipeline.audit(&counts, &skipped, boot_now(), emit);
    }

    /// Repairs the tables with what a snapshot says, after everything that came before it.
    fn repair(&mut self, taken: Option<Snapshot>, emit: &mut impl FnMut(&Event)) {
        if let Some(snapshot) = taken {
            self.records.catch_up(|bytes| self.pipeline.on_bytes(bytes, emit));
            self.reading_meanwhile(emit, |pipeline, pause, emit| {
                pipeline.repair(&snapshot, boot_now(), pause, emit);
            });
            // A program that was found in /proc may have its record in the ring.
            self.records.catch_up(|bytes| self.pipeline.on_bytes(bytes, emit));
            self.pipeline.report_programs(boot_now(), emit);
        }
    }

    /// Replaces the active rules.
    fn set_rules(&mut self, rules: Staged, emit: &mut impl FnMut(&Event)) {
        self.reading_meanwhile(emit, |pipeline, pause, emit| {
            pipeline.set_rules(rules, boot_now(), pause, emit);
        });
    }

    /// Does what takes long. In each of its pauses the ring is read, and what is read is handled afterwards.
    fn reading_meanwhile<T: FnMut(&Event)>(
        &mut self,
        emit: &mut T,
        act: impl FnOnce(&mut Pipeline, &mut dyn FnMut(), &mut T),
    ) {
        let (mut backlog, records) = (Backlog::default(), &mut *self.records);
        act(self.pipeline, &mut || backlog.fill(records), emit);
        backlog.each(|bytes| self.pipeline.on_bytes(bytes, emit));
    }

    /// Detaches and leaves nothing unread and nothing unjudged.
    async fn finish(mut self, consumer: &mut impl Consumer) -> io::Result<()> {
        self.programs.detach();
        // A program that was running when it was detached may still be writing: the kernel waits for it only when it frees
        // the program, after an RCU grace period.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.records.drain_all(|bytes| self.pipeline.on_bytes(bytes, &mut |event| consumer.on_event(event)));
        self.pipeline.deliver(&mut |event| consumer.on_event(event));
        let (counts, skipped) = (self.programs.all_counts(), self.programs.skipped_runs());
        self.pipeline.on_end(&counts, &skipped, boot_now(), &mut |event| consumer.on_event(event));
        self.last_facts(consumer).await;
        self.pipeline.finish(&mut |event| consumer.on_event(event));
        consumer.finish().await?;
        // What an output did not take is an event for the others.
        self.report_degraded(consumer, true);
        self.check_health(consumer, boot_now());
        consumer.finish().await
    }

    /// Has alerts about the agent itself reported. Returns whether there were any.
    fn check_health(&mut self, consumer: &mut impl Consumer, now: BootNs) -> bool {
        let reports = consumer.health();
        self.pipeline.check_health(reports, now, &mut |event| consumer.on_event(event))
    }

    /// Has reported what was dropped since the last time.
    fn report_degraded(&mut self, consumer: &mut impl Consumer, is_last: bool) {
        let outputs = consumer.dropped();
        self.pipeline.report_degraded(outputs, boot_now(), is_last, &mut |event| consumer.on_event(event));
    }

    /// Waits for the answers that a judgement depends on, and a moment for those that alerts wait for.
    async fn last_facts(&mut self, consumer: &mut impl Consumer) {
        let patience = tokio::time::sleep(LAST_FACTS);
        tokio::pin!(patience);
        while self.pipeline.waits_for_facts() || consumer.waits_for_facts() {
            tokio::select! {
                () = self.pipeline.answered() => {}
                () = &mut patience => return,
            }
            self.pipeline.deliver(&mut |event| consumer.on_event(event));
        }
        let patience = tokio::time::sleep(Duration::from_nanos(ALERT_FACTS.0));
        tokio::pin!(patience);
        while self.pipeline.holds_alerts() {
            tokio::select! {
                () = self.pipeline.answered() => {}
                () = &mut patience => return,
            }
            self.pipeline.deliver(&mut |event| consumer.on_event(event));
        }
    }
}

impl Agent {
    fn parts(&mut self) -> Parts<'_, RingReader, Session> {
        Parts {
            records: &mut self.reader,
            programs: &mut self.session,
            pipeline: &mut self.pipeline,
            resync: &mut self.resync,
            reloads: &mut self.reloads,
            priority: &mut self.priority,
        }
    }

    /// Reads what is in the ring and reports the losses that the kernel's counts show, so that no later record reports one of before.
    /// [`run`] must follow, or go on.
    pub fn audit(&mut self, emit: &mut impl FnMut(&Event)) {
        self.parts().audit(emit);
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
