//! Listen, reported when the port is final: `inet_csk_listen_start` announces LISTEN before it chooses the port of an
//! auto-bound listener (`get_port`).

use core::ffi::c_void;

use aya_ebpf::macros::{fexit, kprobe};
use aya_ebpf::programs::{FExitContext, ProbeContext};
use conn_common::hook::HookId;
use conn_common::record::RecordKind;

use crate::backup::Place;
use crate::mem::Access as _;
use crate::mem::{Direct, Probe};
use crate::offsets::OFF_SKC_STATE;
use crate::sock::{self, TCP_CLOSE, TCP_LISTEN};
use crate::state::emit_sock;

const LISTEN: Place = Place::of(HookId::FexitListenStart);

#[fexit(function = "inet_csk_listen_start")]
pub(crate) fn fexit_listen_start(ctx: FExitContext) -> i32 {
    // int inet_csk_listen_start(struct sock *sk): the result follows the argument.
    listening(HookId::FexitListenStart, ctx.arg(0), ctx.arg(1));
    0
}

#[fexit(function = "inet_csk_listen_start")]
pub(crate) fn fexit_listen_start_backup(ctx: FExitContext) -> i32 {
    listening(HookId::FexitListenStartBackup, ctx.arg(0), ctx.arg(1));
    0
}

#[fexit(function = "inet_csk_listen_start")]
pub(crate) fn fexit_listen_start_second_backup(ctx: FExitContext) -> i32 {
    listening(HookId::FexitListenStartSecondBackup, ctx.arg(0), ctx.arg(1));
    0
}

/// 5.10: `int inet_csk_listen_start(struct sock *sk, int backlog)`. Another program, since the verifier wants a constant
/// offset into the context and the compiler joins two branches that differ only in it.
#[fexit(function = "inet_csk_listen_start")]
pub(crate) fn fexit_listen_start_2_args(ctx: FExitContext) -> i32 {
    listening(HookId::FexitListenStart, ctx.arg(0), ctx.arg(2));
    0
}

#[inline(always)]
fn listening(hook: HookId, sk: *const c_void, failed: i32) {
    // SAFETY: the function's first argument.
    unsafe {
        if LISTEN.must_report(hook, sk as u64, 0)
            && failed == 0
            && let Some(ours) = sock::ours::<Direct>(sk, false)
        {
            emit_sock::<Direct>(hook, RecordKind::Listen, ours, TCP_CLOSE, TCP_LISTEN, 0);
        }
    }
}

/// `inet_csk_listen_start` hashes the listener last, when nothing can fail any more.
#[kprobe]
pub(crate) fn kprobe_inet_hash(ctx: ProbeContext) -> u32 {
    hashed(HookId::KprobeInetHash, &ctx);
    0
}

/// The same for IPv6, on kernels where it is a function of its own.
#[kprobe]
pub(crate) fn kprobe_inet6_hash(ctx: ProbeContext) -> u32 {
    hashed(HookId::KprobeInet6Hash, &ctx);
    0
}

#[inline(always)]
fn hashed(hook: HookId, ctx: &ProbeContext) {
    let Some(sk) = ctx.arg::<*const c_void>(0) else { return };
    // SAFETY: int inet_hash(struct sock *sk), int inet6_hash(struct sock *sk)
    unsafe {
        if Probe::load::<u8>(sk, OFF_SKC_STATE.load()) == TCP_LISTEN
            && let Some(ours) = sock::ours::<Probe>(sk, false)
        {
            emit_sock::<Probe>(hook, RecordKind::Listen, ours, TCP_CLOSE, TCP_LISTEN, 0);
        }
    }
}
