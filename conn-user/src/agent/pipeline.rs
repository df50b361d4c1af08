//! From bytes to events: each record is accounted for, decoded, and applied to the tables; what they report is emitted.
//!
//! The jobs have parts of their own: [`accounting`] counts records and losses, [`self_test`] hides the self-test, [`join`] applies
//! records to the processes and flows, [`programs`] reports what is no event, [`inputs`] makes engines. The pipeline calls them in
//! the order that a replay relies on, and hands their events to the session.

mod accounting;
mod inputs;
mod join;
mod programs;
mod self_test;
mod skipped;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use conn_common::decode;
use conn_common::hook::HookId;

use self::accounting::Accounting;
pub use self::accounting::RecordCount;
use self::inputs::EngineInputs;
use self::join::Join;
pub use self::programs::OnFork;
use self::programs::ProgramReports;
use self::self_test::SelfTestFilter;
pub use self::stats::PipelineStats;
use super::degraded::Reports;
use super::existing::{self, existing};
use super::health::{Health, HealthReport};
use super::listener_units::ListenerUnits;
use super::start::AtStart;
use crate::clock::{Clock, boot_now};
use crate::event::alert::Severity;
use crate::event::degraded::Degradation;
use crate::event::heartbeat::Heartbeat;
use crate::event::model::{Event, EventBody, Repair, Start};
use crate::event::names::Named as _;
use crate::flow::merge::{Merged, pause_at};
use crate::flow::model::FlowEvent;
use crate::flow::resolve::PortResolver;
use crate::flow::sample::{Sampler, Samples};
use crate::flow::snapshot::model::Snapshot;
use crate::flow::table::{Begun, FlowTable};
use crate::kernel::counters::CpuCount;
use crate::kernel::gap::Gap;
use crate::kernel::selftest::{SelfTestError, Watch, Workload};
use crate::process::info::ProcessInfo;
use crate::process::table::ProcessTable;
use crate::rules::path_memory::PathMemory;
use crate::rules::{Engine, Staged};
use crate::session::Session;
use crate::units::{BootNs, DurationNs};

/// When heartbeats are reported.
struct Pulse {
    every: DurationNs,
    next: BootNs,
}

/// The state between the ring buffer and the outputs.
pub struct Pipeline {
    attached: BootNs,
    accounting: Accounting,
    self_test: SelfTestFilter,
    programs: ProgramReports,
    join: Join,
    units: ListenerUnits,
    session: Session<FlowTable>,
    inputs: EngineInputs,
    degraded: Reports,
    pulse: Option<Pulse>,
    health: Option<Health>,
}

impl Pipeline {
    /// An empty pipeline for programs that were attached at `attached`.
    pub fn new(attached: BootNs, processes: ProcessTable, flows: FlowTable) -> Self {
        Self {
            attached,
            accounting: Accounting::new(attached),
            self_test: SelfTestFilter::default(),
            programs: ProgramReports::default(),
            join: Join::new(processes),
            units: ListenerUnits::default(),
            session: Session::new(flows, Clock::now()),
            inputs: EngineInputs::default(),
            degraded: Reports::default(),
            pulse: None,
            health: None,
        }
    }

    /// Lets rules begin with what they learned in earlier runs.
    #[must_use]
    pub fn with_memory(mut self, memory: Option<PathMemory>) -> Self {
        self.inputs.memory = memory;
        self
    }

    /// Lets rules have connections sampled.
    #[must_use]
    pub fn with_samples(mut self, samples: (Sampler, Samples)) -> Self {
        self.inputs.samples = Some(samples);
        self
    }

    /// Finds the ports that the kernel chose late by another resolver than `sock_diag`.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Box<dyn PortResolver>) -> Self {
        self.join.resolver = resolver;
        self
    }

    /// Lets what is wrong with the agent itself be reported as alerts.
    #[must_use]
    pub fn with_health(mut self, is_wanted: bool) -> Self {
        self.health = is_wanted.then(Health::default);
        self
    }

    /// Begins to watch for the records of the self-test, and to keep them from the outputs.
    pub(super) fn watch(&mut self, watch: Watch) {
        self.self_test.begin(watch);
    }

    /// The self-test's watch, while it runs.
    pub(super) const fn watching(&self) -> Option<&Watch> {
        self.self_test.watch()
    }

    /// The next connections of the self-test; `None`: it does not run.
    pub(super) fn workload(&mut self) -> Option<Result<Workload, SelfTestError>> {
        self.self_test.workload()
    }

    /// Ends the self-test.
    pub(super) fn end_watch(&mut self) {
        self.self_test.end();
    }

    /// The process table, for the scan at the start.
    pub(super) const fn processes(&mut self) -> &mut ProcessTable {
        &mut self.join.processes
    }

    /// Takes in what was there before the attach. To be called before the first record.
    pub fn merge_start(&mut self, snapshot: Snapshot) -> Merged {
        self.session.flows.merge_start(snapshot, &mut self.join.processes)
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
        let processes_lost = self.accounting.take_lost_processes();
        let merged = self.join.repair(snapshot, processes_lost, &mut self.session.flows, pause);
        self.emit_changes(pause, emit);
        self.emit(now, EventBody::Repair(Repair { seen: snapshot.began }), emit);
        if let Some(health) = &mut self.health {
            health.on_repair(snapshot.began, now);
        }
        merged
    }

    /// Reports the programs that the last [`Self::repair`] found running: executed in the loss, their records are missing. Rules judge
    /// them as what was there. To be called when the records from before that repair's end are handled.
    pub fn report_programs(&mut self, now: BootNs, emit: &mut impl FnMut(&Event)) {
        for process in self.join.take_found_programs() {
            let exec = existing::running(&process, &self.session.flows);
            if exec.stdio.is_some() || exec.parent_stdio.is_some() {
                self.join.processes.uses_network(&process);
            }
            self.emit(now, EventBody::Exec(exec), emit);
        }
    }

    /// Begins at `now` to judge by these rules, and reports first what `at_start` says.
    /// `pause` as in [`Self::repair`].
    pub fn begin(
        &mut self,
        rules: Option<Staged>,
        at_start: AtStart,
        now: BootNs,
        pause: &mut dyn FnMut(),
        emit: &mut impl FnMut(&Event),
    ) {
        let record = at_start == AtStart::Recording;
        let programs = if record || rules.is_some() {
            existing::programs(&mut self.join.processes, &self.session.flows, Some(self.attached))
        } else {
            Vec::new()
        };
        self.join.processes.set_reported_before(self.attached);
        if record {
            self.session.record();
            self.session.note(
                now,
                EventBody::Start(Start { attached: self.attached, has_facts: true }),
                emit,
            );
        }
        if at_start != AtStart::Nothing {
            let flows = &self.session.flows;
            let programs = if record { &*programs } else { &[] };
            existing(flows, &mut self.units, programs, now, self.session.clock(), pause)
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
        let programs = existing::programs(&mut self.join.processes, &self.session.flows, None);
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
        let replace = |flows: &FlowTable, engine: &mut Option<Engine>| {
            let events = existing(flows, &mut self.units, programs, now, &clock, pause);
            match engine {
                Some(engine) => engine.apply(rules, now, events, flows),
                None => {
                    let new = self.inputs.engine(rules, self.attached, &self.join.processes);
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

    /// The counters of the tables and of the rules.
    pub fn stats(&self) -> PipelineStats {
        PipelineStats {
            processes: self.join.processes.stats(),
            flows: self.session.flows.stats(),
            rules: self.session.engine().map(Engine::stats).unwrap_or_default(),
            undecoded: self.accounting.undecoded(),
        }
    }

    /// Has every new process reported, which is no event. A backup program may repeat one.
    pub fn follow_forks(&mut self, on_fork: OnFork) {
        self.programs.follow_forks(on_fork);
    }

    /// When what this socket carries began ([`FlowTable::begun`]).
    pub fn begun(&self, key: u64) -> Option<Begun> {
        self.session.flows.begun(key)
    }

    /// Whether records were lost since the last call.
    pub const fn take_loss(&mut self) -> bool {
        self.accounting.take_loss()
    }

    /// Whether records of processes were lost since the last [`Self::repair`].
    pub const fn has_lost_processes(&self) -> bool {
        self.accounting.has_lost_processes()
    }

    /// Whether a 32-bit program was seen since the last call.
    pub const fn take_compat(&mut self) -> bool {
        self.programs.take_compat()
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
        let gaps = self.accounting.audit(counts, skipped, now);
        self.emit_gaps(gaps, emit);
    }

    /// Whether runs of programs seem to be lost, which another [`Self::audit`] has to confirm.
    pub fn suspects_loss(&self) -> bool {
        self.accounting.suspects_loss()
    }

    /// Reads the clocks again: the wall clock may have been set.
    pub(super) fn refresh_clock(&mut self) {
        self.set_clock(Clock::now(), boot_now());
    }

    fn set_clock(&mut self, clock: Clock, now: BootNs) {
        if let Some(health) = &mut self.health {
            health.on_clock(self.session.clock(), &clock, now);
        }
        self.session.set_clock(clock);
    }

    /// Takes one record.
    pub fn on_bytes(&mut self, bytes: &[u8], emit: &mut impl FnMut(&Event)) {
        self.accounting.came();
        let Ok((header, hook)) = decode::header(bytes) else {
            self.accounting.cannot_decode();
            return;
        };
        if let Some(gap) = self.accounting.on_header(hook, &header) {
            self.emit_gaps([gap], emit);
        }
        let Ok(record) = decode::record(bytes) else {
            self.accounting.cannot_decode();
            return;
        };
        let boot = BootNs(header.boot_ns);
        self.accounting.read(boot);
        self.self_test.on_record(hook, &record);
        self.programs.on_record(&record);
        // A timer that is due before sees the tables as they were before.
        self.session.pass(boot, emit);
        match self.join.on_record(hook, &record, &mut self.session.flows, &mut self.programs) {
            Some(body) => self.emit(boot, body, emit),
            None => self.emit_changes(&mut || {}, emit),
        }
    }

    /// Resolves when the background has found something out: then [`Self::deliver`] makes it known. May be cancelled.
    pub async fn answered(&self) {
        tokio::select! {
            () = self.join.processes.answered() => {}
            () = self.inputs.sampled() => {}
        }
    }

    /// Makes known what the background has found out meanwhile. To be called between two batches of records, and before
    /// [`Self::on_time`].
    pub fn deliver(&mut self, emit: &mut impl FnMut(&Event)) {
        while let Some(answer) = self.join.processes.next_answer() {
            if self.self_test.is_child(answer.process().pid) {
                answer.apply();
            } else {
                self.session.deliver(answer, emit);
            }
        }
        while let Some(sample) = self.inputs.next_sample() {
            self.session.deliver_sample(sample, emit);
        }
    }

    /// When [`Self::on_time`] must be called next.
    pub fn next_deadline(&self) -> Option<BootNs> {
        let pulse = self.pulse.as_ref().map(|pulse| pulse.next);
        let health = self.health.as_ref().and_then(Health::next_deadline);
        let deadlines = [self.session.flows.next_deadline(), self.session.next_deadline(), pulse, health];
        deadlines.into_iter().flatten().min()
    }

    /// Reports what waited for more knowledge long enough, and lets the rules' timers fire that are due.
    pub fn on_time(&mut self, now: BootNs, emit: &mut impl FnMut(&Event)) {
        self.session.pass(now, emit);
        self.release(now, emit);
    }

    /// Reports what has waited long enough for more knowledge.
    fn release(&mut self, until: BootNs, emit: &mut impl FnMut(&Event)) {
        self.join.release(until, &mut self.session.flows);
        self.emit_changes(&mut || {}, emit);
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
        let gaps = self.accounting.end(counts, skipped, now);
        self.emit_gaps(gaps, emit);
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
        let stats = self.stats();
        let own = Degradation::ALL.iter().map(|&what| (what, None, stats.dropped(what)));
        for degraded in self.degraded.due(outputs.chain(own), now, is_last) {
            if let Some(health) = &mut self.health {
                health.on_degraded(&degraded, now);
            }
            self.emit(now, EventBody::Degraded(degraded), emit);
        }
    }

    /// Raises and resolves the alerts about the agent itself, after these reports of outputs. Returns whether any was reported.
    pub(super) fn check_health(
        &mut self,
        reports: Vec<HealthReport>,
        now: BootNs,
        emit: &mut impl FnMut(&Event),
    ) -> bool {
        let Some(health) = &mut self.health else { return false };
        if reports.is_empty() && !health.is_due(now) {
            return false;
        }
        for report in reports {
            health.on_report(report, now);
        }
        health.pass(now);
        let alerts = health.take();
        let is_any = !alerts.is_empty();
        for alert in alerts {
            self.session.report(alert, emit);
        }
        is_any
    }

    /// The severities of the open alerts, those about the agent itself among them, in no order. Looks at all of them.
    pub fn open_severities(&self) -> impl Iterator<Item = Severity> {
        let of_rules = self.session.engine().into_iter().flat_map(Engine::open_severities);
        of_rules.chain(self.health.iter().flat_map(Health::open_severities))
    }

    /// Has a heartbeat reported now and then, the first when `every` is over.
    pub(super) fn set_pulse(&mut self, every: DurationNs, now: BootNs) {
        self.pulse = Some(Pulse { every, next: BootNs(now.0.saturating_add(every.0)) });
    }

    /// Whether a heartbeat is due.
    pub(super) fn is_pulse_due(&self, now: BootNs) -> bool {
        self.pulse.as_ref().is_some_and(|pulse| pulse.next <= now)
    }

    /// Reports a heartbeat. `dropped`: what outputs have dropped so far.
    pub(super) fn beat(&mut self, dropped: u64, now: BootNs, emit: &mut impl FnMut(&Event)) {
        let open_alerts = self.open_severities().count() as u64;
        let Some(pulse) = &mut self.pulse else { return };
        pulse.next = BootNs(now.0.saturating_add(pulse.every.0));
        let heartbeat = Heartbeat {
            every: pulse.every,
            uptime: now.since(self.attached),
            lost: self.accounting.by_hook().values().map(|count| count.lost).sum(),
            dropped,
            open_alerts,
        };
        self.emit(now, EventBody::Heartbeat(heartbeat), emit);
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
        self.accounting.by_hook()
    }

    /// The instant of the latest record that came.
    pub const fn read_until(&self) -> BootNs {
        self.accounting.read_until()
    }

    /// Records that came, decoded or not.
    pub const fn records(&self) -> u64 {
        self.accounting.records()
    }

    /// Gap events reported.
    pub const fn gaps(&self) -> u64 {
        self.accounting.gaps()
    }

    /// Records that could not be decoded.
    pub const fn undecoded(&self) -> u64 {
        self.accounting.undecoded()
    }

    fn emit_gaps(&mut self, gaps: impl IntoIterator<Item = Gap>, emit: &mut impl FnMut(&Event)) {
        for gap in gaps {
            if let Some(health) = &mut self.health {
                health.on_gap(&gap);
            }
            self.emit(gap.to, EventBody::Gap(gap), emit);
        }
    }

    /// Emits what the flow table has reported. `pause` as in [`Self::repair`].
    fn emit_changes(&mut self, pause: &mut dyn FnMut(), emit: &mut impl FnMut(&Event)) {
        let mut changes = std::mem::take(&mut self.join.changes);
        // In their place: an event is large to move.
        for event in &mut changes {
            self.units.name(&mut event.change);
        }
        for (index, FlowEvent { boot, change }) in changes.drain(..).enumerate() {
            pause_at(index, pause);
            self.emit(boot, EventBody::Flow(change), emit);
        }
        self.join.changes = changes;
        for conn in self.session.flows.take_forgotten() {
            self.session.forget(conn, emit);
        }
    }

    fn emit(&mut self, boot: BootNs, body: EventBody, emit: &mut impl FnMut(&Event)) {
        if !self.self_test.hides(&body) {
            self.session.emit(boot, body, emit);
        }
    }
}
