//! `find = "replaced"`: the path of the executable leads to another file than the one that runs, or to none.
//!
//! A use of the network is what makes it be compared, in the background, each process at most once in [`EVERY`]; the detector
//! waits for the answer. The alert ends with the process, or when it runs what its path leads to (it executed it).
//!
//! `find = "deleted"`: the executable has no name any more, and no upgrade put another file in its place. A program that removes
//! itself does so soon after its start, perhaps after it connected: so one that started of late is compared again.

use std::sync::Arc;

use super::network::{Use, is_reported, same_program, used_by};
use crate::event::alert::{AlertId, Evidence};
use crate::event::model::Event;
use crate::event::names::Named as _;
use crate::process::hash::IntMap;
use crate::process::identity::Replaced;
use crate::process::info::{ExitStatus, ProcessInfo, is_same_tick};
use crate::rules::alerts::Life;
use crate::rules::detector::{Context, Detector, Triggers};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::timers::TimerId;
use crate::units::{BootNs, DurationNs};

/// How often a process is compared at most: a replaced executable does not hurry.
const EVERY: DurationNs = DurationNs(60_000_000_000);
/// How long the background is waited for at first, and then twice as long each time.
const PATIENCE: DurationNs = DurationNs(50_000_000);
/// How often. What is answered later is reported with the next use.
const TRIES: u32 = 6;
/// Most uses that wait, and most processes whose alerts are open.
const WAITING_MAX: usize = 1024;
/// How soon a process that started of late is compared again, and then after twice its age.
const AGAIN: DurationNs = DurationNs(5_000_000_000);
/// The age up to which it is.
const YOUNG: DurationNs = DurationNs(60_000_000_000);
/// Marks the timer of a further comparison; the rest is the process id.
const AGAIN_TOKEN: u64 = 1 << 32;

#[derive(Clone, Debug)]
struct Waiting {
    used: Use,
    tries: u32,
}

/// A use of a process that is compared again.
#[derive(Clone, Debug)]
struct Again {
    used: Use,
    timer: TimerId,
}

/// Finds processes whose executable was replaced under them.
#[derive(Clone, Debug, Default)]
pub(super) struct Replacement {
    /// Only deleted executables without an upgrade.
    of_deleted: bool,
    /// One use of each process that is being compared, by the id of the process.
    waiting: IntMap<u32, Waiting>,
    /// One use of each process that is compared again, by the id of the process.
    again: IntMap<u32, Again>,
    /// The open alerts, by the id of the process.
    open: IntMap<u32, (BootNs, AlertId)>,
    forgotten: u64,
}

impl Replacement {
    /// Returns a detector of deleted executables.
    pub(super) fn deleted() -> Self {
        Self { of_deleted: true, ..Self::default() }
    }

    /// Returns whether this answer is a finding.
    fn is_finding(&self, process: &ProcessInfo, replaced: Replaced) -> bool {
        replaced.is_replaced()
            && (!self.of_deleted || (process.exe_is_deleted() && replaced != Replaced::Upgraded))
    }

    /// Returns the last answer if it is a finding.
    fn finding(&self, process: &ProcessInfo) -> Option<Replaced> {
        process.identity.replaced().filter(|replaced| self.is_finding(process, *replaced))
    }

    /// Explains what the answer of a comparison means; `before`: what the one before it said.
    fn explain(&self, process: &ProcessInfo, answer: Option<Replaced>, before: Option<Replaced>) -> Note {
        let says = match answer {
            None if before.is_some() => "the executable is compared again; the answer is waited for",
            None => "the executable was not compared yet; the answer is waited for",
            Some(Replaced::No) => "its path leads to the executable that runs",
            Some(Replaced::Unknown) => "what its path leads to could not be found out",
            Some(Replaced::Upgraded) if self.of_deleted => {
                "root or the owner of its executable has put another one in its place"
            }
            Some(replaced) if !self.is_finding(process, replaced) => {
                "its executable was moved, and not deleted"
            }
            Some(Replaced::Other | Replaced::Upgraded) => "its path leads to another file",
            Some(Replaced::Gone) => "its path leads to no file",
        };
        let facts = answer.or(before).map(|answer| Evidence::text("replaced", answer.name().as_bytes()));
        let note = Note::new(says).with(facts);
        if answer.is_none() { note.waits().key(same_program(process)) } else { note }
    }

    fn wait(&mut self, waiting: Waiting, context: &mut Context<'_>) {
        let (pid, patience) = (waiting.used.process.pid.0, PATIENCE.0 << waiting.tries);
        self.waiting.insert(pid, waiting);
        context.set_timer(BootNs(context.now.0.saturating_add(patience)), pid.into());
    }

    /// What was found out of a use.
    fn judge(&mut self, used: Use, rule: &Rule, context: &mut Context<'_>) {
        let process = Arc::clone(&used.process);
        match self.finding(&process) {
            Some(replaced) if !is_reported(&process, rule, context) => {
                self.emit(used, replaced, rule, context);
            }
            None if process.identity.replaced() == Some(Replaced::No) => {
                self.end(&process, context);
                self.look_again(used, context);
            }
            _ => {}
        }
    }

    /// Has a process that started of late compared again after a while.
    fn look_again(&mut self, used: Use, context: &mut Context<'_>) {
        let process = Arc::clone(&used.process);
        // A recording has no instant of the exec.
        let age = context.now.since(process.start);
        if !self.of_deleted || age >= YOUNG || context.exit_of(&process).is_some() {
            return;
        }
        if self.again.len() >= WAITING_MAX {
            self.forgotten += 1;
            return;
        }
        context.follow_process(&process);
        let after = AGAIN.0.max(2 * age.0);
        let token = AGAIN_TOKEN | u64::from(process.pid.0);
        let timer = context.set_timer(BootNs(context.now.0.saturating_add(after)), token);
        // Of an earlier process of that id, whose end was lost, or of what this one was before.
        if let Some(before) = self.again.insert(process.pid.0, Again { used, timer }) {
            context.cancel_timer(before.timer);
        }
    }

    fn compare_again(&mut self, used: Use, context: &mut Context<'_>) {
        let process = Arc::clone(&used.process);
        if self.finding(&process).is_some() || self.waiting.contains_key(&process.pid.0) {
            return;
        }
        process.identity.compare_again(context.now);
        if context.compare(&process) {
            self.wait(Waiting { used, tries: 0 }, context);
        }
    }

    fn emit(&mut self, used: Use, replaced: Replaced, rule: &Rule, context: &mut Context<'_>) {
        let process = Arc::clone(&used.process);
        let mut evidence = vec![Evidence::text("replaced", replaced.name().as_bytes())];
        evidence.extend(process.exe.as_deref().map(|exe| Evidence::text("exe", exe)));
        evidence.push(Evidence::duration("running_for", context.now.since(process.start)));
        let follows = self.open.len() < WAITING_MAX && context.exit_of(&process).is_none();
        let life = if follows { Life::Detector } else { Life::Moment };
        if let Some(alert) = used.raise(same_program(&process), rule, evidence, life, context)
            && follows
        {
            context.follow_process(&process);
            let before = self.open.insert(process.pid.0, (process.start, alert));
            // Of an earlier process of that id, whose end was lost.
            if let Some((_, alert)) = before {
                context.resolve(alert, Vec::new());
            }
        }
    }

    fn end(&mut self, process: &ProcessInfo, context: &mut Context<'_>) {
        if let Some((start, alert)) = self.open.get(&process.pid.0).copied()
            && is_same_tick(start, process.start)
        {
            self.open.remove(&process.pid.0);
            context.resolve(alert, Vec::new());
        }
    }
}

impl Detector for Replacement {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN.and(Triggers::LISTEN)
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(process) = used_by(event, context) else { return };
        if process.exe.is_none() {
            return context.note(|| Note::new("the path of its executable is not known"));
        }
        if process.exe_is_memfd() {
            return context.note(|| Note::new("its executable never had a path"));
        }
        let before = process.identity.replaced();
        let compares = context.can_compare() && context.begins_comparison(process, EVERY);
        if compares && !context.compare(process) {
            self.forgotten += 1;
        }
        let answer = context.replaced(process);
        context.note(|| self.explain(process, answer, before));
        match answer {
            None if !context.can_compare() => {
                context.note(|| Note::new("executables are not compared"));
            }
            None if self.waiting.contains_key(&process.pid.0) => {}
            None if self.waiting.len() >= WAITING_MAX => {
                self.forgotten += 1;
                context.note(|| Note::new("too many executables are being compared"));
            }
            None => {
                if let Some(used) = Use::of(event) {
                    self.wait(Waiting { used, tries: 0 }, context);
                }
            }
            Some(Replaced::No) => self.end(process, context),
            Some(replaced) => {
                if self.is_finding(process, replaced)
                    && !is_reported(process, rule, context)
                    && let Some(used) = Use::of(event)
                {
                    self.emit(used, replaced, rule, context);
                }
            }
        }
    }

    fn on_timer(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        if token & AGAIN_TOKEN != 0 {
            if let Some(Again { used, .. }) = self.again.remove(&(token as u32)) {
                self.compare_again(used, context);
            }
            return;
        }
        let Some(Waiting { used, tries }) = self.waiting.remove(&(token as u32)) else { return };
        if used.process.identity.replaced().is_some() {
            self.judge(used, rule, context);
        } else if tries + 1 < TRIES {
            self.wait(Waiting { used, tries: tries + 1 }, context);
        }
    }

    fn on_exit(
        &mut self,
        _rule: &Rule,
        process: &ProcessInfo,
        _status: ExitStatus,
        context: &mut Context<'_>,
    ) {
        self.end(process, context);
        if let Some(again) = self.again.get(&process.pid.0)
            && again.used.process.is_same(process)
        {
            context.cancel_timer(again.timer);
            self.again.remove(&process.pid.0);
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
