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
    /// No function hooks: the state tracepoint tells connect and close.
    pub(super) state_tells_all: bool,
    /// kprobes will read cookies, so the tracepoint asks for them first.
    pub(super) ask_cookie_early: bool,
    /// No listen hook either: the state tracepoint tells listeners, without the port of an automatic bind.
    pub(super) state_tells_listen: bool,
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
        ("STATE_TELLS_ALL", u32::from(switches.state_tells_all)),
        ("ASK_COOKIE_EARLY", u32::from(switches.ask_cookie_early)),
        ("STATE_TELLS_LISTEN", u32::from(switches.state_tells_listen)),
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
