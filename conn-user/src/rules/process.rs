//! Processes that use the network and should not.

mod exec;
mod network;
mod probe;
mod replaced;
mod spawn;
mod stdio;
#[cfg(test)]
mod tests;
mod unlearned;

use super::detector::Detector;
use super::model::ProcessRule;
use crate::event::alert::{Evidence, Value};
use crate::event::model::{Event, EventBody};
use crate::process::info::{ProcessInfo, ProcessSource};

/// Whether an exec event is about a program that ran already: when the rules began, or when a repair found it, whose exec was lost.
fn is_existing(event: &Event) -> bool {
    let is_found = |process: &ProcessInfo| process.source == ProcessSource::ProcScan;
    event.seq == 0 || matches!(&event.body, EventBody::Exec(exec) if is_found(&exec.process))
}

/// Returns the evidence about an executed program: its path and arguments, and for how long it has run if it ran before.
fn executed(event: &Event, process: &ProcessInfo) -> Vec<Evidence> {
    let exe = process.exe.as_deref().map(|exe| Evidence::text("exe", exe));
    let args = process.args.iter().map(|arg| Value::Text(arg.clone())).collect();
    let running_for = Evidence::duration("running_for", event.boot.since(process.start));
    let running_for = Some(running_for).filter(|_| is_existing(event));
    exe.into_iter().chain([Evidence::new("args", Value::List(args))]).chain(running_for).collect()
}

/// The detector of such a rule.
pub(super) fn detector(rule: &ProcessRule) -> Box<dyn Detector> {
    match rule {
        ProcessRule::Network => Box::new(network::Network),
        ProcessRule::Probe(within) => Box::new(probe::Probe::new(*within)),
        ProcessRule::Unlearned => Box::<unlearned::Unlearned>::default(),
        ProcessRule::Replaced => Box::new(replaced::Replacement::default()),
        ProcessRule::Deleted => Box::new(replaced::Replacement::deleted()),
        ProcessRule::Exec => Box::new(exec::Exec),
        ProcessRule::Spawn { holds, beside, received, answered } => {
            Box::new(spawn::Spawn::new(holds, *beside, *received, *answered))
        }
        ProcessRule::Stdio => Box::new(stdio::Stdio { of_parent: false }),
        ProcessRule::ParentStdio => Box::new(stdio::Stdio { of_parent: true }),
    }
}
