//! Accept.
//!
//! `__inet_accept` and, where the kernel has not got it yet, `security_sock_graft` (from `sock_graft` in
//! `inet_accept`) run at the end of an accept, in the acceptor: unlike the return of `inet_csk_accept` they also see a
//! call that was blocked since before the attach, and a kprobe on them has no pool of return instances to run out of.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, tracepoint};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext,
};
use aya_log_ebpf::debug;
use conn_common::hook::HookId;
use conn_common::record::RecordKind;

use crate::backup::Place;
use crate::fd;
use crate::log::Anywhere;
use crate::mem::{Access, Common as _, Direct, Probe, current, current_typed};
use crate::offsets::{CURRENT_TASK_TYPED, OFF_REGS_BX, OFF_REGS_ORIG_AX, OFF_SKC_FAMILY, OFF_SKC_STATE};
use crate::sock::{self, AF_INET, AF_INET6, Key, Ours, TCP_LISTEN};
use crate::state::emit_common;
use crate::task::in_compat_call;

const ACCEPT: Place = Place::of(HookId::FentryInetAccept);
const GRAFT: Place = Place::of(HookId::FentrySockGraft);
const ACCEPT_CALL: Place = Place::of(HookId::SysExitAccept);
const ACCEPT4_CALL: Place = Place::of(HookId::SysExitAccept4);

#[fentry(function = "__inet_accept")]
pub(crate) fn fentry_inet_accept(ctx: FEntryContext) -> i32 {
    // SAFETY: void __inet_accept(struct socket *sock, struct socket *newsock, struct sock *newsk)
    unsafe { accept::<Direct>(HookId::FentryInetAccept, ctx.arg(2)) };
    0
}

#[fentry(function = "__inet_accept")]
pub(crate) fn fentry_inet_accept_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { accept::<Direct>(HookId::FentryInetAcceptBackup, ctx.arg(2)) };
    0
}

#[fentry(function = "__inet_accept")]
pub(crate) fn fentry_inet_accept_second_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { accept::<Direct>(HookId::FentryInetAcceptSecondBackup, ctx.arg(2)) };
    0
}

#[kprobe]
pub(crate) fn kprobe_inet_accept(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const c_void>(2) {
        // SAFETY: void __inet_accept(struct socket *sock, struct socket *newsock, struct sock *newsk)
        unsafe { accept::<Probe>(HookId::KprobeInetAccept, sk) };
    }
    0
}

#[fentry(function = "security_sock_graft")]
pub(crate) fn fentry_sock_graft(ctx: FEntryContext) -> i32 {
    // SAFETY: void security_sock_graft(struct sock *sk, struct socket *parent)
    unsafe { accept::<Direct>(HookId::FentrySockGraft, ctx.arg(0)) };
    0
}

#[fentry(function = "security_sock_graft")]
pub(crate) fn fentry_sock_graft_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { accept::<Direct>(HookId::FentrySockGraftBackup, ctx.arg(0)) };
    0
}

#[fentry(function = "security_sock_graft")]
pub(crate) fn fentry_sock_graft_second_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { accept::<Direct>(HookId::FentrySockGraftSecondBackup, ctx.arg(0)) };
    0
}

#[kprobe]
pub(crate) fn kprobe_sock_graft(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const c_void>(0) {
        // SAFETY: void security_sock_graft(struct sock *sk, struct socket *parent)
        unsafe { accept::<Probe>(HookId::KprobeSockGraft, sk) };
    }
    0
}

#[fexit(function = "inet_csk_accept")]
pub(crate) fn fexit_csk_accept(ctx: FExitContext) -> i32 {
    // struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg): the result follows the arguments.
    returned(ctx.arg(2));
    0
}

/// Before 6.10: `struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)`. Another program for the
/// reason given at `fexit_listen_start_2_args`.
#[fexit(function = "inet_csk_accept")]
pub(crate) fn fexit_csk_accept_4_args(ctx: FExitContext) -> i32 {
    returned(ctx.arg(4));
    0
}

#[inline(always)]
fn returned(sk: *const c_void) {
    if !sk.is_null() {
        // SAFETY: what `inet_csk_accept` returned.
        unsafe { accept::<Direct>(HookId::FexitCskAccept, sk) };
    }
}

#[kretprobe]
pub(crate) fn kretprobe_csk_accept(ctx: RetProbeContext) -> u32 {
    let sk: *const c_void = ctx.ret();
    if !sk.is_null() {
        // SAFETY: struct sock *inet_csk_accept(…)
        unsafe { accept::<Probe>(HookId::KretprobeCskAccept, sk) };
    }
    0
}

#[inline(always)]
unsafe fn accept<A: Access + Key>(hook: HookId, sk: *const c_void) {
    // SAFETY: the hook's argument.
    unsafe {
        if !ACCEPT.must_report(hook, sk as u64, 0) || !GRAFT.must_report(hook, sk as u64, 0) {
            return;
        }
        emit::<A>(hook, sk, |sk| sock::ours::<A>(sk, false));
    }
}

/// Reports an accepted socket if it is one of IP and `admit` takes it.
#[inline(always)]
unsafe fn emit<A: Access + Key>(
    hook: HookId,
    sk: *const c_void,
    admit: impl FnOnce(*const c_void) -> Option<Ours>,
) {
    // SAFETY: the caller's socket, for this access.
    unsafe {
        let common = A::common(sk);
        let family = common.load::<u16>(OFF_SKC_FAMILY.load());
        let state = common.load::<u8>(OFF_SKC_STATE.load());
        if (family == AF_INET || family == AF_INET6)
            && state != TCP_LISTEN
            && let Some(ours) = admit(sk)
        {
            emit_common::<A>(hook, RecordKind::Accept, ours, &common, (state, state), 0);
        }
    }
}

#[tracepoint]
pub(crate) fn sys_exit_accept(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAccept, &ACCEPT_CALL, &ctx);
    0
}

#[tracepoint]
pub(crate) fn sys_exit_accept_backup(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAcceptBackup, &ACCEPT_CALL, &ctx);
    0
}

#[tracepoint]
pub(crate) fn sys_exit_accept_second_backup(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAcceptSecondBackup, &ACCEPT_CALL, &ctx);
    0
}

#[tracepoint]
pub(crate) fn sys_exit_accept4(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAccept4, &ACCEPT4_CALL, &ctx);
    0
}

#[tracepoint]
pub(crate) fn sys_exit_accept4_backup(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAccept4Backup, &ACCEPT4_CALL, &ctx);
    0
}

#[tracepoint]
pub(crate) fn sys_exit_accept4_second_backup(ctx: TracePointContext) -> u32 {
    accepted_fd(HookId::SysExitAccept4SecondBackup, &ACCEPT4_CALL, &ctx);
    0
}

/// Numbers of 32-bit system calls (arch/x86/entry/syscalls/syscall_32.tbl), and of the calls that `socketcall` takes
/// (include/uapi/linux/net.h).
const COMPAT_SOCKETCALL: u64 = 102;
const COMPAT_ACCEPT4: u64 = 364;
const SYS_ACCEPT: u64 = 5;
const SYS_ACCEPT4: u64 = 18;

/// The classic tracepoints of system calls skip 32-bit ones (`trace_get_syscall_nr`, arch/x86/include/asm/ftrace.h). This one
/// runs at the end of each system call of everybody, so it is attached only while 32-bit programs run. Where a task can be
/// preempted in it (6.13 on) the kernel may skip it for the next one: such an accept is attributed to the listener's owner, and marked so.
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit_compat(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: TP_PROTO(struct pt_regs *regs, long ret)
    unsafe {
        let number = ctx.arg::<i64>(1);
        let typed = CURRENT_TASK_TYPED.load() != 0;
        let in_compat = if typed {
            in_compat_call::<Direct>(current_typed())
        } else {
            in_compat_call::<Probe>(current())
        };
        if !in_compat || number < 0 {
            return 0;
        }
        let regs: *const c_void = ctx.arg(0);
        let call = Direct::load::<u64>(regs, OFF_REGS_ORIG_AX.load());
        let which = Direct::load::<u64>(regs, OFF_REGS_BX.load());
        let is_accept = call == COMPAT_ACCEPT4
            || call == COMPAT_SOCKETCALL && (which == SYS_ACCEPT || which == SYS_ACCEPT4);
        if is_accept {
            hand_out(HookId::SysExitCompat, number as u64);
        }
    }
    0
}

/// Finds the socket of the descriptor that an accept returned.
///
/// Another thread may have replaced the descriptor in between; the back pointer proves that it is a socket's, and the
/// agent accepts the answer only for a connection that waits to be accepted. Every read here is a call of the helper,
/// and this is the dearest program of its backend: none is made twice.
#[inline(always)]
fn accepted_fd(hook: HookId, place: &Place, ctx: &TracePointContext) {
    // SAFETY: `long ret` at 16 of the context (trace_event_raw_sys_exit: 8 common bytes, the number, the result), read
    // as a context load; everything behind goes through the helper.
    unsafe {
        let number = ctx.as_ptr().byte_add(16).cast::<i64>().read_volatile();
        // The object is the descriptor: the socket costs too much to find before it is known to be needed.
        if !place.must_report(hook, number as u64, 0) || number < 0 {
            return;
        }
        hand_out(hook, number as u64);
    }
}

/// Reports the socket of a descriptor that an accept returned.
#[inline(always)]
unsafe fn hand_out(hook: HookId, number: u64) {
    // SAFETY: `current` is a task; everything behind goes through the helper.
    unsafe {
        let fds = if CURRENT_TASK_TYPED.load() != 0 {
            fd::descriptors::<Direct>(current_typed(), number)
        } else {
            // No kernel this old needs a backup program here.
            fd::descriptors::<Probe>(current(), number)
        };
        if fds.is_null() {
            return;
        }
        let sk = fd::sock(fds, number);
        if sk.is_null() {
            debug!(&Anywhere, "accept returned descriptor {}, which is no socket any more", number);
            return;
        }
        emit::<Probe>(hook, sk, |sk| sock::handed_out::<Probe>(sk));
    }
}
