//! From bytes to events: sequence check, decoding, the process and the flow table.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use conn_common::decode::{self, Record};
use conn_common::hook::HookId;
use conn_common::record::TASK_COMPAT;

use super::degraded::Reports;
use super::existing::{self, existing, name_socket_unit};
use crate::clock::Clock;
use crate::event::degraded::Degradation;
use crate::event::model::{Event, EventBody, ProcEvent, Repair, Start};
use crate::flow::merge::{Merged, pause_at};
use crate::flow::model::FlowEvent;
use crate::flow::resolve::{PortResolver, Sockets};
use crate::flow::sample::{Sampler, Samples};
use crate::flow::snapshot::model::Snapshot;
use crate::flow::table::FlowTable;
use crate::kernel::counters::CpuCount;
use crate::kernel::gap::{Gap, GapCause, GapTracker};
use crate::kernel::selftest::{SelfTestError, Watch, Workload};
use crate::output::totals::Overflow;
use crate::process::info::{ExitStatus, ProcessInfo, ProcessSource};
use crate::process::socket_units::SocketUnits;
use crate::process::table::ProcessTable;
use crate::rules::path_memory::PathMemory;
use crate::rules::{Engine, Staged};
use crate::session::Session;
use crate::units::{BootNs, Pid};

/// Takes that a process was created: its creator's id and start, and what is known of it.
pub type OnFork = Box<dyn FnMut(Pid, BootNs, &Arc<ProcessInfo>)>;

/// Records of one hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCount {
    /// Records that came.
    pub seen: u64,
    /// Records that did not.
    pub lost: u64,
}

/// The state between the ring buffer and the outputs.
pub struct Pipeline {
    processes: ProcessTable,
    session: Session<FlowTable>,
    gaps: GapTracker,
    resolver: Box<dyn PortResolver>,
    samples: Option<(Sampler, Samples)>,
    socket_units: SocketUnits,
    changes: Vec<FlowEvent>,
    /// While it is there, the self-test runs and its own doings are not reported.
    watch: Option<Watch>,
    counts: BTreeMap<HookId, RecordCount>,
    gap_events: u64,
    undecoded: u64,
    records: u64,
    read_until: BootNs,
    attached: BootNs,
    /// Skipped runs that were reported, by hook.
    skipped: BTreeMap<HookId, u64>,
    /// When they were counted: the last time but one, and the last time. A loss that needed confirmation is older than the last.
    audits: [BootNs; 2],
    /// Skipped runs for which a backup program may have been running when they were counted.
    suspected: BTreeMap<HookId, u64>,
    /// Records were lost since the last call of [`Pipeline::take_loss`].
    loss: bool,
    /// Among them some of processes.
    processes_lost: bool,
    /// A repair has looked for programs whose records were lost.
    found_programs: bool,
    on_fork: Option<OnFork>,
    /// A 32-bit program was seen since the last call of [`Pipeline::take_compat`].
    compat: bool,
    degraded: Reports,
    /// What rules learned in earlier runs.
    memory: Option<PathMemory>,
}

impl Pipeline {
    /// An empty pipeline for programs that were attached at `attached`.
    pub fn new(attached: BootNs, processes: ProcessTable, flows: FlowTable) -> Self {
        Self {
            processes,
            session: Session::new(flows, Clock::now()),
            gaps: GapTracker::new(attached),
            resolver: Box::new(Sockets::default()),
            samples: None,
            socket_units: SocketUnits::default(),
            changes: Vec::new(),
            watch: None,
            counts: BTreeMap::new(),
            gap_events: 0,
            undecoded: 0,
            records: 0,
            read_until: BootNs(0),
            attached,
            skipped: BTreeMap::new(),
            audits: [attached; 2],
            suspected: BTreeMap::new(),
            loss: false,
            processes_lost: false,
            found_programs: false,
            on_fork: None,
            compat: false,
            degraded: Reports::default(),
            memory: None,
        }
    }

    /// Lets rules begin with what they learned in earlier runs.
    #[must_use]
    pub fn with_memory(mut self, memory: Option<PathMemory>) -> Self {
        self.memory = memory;
        self
    }

    /// Lets rules have connections sampled.
    #[must_use]
    pub fn with_samples(mut self, samples: (Sampler, Samples)) -> Self {
        self.samples = Some(samples);
        self
    }

    /// Finds the ports that the kernel chose late by another resolver than `sock_diag`.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Box<dyn PortResolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Begins to watch for the records of the self-test, and to keep them from the outputs.
    pub(super) fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// The self-test's watch, while it runs.
    pub(super) fn watching(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// The next connections of the self-test; `None`: it does not run.
    pub(super) fn workload(&mut self) -> Option<Result<Workload, SelfTestError>> {
        self.watch.as_mut().map(Watch::workload)
    }

    /// Ends the self-test.
    pub(super) fn end_watch(&mut self) {
        self.watch = None;
    }

    /// The process table, for the scan at the start.
    pub(super) fn processes(&mut self) -> &mut ProcessTable {
        &mut self.processes
    }

    /// Takes in what was there before the attach. To be called before the first record.
    pub fn merge_start(&mut self, snapshot: Snapshot) -> Merged {
        self.session.flows.merge_start(snapshot, &mut self.processes)
    }

    /// Repairs the tables after a loss. To be called when the records from before the snapshot's end are handled. `pause` is called
    /// now and then, to read the ring: a repair must not be the cause of the next loss.
    pub fn repair(
        &mut self,
        snapshot: &Snapshot,
        now: BootNs,
        pause: &mut dyn FnMut(),
        emit: &mut impl FnMut(&Event),
    ) -> Merged {
        self.session.pass(now, emit);
        if std::mem::take(&mut self.processes_lost) {
            // Without /proc what records report has to do.
            self.found_programs |= self.processes.refresh(pause).is_ok();
        }
        let merged = self.session.flows.merge_repair(snapshot, &mut self.processes, pause, &mut self.changes);
        self.name_socket_units();
        self.emit_changes_and(pause, emit);
        self.emit(now, EventBody::Repair(Repair { seen: snapshot.began }), emit);
        merged
    }

    /// Reports the programs that the last [`Self::repair`] found running: executed in the loss, their records are missing. Rules judge
    /// them as what was there. To be called when the records from before that repair's end are handled.
    pub fn report_programs(&mut self, now: BootNs, emit: &mut impl FnMut(&Event)) {
        if std::mem::take(&mut self.found_programs) {
            for process in self.processes.take_unreported() {
                let exec = existing::running(&process, &self.session.flows);
                if exec.stdio.is_some() || exec.parent_stdio.is_some() {
                    self.processes.uses_network(&process);
                }
                self.emit(now, EventBody::Exec(exec), emit);
            }
        }
    }

    /// Begins at `now` to judge by these rules. With `record`, what is reported begins as a recording does: with the start of the run
    /// and with what is there, so that the rules can be applied to it again.
    /// `pause` as in [`Self::repair`].
    pub fn begin(
        &mut self,
        rules: Option<Staged>,
        record: bool,
        now: BootNs,
        pause: &mut dyn FnMut(),
        emit: &mut impl FnMut(&Event),
    ) {
        let programs = if record || rules.is_some() {
            existing::programs(&mut self.processes, &self.session.flows, Some(self.attached))
        } else {
            Vec::new()
        };
        self.processes.set_reported_before(self.attached);
        if record {
            self.session.record();
            self.session.note(
                now,
                EventBody::Start(Start { attached: self.attached, has_facts: true }),
                emit,
            );
            let flows = &self.session.flows;
            existing(flows, &mut self.socket_units, &programs, now, self.session.clock(), pause)
                .for_each(|event| emit(&event));
        }
        if let Some(rules) = rules {
            self.replace_rules(rules, &programs, now, pause, emit);
        }
    }

    /// Replaces the active rules, if any, with staged ones. New ones judge what is there now, and what comes. Costs as much as has changed.
    /// `pause` as in [`Self::repair`].
    pub fn set_rules(
        &mut self,
        rules: Staged,
        now: BootNs,
        pause: &mut dyn FnMut(),
        emit: &mut impl FnMut(&Event),
    ) {
        let programs = existing::programs(&mut self.processes, &self.session.flows, None);
        self.replace_rules(rules, &programs, now, pause, emit);
    }

    fn replace_rules(
        &mut self,
        rules: Staged,
        programs: &[Arc<ProcessInfo>],
        now: BootNs,
        pause: &mut dyn FnMut(),
        emit: &mut impl FnMut(&Event),
    ) {
        let clock = *self.session.clock();
        let sampler = self.samples.as_ref().map(|(sampler, _)| sampler.clone());
        let replace = |flows: &FlowTable, engine: &mut Option<Engine>| {
            let events = existing(flows, &mut self.socket_units, programs, now, &clock, pause);
            match engine {
                Some(engine) => engine.apply(rules, now, events, flows),
                None => {
                    let comparer = self.processes.comparer();
                    // Without an inspector no facts come.
                    let holds = comparer.is_some();
                    let new = Engine::of(rules, self.attached)
                        .with_comparer(comparer)
                        .with_sampler(sampler)
                        .with_memory(self.memory.clone())
                        .with_delivered_facts();
                    let new = if holds { new.with_held_alerts() } else { new };
                    engine.insert(new).start(now, events, flows)
                }
            }
        };
        self.session.set_rules(now, replace, emit);
        self.session.flows.take_forgotten();
    }

    /// The rules at work.
    pub const fn engine(&self) -> Option<&Engine> {
        self.session.engine()
    }

    /// What was dropped or not followed because a limit was reached.
    pub fn overflow(&self) -> Overflow {
        let (flows, processes) = (self.session.flows.stats(), self.processes.stats());
        let rules = self.session.engine().map(Engine::stats).unwrap_or_default();
        let inspect = processes.inspect;
        Overflow {
            processes: processes.evicted + processes.not_kept,
            connections: flows.evicted + flows.connections_not_kept,
            listeners: flows.listeners_not_kept,
            held_events: flows.released_early,
            inspections: inspect.dropped + inspect.hash_dropped + inspect.compare_dropped,
            files: inspect.files.stuck + inspect.files.refused,
            arguments: processes.proc.stuck + processes.proc.refused,
            alerts: rules.alerts.evicted + rules.alerts.forgotten,
            rule_state: rules.forgotten + rules.late_dropped,
        }
    }

    /// Has every new process reported, which is no event. A backup program may repeat one.
    pub fn follow_forks(&mut self, on_fork: OnFork) {
        self.on_fork = Some(on_fork);
    }

    /// Whether records were lost since the last call.
    pub fn take_loss(&mut self) -> bool {
        std::mem::take(&mut self.loss)
    }

    /// Whether records of processes were lost since the last [`Self::repair`].
    pub const fn has_lost_processes(&self) -> bool {
        self.processes_lost
    }

    /// Whether a 32-bit program was seen since the last call.
    pub fn take_compat(&mut self) -> bool {
        std::mem::take(&mut self.compat)
    }

    /// Compares with the kernel's counts, which were read before the ring was drained: reports losses that no later record
    /// has shown, and skipped runs.
    pub fn audit(
        &mut self,
        counts: &[(HookId, Vec<CpuCount>)],
        skipped: &[(HookId, Option<u64>)],
        now: BootNs,
        emit: &mut impl FnMut(&Event),
    ) {
        for (hook, by_cpu) in counts {
            for (cpu, count) in (0_u16..).zip(by_cpu) {
                if let Some(gap) = self.gaps.on_lost(*hook, cpu, count.lost, now) {
                    self.on_gap(gap, emit);
                }
            }
        }
        // A backup program that was running when its runs were counted has ended when they are counted again.
        let settled: Vec<_> = skipped
            .iter()
            .filter_map(|&(hook, runs)| {
                let runs = runs?;
                let before = self.suspected.insert(hook, runs).unwrap_or(0);
                Some((hook, if hook.backups().is_empty() { runs } else { runs.min(before) }))
            })
            .collect();
        self.report_skipped(&settled, now, emit);
    }

    /// Whether runs of programs seem to be lost, which another [`Self::audit`] has to confirm.
    pub fn suspects_loss(&self) -> bool {
        self.suspected.iter().any(|(hook, runs)| *runs > self.skipped.get(hook).copied().unwrap_or(0))
    }

    /// Reports runs that the kernel skipped, in all so many of each hook.
    fn report_skipped(&mut self, totals: &[(HookId, u64)], now: BootNs, emit: &mut impl FnMut(&Event)) {
        for &(hook, total) in totals {
            let reported = self.skipped.entry(hook).or_default();
            let lost = total.saturating_sub(*reported);
            *reported = total.max(*reported);
            if lost > 0 {
                let (cause, from) = (GapCause::Skipped, self.audits[0]);
                self.on_gap(Gap { hook, cause, cpu: None, lost, from, to: now }, emit);
            }
        }
        self.audits = [self.audits[1], now];
    }

    /// Reads the clocks again: the wall clock may have been set.
    pub(super) fn refresh_clock(&mut self) {
        self.session.set_clock(Clock::now());
    }

    /// Takes one record.
    pub fn on_bytes(&mut self, bytes: &[u8], emit: &mut impl FnMut(&Event)) {
        self.records += 1;
        let Ok((header, hook)) = decode::header(bytes) else {
            self.undecoded += 1;
            return;
        };
        self.counts.entry(hook).or_default().seen += 1;
        if let Some(gap) = self.gaps.on_record(hook, &header) {
            self.on_gap(gap, emit);
        }
        let Ok(record) = decode::record(bytes) else {
            self.undecoded += 1;
            return;
        };
        if let Some(watch) = &mut self.watch {
            watch.on_record(hook, &record);
        }
        self.compat |= record.task().is_some_and(|task| task.flags & TASK_COMPAT != 0);
        let boot = BootNs(header.boot_ns);
        self.read_until = self.read_until.max(boot);
        // A timer that is due before sees the tables as they were before.
        self.session.pass(boot, emit);
        match &record {
            Record::Fork(fork) => {
                let child = self.processes.on_fork(fork);
                if let Some(on_fork) = &mut self.on_fork {
                    on_fork(Pid(fork.parent_tgid), BootNs(fork.parent_start_boot_ns), &child);
                }
            }
            Record::Exec(exec, args) => {
                let before = self.processes.known(&exec.task);
                let process = self.processes.on_exec(exec, args);
                let stdio = exec.stdio.iter().find_map(|key| self.session.flows.connection_of(*key));
                self.session.flows.stdio.executed(
                    process.pid,
                    process.start,
                    stdio.as_ref().map(|conn| conn.id),
                );
                // A backup program may repeat what was reported.
                let repeats = hook.is_backup()
                    && before.is_some_and(|(before, _)| {
                        before.source == ProcessSource::Exec
                            && before.exe == process.exe
                            && before.args == process.args
                    });
                if !repeats {
                    let parent_stdio = self.session.flows.connection_of(exec.parent_stdio).map(Box::new);
                    let stdio = stdio.map(Box::new);
                    if stdio.is_some() || parent_stdio.is_some() {
                        self.processes.uses_network(&process);
                    }
                    let event = ProcEvent { stdio, parent_stdio, ..ProcEvent::new(process) };
                    self.emit(boot, EventBody::Exec(event), emit);
                }
            }
            Record::Exit(exit) => {
                let repeats =
                    hook.is_backup() && self.processes.known(&exit.task).is_some_and(|(_, exited)| exited);
                self.session.flows.stdio.exited(Pid(exit.task.tgid));
                if let Some(process) = self.processes.on_exit(exit).filter(|_| !repeats) {
                    let status = ExitStatus::from_kernel(exit.exit_code);
                    self.emit(boot, EventBody::Exit(ProcEvent::new(process), status), emit);
                }
            }
            flow => {
                self.session.flows.on_record(flow, &mut self.processes, &mut self.changes);
                if matches!(flow, Record::Listen(_) | Record::Unlisten(_)) {
                    self.name_socket_units();
                }
                self.emit_changes(emit);
            }
        }
    }

    /// Resolves when the background has found something out: then [`Self::deliver`] makes it known. May be cancelled.
    pub async fn answered(&self) {
        let sampled = async {
            match &self.samples {
                Some((_, samples)) => samples.came().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.processes.answered() => {}
            () = sampled => {}
        }
    }

    /// Makes known what the background has found out meanwhile. To be called between two batches of records, and before
    /// [`Self::on_time`].
    pub fn deliver(&mut self, emit: &mut impl FnMut(&Event)) {
        while let Some(answer) = self.processes.next_answer() {
            if self.watch.as_ref().is_some_and(|watch| watch.is_child(answer.process().pid)) {
                answer.apply();
            } else {
                self.session.deliver(answer, emit);
            }
        }
        while let Some(sample) = self.samples.as_ref().and_then(|(_, samples)| samples.next()) {
            self.session.deliver_sample(sample, emit);
        }
    }

    /// When [`Self::on_time`] must be called next.
    pub fn next_deadline(&self) -> Option<BootNs> {
        [self.session.flows.next_deadline(), self.session.next_deadline()].into_iter().flatten().min()
    }

    /// Reports what waited for more knowledge long enough, and lets the rules' timers fire that are due.
    pub fn on_time(&mut self, now: BootNs, emit: &mut impl FnMut(&Event)) {
        self.session.pass(now, emit);
        self.release(now, emit);
    }

    /// Reports what has waited long enough for more knowledge.
    fn release(&mut self, until: BootNs, emit: &mut impl FnMut(&Event)) {
        self.session.flows.poll_pending(until, &mut *self.resolver, &mut self.changes);
        self.name_socket_units();
        self.emit_changes(emit);
    }

    /// The end of the run: reports all that waits, and compares with the kernel's own counts, so that a loss at the tail is reported too.
    pub fn on_end(
        &mut self,
        counts: &[(HookId, Vec<CpuCount>)],
        skipped: &[(HookId, Option<u64>)],
        now: BootNs,
        emit: &mut impl FnMut(&Event),
    ) {
        self.session.pass(now, emit);
        self.release(BootNs(u64::MAX), emit);
        for (hook, by_cpu) in counts {
            for (cpu, count) in (0_u16..).zip(by_cpu) {
                if let Some(gap) = self.gaps.on_end(*hook, cpu, count.attempted, now) {
                    self.on_gap(gap, emit);
                }
            }
        }
        // No program runs any more.
        let skipped: Vec<_> = skipped.iter().filter_map(|&(hook, runs)| Some((hook, runs?))).collect();
        self.report_skipped(&skipped, now, emit);
        self.session.pass(now, emit);
    }

    /// Reports what was dropped or not followed since the last time, and the lines that outputs have dropped: at once when something
    /// is dropped for the first time, then now and then, and at the end of the run.
    pub(super) fn report_degraded(
        &mut self,
        outputs: Vec<(Arc<str>, u64)>,
        now: BootNs,
        is_last: bool,
        emit: &mut impl FnMut(&Event),
    ) {
        let outputs = outputs.into_iter().map(|(name, lines)| (Degradation::Output, Some(name), lines));
        let overflow = self.overflow().degradations().into_iter().map(|(what, total)| (what, None, total));
        let undecoded = (Degradation::Undecoded, None, self.undecoded);
        let totals = outputs.chain(overflow).chain([undecoded]);
        for degraded in self.degraded.due(totals, now, is_last) {
            self.emit(now, EventBody::Degraded(degraded), emit);
        }
    }

    /// Whether rules wait for what the background finds out.
    pub fn waits_for_facts(&self) -> bool {
        self.session.waiting() > 0
    }

    /// Whether alerts wait for facts of their process.
    pub fn holds_alerts(&self) -> bool {
        self.session.held() > 0
    }

    /// After [`Self::on_end`], when no more facts are waited for: rules judge by what is known.
    pub fn finish(&mut self, emit: &mut impl FnMut(&Event)) {
        self.session.finish(emit);
    }

    /// Records by hook, as this side counted them.
    pub const fn counts(&self) -> &BTreeMap<HookId, RecordCount> {
        &self.counts
    }

    /// The instant of the latest record that came.
    pub const fn read_until(&self) -> BootNs {
        self.read_until
    }

    /// Records that came, decoded or not.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Gap events reported.
    pub const fn gaps(&self) -> u64 {
        self.gap_events
    }

    /// Records that could not be decoded.
    pub const fn undecoded(&self) -> u64 {
        self.undecoded
    }

    fn on_gap(&mut self, gap: Gap, emit: &mut impl FnMut(&Event)) {
        if gap.cause == GapCause::RingFull {
            self.counts.entry(gap.hook).or_default().lost += gap.lost;
        }
        self.gap_events += 1;
        self.loss = true;
        self.processes_lost |= gap.hook.is_of_processes();
        self.emit(gap.to, EventBody::Gap(gap), emit);
    }

    /// Names the units for which process 1 listens. Not for every record: only where listeners can be among the changes.
    /// (A connection may bring out a listener that waited for its port; no unit asks for such a one.)
    fn name_socket_units(&mut self) {
        for event in &mut self.changes {
            name_socket_unit(&mut event.change, &mut self.socket_units);
        }
    }

    fn emit_changes(&mut self, emit: &mut impl FnMut(&Event)) {
        self.emit_changes_and(&mut || {}, emit);
    }

    fn emit_changes_and(&mut self, pause: &mut dyn FnMut(), emit: &mut impl FnMut(&Event)) {
        let mut changes = std::mem::take(&mut self.changes);
        for (index, FlowEvent { boot, change }) in changes.drain(..).enumerate() {
            pause_at(index, pause);
            self.emit(boot, EventBody::Flow(change), emit);
        }
        self.changes = changes;
        for conn in self.session.flows.take_forgotten() {
            self.session.forget(conn, emit);
        }
    }

    fn emit(&mut self, boot: BootNs, body: EventBody, emit: &mut impl FnMut(&Event)) {
        if !self.watch.as_ref().is_some_and(|watch| is_self_test(watch, &body)) {
            self.session.emit(boot, body, emit);
        }
    }
}

/// Whether an event is of the self-test's own making.
fn is_self_test(watch: &Watch, body: &EventBody) -> bool {
    match body {
        EventBody::Flow(change) => {
            let of_connection = change.connection().map(|conn| (conn.local, conn.remote.port()));
            let ends = of_connection.or_else(|| change.listener().map(|of| (of.local, 0)));
            ends.is_some_and(|(local, remote_port)| {
                local.ip().is_loopback() && (watch.is_port(local.port()) || watch.is_port(remote_port))
            })
        }
        EventBody::Exec(event) | EventBody::Exit(event, _) => watch.is_child(event.process.pid),
        EventBody::Facts(_)
        | EventBody::Sample(_)
        | EventBody::Gap(_)
        | EventBody::Repair(_)
        | EventBody::Degraded(_)
        | EventBody::Alert(_)
        | EventBody::Start(_)
        | EventBody::Clock => false,
    }
}
