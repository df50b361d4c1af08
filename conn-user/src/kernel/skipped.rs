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

/// How often the kernel skipped the programs of one place because they, or for kprobes and classic tracepoints any other
/// program, were already running on the CPU (`bpf_prog_info.recursion_misses`), or did not come to them at all (misses of
/// kprobes). `None`: not counted by this kernel.
#[derive(Clone, Debug)]
pub(super) struct Misses {
    hook: HookId,
    first: Option<u64>,
    /// The backup programs that are attached.
    backups: Vec<(HookId, Option<u64>)>,
}

impl Misses {
    /// Runs that nobody made up for. `made_up` says, of a backup program, how often it ran in the place of the first
    /// ([`conn_common::record::HookCounters::unmarked`]); it is to be read after the misses, or what is made up in between
    /// would look lost.
    ///
    /// With backup programs this is exact but for tasks that share a mark, or change the CPU between two programs: then a backup
    /// program repeats what another has reported, and that counts as made up, too ([`conn_common::mark`]).
    pub(super) fn lost(&self, made_up: impl Fn(HookId) -> u64) -> (HookId, Option<u64>) {
        // A run that is lost was skipped by every program.
        let bound = self.backups.iter().filter_map(|(_, missed)| *missed).min().unwrap_or(u64::MAX);
        let made_up: u64 = self.backups.iter().map(|(hook, _)| made_up(*hook)).sum();
        let lost = self.first.map(|first| first.saturating_sub(made_up).min(bound));
        (self.hook, lost)
    }
}

/// Asks the kernel about every place of the plan.
pub(super) fn misses(ebpf: &Ebpf, plan: &Plan, links: &KprobeLinks) -> Vec<Misses> {
    let of_program = |planned: &PlannedProgram| {
        let program = ebpf.program(planned.program)?;
        let skipped = info::recursion_misses(program.fd().ok()?.as_fd().as_raw_fd())?;
        let missed = if is_kprobe(planned) { info::kprobe_misses(*links.0.get(&planned.hook)?)? } else { 0 };
        Some(skipped + missed)
    };
    let planned = |hook: HookId| plan.programs.iter().find(|planned| planned.hook == hook);
    // Its runs are of all system calls, of which hardly any is an accept: what it misses is not known to be a record.
    let is_of_any_call = |planned: &&PlannedProgram| planned.hook == HookId::SysExitCompat;
    let firsts = plan.programs.iter().filter(|planned| !planned.hook.is_backup() && !is_of_any_call(planned));
    let of_place = |first: &PlannedProgram| Misses {
        hook: first.hook,
        first: of_program(first),
        backups: first
            .hook
            .backups()
            .iter()
            .filter_map(|hook| planned(*hook))
            .map(|backup| (backup.hook, of_program(backup)))
            .collect(),
    };
    firsts.map(of_place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_is_what_no_program_saw() {
        let lost = |first: Option<u64>, backup: Option<Option<u64>>, made_up: u64| {
            let backups = backup.map(|missed| (HookId::StateBackup, missed)).into_iter().collect();
            Misses { hook: HookId::State, first, backups }.lost(|_| made_up).1
        };
        assert_eq!(lost(None, None, 0), None, "this kernel does not count");
        assert_eq!(lost(Some(3), None, 0), Some(3), "there is no backup program");
        assert_eq!(lost(Some(3), Some(Some(5)), 3), Some(0), "the backup made up for all");
        assert_eq!(lost(Some(3), Some(Some(5)), 2), Some(1), "both missed one");
        assert_eq!(
            lost(Some(3), Some(Some(0)), 2),
            Some(0),
            "the backup missed nothing: it is still running"
        );
        assert_eq!(lost(Some(3), Some(Some(9)), 7), Some(0), "the backup repeated some");
        assert_eq!(lost(Some(3), Some(None), 1), Some(2));
        let backups = vec![(HookId::StateBackup, Some(4)), (HookId::StateSecondBackup, Some(1))];
        let made_up = |hook| if hook == HookId::StateBackup { 6 } else { 3 };
        assert_eq!(Misses { hook: HookId::State, first: Some(10), backups }.lost(made_up).1, Some(1));
    }
}
