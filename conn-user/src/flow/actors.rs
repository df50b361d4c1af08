//! Who acted, where a record says so, and the reasons where nobody is known.

use conn_common::hook::HookId;
use conn_common::record::Task;

use super::model::{Actor, Method, UnknownReason};
use crate::process::ProcessTable;
use crate::units::{BootNs, Pid};

pub(super) const KERNEL: Actor = unknown(UnknownReason::Kernel);
pub(super) const BEFORE_ATTACH: Actor = unknown(UnknownReason::BeforeAttach);
pub(super) const NEVER_ACCEPTED: Actor = unknown(UnknownReason::NeverAccepted);
pub(super) const BACKEND: Actor = unknown(UnknownReason::Backend);
pub(super) const LOST: Actor = unknown(UnknownReason::Lost);

const fn unknown(reason: UnknownReason) -> Actor {
    Actor { process: None, tid: None, method: Method::Unknown(reason) }
}

/// When and where a record was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) boot: BootNs,
    pub(super) hook: HookId,
}

/// Returns the task in whose context the kernel ran the hook.
pub(super) fn hook_actor(at: At, task: &Task, procs: &mut ProcessTable) -> Actor {
    Actor {
        process: Some(procs.resolve(task, at.boot)),
        tid: Some(Pid(task.tid)),
        method: Method::Hook(at.hook),
    }
}
