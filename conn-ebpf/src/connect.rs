//! Connect: the entry of `tcp_connect`, where both addresses and ports are final (`tcp_v4_connect`).

use core::ffi::c_void;

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use conn_common::hook::HookId;
use conn_common::record::RecordKind;

use crate::backup::Place;
use crate::mem::{Access, Direct, Probe};
use crate::sock::{self, Key, TCP_SYN_SENT};
use crate::state::emit_sock;

const PLACE: Place = Place::of(HookId::FentryTcpConnect);

#[fentry(function = "tcp_connect")]
pub(crate) fn fentry_tcp_connect(ctx: FEntryContext) -> i32 {
    // SAFETY: int tcp_connect(struct sock *sk)
    unsafe { connect::<Direct>(HookId::FentryTcpConnect, ctx.arg(0)) };
    0
}

#[fentry(function = "tcp_connect")]
pub(crate) fn fentry_tcp_connect_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { connect::<Direct>(HookId::FentryTcpConnectBackup, ctx.arg(0)) };
    0
}

#[fentry(function = "tcp_connect")]
pub(crate) fn fentry_tcp_connect_second_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { connect::<Direct>(HookId::FentryTcpConnectSecondBackup, ctx.arg(0)) };
    0
}

#[kprobe]
pub(crate) fn kprobe_tcp_connect(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const c_void>(0) {
        // SAFETY: int tcp_connect(struct sock *sk)
        unsafe { connect::<Probe>(HookId::KprobeTcpConnect, sk) };
    }
    0
}

#[inline(always)]
unsafe fn connect<A: Access + Key>(hook: HookId, sk: *const c_void) {
    // SAFETY: the hook's argument.
    unsafe {
        if PLACE.must_report(hook, sk as u64, 0)
            && let Some(ours) = sock::ours::<A>(sk, false)
        {
            emit_sock::<A>(hook, RecordKind::Connect, ours, TCP_SYN_SENT, TCP_SYN_SENT, 0);
        }
    }
}
