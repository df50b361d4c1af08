//! Kernels that preempt BPF programs, and so skip them for the task that comes next.
//!
//! There an agent may miss an event on a busy machine, however many backup programs it has. It must count the run and say so:
//! what is accounted for in this way is no failure, what is missing without it is one, and so is an event that a test waits for and that
//! does not come.

use std::sync::OnceLock;

use conn_tests::event::Event;

/// A function that a kernel has which preempts programs at every tracepoint (kernel/trace/bpf_trace.c, 7.2 on).
const MARKER: &[u8] = b"trace_call_bpf_faultable";

/// Returns whether this kernel preempts programs, by the names in its BTF. Without BTF no agent runs.
fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        btf.split(|byte| *byte == 0).any(|name| name == MARKER)
    })
}

/// Returns whether an event is a gap that such a kernel accounts for.
pub(crate) fn accounts_for(event: &Event) -> bool {
    event.kind == "gap" && event.cause.as_deref() == Some("skipped") && is_possible()
}
