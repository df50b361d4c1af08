//! What is there when rules begin, as events: connections, listeners, and the programs that have to do with connections.

use std::collections::HashSet;
use std::sync::Arc;

use super::listener_units::ListenerUnits;
use crate::clock::Clock;
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::flow::merge::pause_at;
use crate::flow::table::FlowTable;
use crate::process::info::ProcessInfo;
use crate::process::table::ProcessTable;
use crate::units::{BootNs, Pid};

/// Ancestors whose connections may be a program's business: as far as rules look.
const ABOVE: usize = 3;

/// Returns the programs that run, where a connection is, or may be, their business: it is their standard input or output or that of
/// their parent, or a process has it that they exchange data with, or that is near above them. At the start of the agent those
/// from before the attach (`before`): the others have a record.
pub(super) fn programs(
    processes: &mut ProcessTable,
    flows: &FlowTable,
    before: Option<BootNs>,
) -> Vec<Arc<ProcessInfo>> {
    let owners: HashSet<Pid> = flows.owners().collect();
    let mut programs = Vec::new();
    for (process, is_copy) in processes.running() {
        let has = |pid, start| flows.stdio.conn(pid, start).is_some();
        let is_joined = has(process.pid, process.start)
            || !flows.stdio.peers(process.pid, process.start).is_empty()
            || process.ancestors.first().is_some_and(|parent| !is_copy && has(parent.pid, parent.start));
        let mut above = process.ancestors.iter().take(ABOVE).map(|one| one.pid).chain([process.pid]);
        let is_below = !is_copy && above.any(|pid| owners.contains(&pid));
        if before.is_some_and(|before| process.start >= before) || !(is_joined || is_below) {
            continue;
        }
        if is_joined && before.is_some() {
            // Rules ask for facts of it, as of one that is executed now.
            processes.uses_network(&process);
        }
        programs.push(process);
    }
    programs
}

/// What is there, as events. One at a time: a hundred thousand at once are more memory than everything else.
pub(super) fn existing<'p>(
    flows: &'p FlowTable,
    units: &'p mut ListenerUnits,
    programs: &'p [Arc<ProcessInfo>],
    now: BootNs,
    clock: &Clock,
    pause: &'p mut dyn FnMut(),
) -> impl Iterator<Item = Event> + use<'p> {
    let wall = clock.wall(now);
    let changes = flows.existing().map(move |mut change| {
        units.name(&mut change);
        EventBody::Flow(change)
    });
    // After the connections, which they are judged by.
    let programs = programs.iter().map(|process| EventBody::Exec(running(process, flows)));
    changes.chain(programs).enumerate().map(move |(index, body)| {
        pause_at(index, pause);
        Event { seq: 0, boot: now, wall, body }
    })
}

/// A program that runs, as if it were executed now.
pub(super) fn running(process: &Arc<ProcessInfo>, flows: &FlowTable) -> ProcEvent {
    let of = |pid, start| Some(Box::new(flows.connection(flows.stdio.conn(pid, start)?)?));
    let stdio = of(process.pid, process.start);
    let parent = process.ancestors.first().filter(|_| stdio.is_none());
    ProcEvent {
        parent_stdio: parent.and_then(|parent| of(parent.pid, parent.start)),
        stdio,
        stdio_peers: flows.stdio.peers(process.pid, process.start).into(),
        ..ProcEvent::new(Arc::clone(process))
    }
}
