//! The BPF object that is compiled into the agent, and its globals.

use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};

use super::counters::Counters;
use super::offsets::Offsets;

/// The object, as the build script made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conn-ebpf"));

/// Name of the ring buffer map.
pub(super) const RING_MAP: &str = "EVENTS";
/// Name of the map of [`conn_common::record::HookCounters`].
pub(super) const COUNTERS_MAP: &str = "COUNTERS";

/// The switches of the BPF side; see `conn-ebpf/src/offsets.rs`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Switches {
    /// `bpf_get_socket_cookie` works in tracing programs.
    pub(super) cookie_helper: bool,
    /// No function hooks: the state tracepoint reports connect and close.
    pub(super) state_reports_all: bool,
    /// kprobes will read cookies, so the tracepoint asks for them first.
    pub(super) ask_cookie_early: bool,
    /// No listen hook either: the state tracepoint reports listeners, without the port of an automatic bind.
    pub(super) state_reports_listen: bool,
    /// Places have a second backup program.
    pub(super) second_backups: bool,
    /// Level of the BPF side's own diagnostics, 0 for none (`aya_log::Level`).
    pub(super) log_level: u8,
}

/// Creates the maps, for so many CPUs, and prepares the programs; none is loaded yet.
pub(super) fn open(
    btf: &Btf,
    offsets: &Offsets,
    switches: Switches,
    ring_bytes: u32,
    cpus: u16,
) -> Result<Ebpf, aya::EbpfError> {
    let values = [
        ("COOKIE_HELPER", u32::from(switches.cookie_helper)),
        // The typed task came a release earlier (5.11) than the cookie (5.12).
        ("CURRENT_TASK_TYPED", u32::from(switches.cookie_helper)),
        ("STATE_REPORTS_ALL", u32::from(switches.state_reports_all)),
        ("ASK_COOKIE_EARLY", u32::from(switches.ask_cookie_early)),
        ("STATE_REPORTS_LISTEN", u32::from(switches.state_reports_listen)),
        ("SECOND_BACKUPS", u32::from(switches.second_backups)),
    ];
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries(RING_MAP, ring_bytes)
        .map_max_entries(COUNTERS_MAP, Counters::entries(cpus));
    for (global, value) in &values {
        loader.override_global(global, value, true);
    }
    for (global, offset) in &offsets.values {
        loader.override_global(global, offset, true);
    }
    loader.override_global(aya_log::LEVEL, &switches.log_level, false);
    loader.load(OBJECT)
}

/// Gives back the memory of the pages that loading has read: some megabytes, for as long as the agent runs. They are read
/// from the file again if the object is opened again.
pub(super) fn release() {
    // SAFETY: sysconf has no precondition.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let begin = OBJECT.as_ptr().addr().next_multiple_of(page);
    let end = (OBJECT.as_ptr().addr() + OBJECT.len()) / page * page;
    if let Some(len) = end.checked_sub(begin).filter(|len| *len > 0) {
        // SAFETY: whole pages of a constant, which the file backs: nobody can have written to them. Failure changes nothing.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(begin), len, libc::MADV_DONTNEED) };
    }
}
