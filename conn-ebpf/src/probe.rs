//! Programs that are loaded only to learn what the kernel allows, never attached.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

/// Loads where tracing programs may ask for a socket's cookie (5.12 on: `bpf_get_socket_ptr_cookie_proto`).
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn probe_cookie(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a `struct sock`.
    i32::from(unsafe { bpf_get_socket_cookie(sk.cast_mut()) } == 0)
}
