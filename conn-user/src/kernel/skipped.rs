//! Programs that the kernel skipped: events that left no record, and no number in a sequence.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::programs::loaded_links;
use conn_common::hook::HookId;

use super::info;
use super::plan::{Attach, Plan, PlannedProgram};

/// How often the programs of a hook were skipped; `None`: this kernel does not count it.
pub type SkippedRuns = Vec<(HookId, Option<u64>)>;

/// The ids of the links to kprobes, by which their misses are asked for.
#[derive(Debug, Default)]
pub(super) struct KprobeLinks(BTreeMap<HookId, u32>);

impl KprobeLinks {
    /// Of the attached programs of a plan. A kprobe that has no link (before 5.15), or when links may not be listed
    /// (`CAP_SYS_ADMIN`), is left out.
    pub(super) fn find(ebpf: &Ebpf, plan: &Plan) -> Self {
        let mut hooks: BTreeMap<u32, HookId> = BTreeMap::new();
        for planned in plan.programs.iter().filter(|planned| is_kprobe(planned)) {
            let info = ebpf.program(planned.program).and_then(|program| program.info().ok());
            hooks.extend(info.map(|info| (info.id(), planned.hook)));
        }
        if hooks.is_empty() {
            return Self::default();
        }
        let links = loaded_links().flatten();
        Self(links.filter_map(|link| Some((*hooks.get(&link.program_id())?, link.id()))).collect())
    }
}

const fn is_kprobe(planned: &PlannedProgram) -> bool {
    matches!(planned.attach, Attach::Kprobe(_) | Attach::Kretprobe(_))
}

/// How often the kernel skipped each program because it, or for kprobes and classic tracepoints any other program, was
/// already running on the CPU (`bpf_prog_info.recursion_misses`), or did not come to it at all (misses of kprobes). What
/// an understudy told is not counted.
pub(super) fn runs(ebpf: &Ebpf, plan: &Plan, links: &KprobeLinks) -> SkippedRuns {
    let of_program = |planned: &PlannedProgram| {
        let program = ebpf.program(planned.program)?;
        let skipped = info::recursion_misses(program.fd().ok()?.as_fd().as_raw_fd())?;
        let missed = if is_kprobe(planned) { info::kprobe_misses(*links.0.get(&planned.hook)?)? } else { 0 };
        Some(skipped + missed)
    };
    let of_hook = |hook| plan.programs.iter().find(|planned| planned.hook == hook).and_then(of_program);
    let firsts = plan.programs.iter().filter(|planned| !planned.hook.is_understudy());
    firsts
        .map(|planned| {
            // Lost is only what both missed.
            let also = planned.hook.understudy().and_then(of_hook);
            (planned.hook, of_program(planned).map(|missed| also.map_or(missed, |also| missed.min(also))))
        })
        .collect()
}
