//! The state tracepoint `inet_sock_set_state`, in two programs.
//!
//! Two, because the kernel skips a program that is already running on the CPU (`__bpf_trace_run`): a softirq that
//! interrupts the program in a process's context would lose its transition. What the network drives is therefore told
//! by another program than what processes do.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use conn_common::hook::HookId;
use conn_common::record::{EstablishedRecord, RecordKind, SockEndRecord, SockFlags, SockRecord};

use crate::mem::{Access as _, Direct};
use crate::offsets::{ASK_COOKIE_EARLY, STATE_TELLS_ALL, STATE_TELLS_LISTEN};
use crate::ring::reserve;
use crate::sock::{
    self, IPPROTO_MPTCP, Key, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use crate::task;
use crate::understudy::Pair;

const ACTOR: Pair = Pair::new(HookId::StateActor, HookId::StateActorUnderstudy);
const NET: Pair = Pair::new(HookId::StateNet, HookId::StateNetUnderstudy);

/// Transitions whose `current` is the actor: a connect or a listen begins, a listener ends, a close.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_actor(ctx: BtfTracePointContext) -> i32 {
    actor(HookId::StateActor, &ctx);
    0
}

/// See [`crate::understudy`].
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_actor_understudy(ctx: BtfTracePointContext) -> i32 {
    actor(HookId::StateActorUnderstudy, &ctx);
    0
}

#[inline(always)]
fn actor(hook: HookId, ctx: &BtfTracePointContext) {
    let sk: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    // SAFETY: the tracepoint's argument is a `struct sock`, typed by BTF.
    unsafe {
        match (old, new) {
            (TCP_CLOSE, TCP_SYN_SENT) => {
                begins(hook, sk, old, new, RecordKind::Connect, STATE_TELLS_ALL.load());
            }
            (TCP_CLOSE, TCP_LISTEN) => {
                begins(hook, sk, old, new, RecordKind::Listen, STATE_TELLS_LISTEN.load());
            }
            (TCP_LISTEN, TCP_CLOSE) => {
                if ACTOR.is_to_tell(hook, sk) && sock::is_ours::<Direct>(sk) {
                    emit_sock::<Direct>(hook, RecordKind::Unlisten, sk, old, new, 0);
                }
            }
            (TCP_CLOSE | TCP_LISTEN | TCP_SYN_SENT, _) => {}
            _ => closes(hook, sk, old, new),
        }
    }
}

/// A connect or a listen begins; function hooks tell it later, with the port.
#[inline(always)]
unsafe fn begins(hook: HookId, sk: *const c_void, old: u8, new: u8, kind: RecordKind, tells: u32) {
    // SAFETY: the caller's `sk`.
    unsafe {
        let mptcp = sock::protocol::<Direct>(sk) == IPPROTO_MPTCP;
        if tells == 0 && !mptcp {
            if ASK_COOKIE_EARLY.load() != 0 {
                // A kprobe can only read the cookie; asking makes it.
                let _ = Direct::key(sk, &Direct::common(sk));
            }
            return;
        }
        if ACTOR.is_to_tell(hook, sk) && sock::is_ours::<Direct>(sk) {
            emit_sock::<Direct>(hook, kind, sk, old, new, SockFlags::PORT_PENDING);
        }
    }
}

/// A transition inside the close of the socket's file, where no function hook tells it: without function hooks, and
/// for MPTCP, for which `tcp_close` never runs (`mptcp_close`).
#[inline(always)]
unsafe fn closes(hook: HookId, sk: *const c_void, old: u8, new: u8) {
    // SAFETY: the caller's `sk`.
    unsafe {
        if STATE_TELLS_ALL.load() == 0 && sock::protocol::<Direct>(sk) != IPPROTO_MPTCP {
            return;
        }
        let holder = sock::holder::<Direct>(sk);
        if holder & SockFlags::FILE_DEAD == 0 || !ACTOR.is_to_tell(hook, sk) || !sock::is_ours::<Direct>(sk) {
            return;
        }
        emit_end::<Direct>(hook, RecordKind::Close, sk, old, new, holder);
    }
}

/// Transitions that the network drives: a handshake completes, a connection ends without a close.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_net(ctx: BtfTracePointContext) -> i32 {
    net(HookId::StateNet, &ctx);
    0
}

/// See [`crate::understudy`].
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_net_understudy(ctx: BtfTracePointContext) -> i32 {
    net(HookId::StateNetUnderstudy, &ctx);
    0
}

#[inline(always)]
fn net(hook: HookId, ctx: &BtfTracePointContext) {
    let sk: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    // SAFETY: the tracepoint's argument is a `struct sock`, typed by BTF.
    unsafe {
        if new == TCP_ESTABLISHED {
            if NET.is_to_tell(hook, sk)
                && sock::is_ours::<Direct>(sk)
                && let Some((header, mut entry)) = reserve::<EstablishedRecord>(hook, RecordKind::Established)
            {
                let record = entry.as_mut_ptr();
                (*record).header = header;
                sock::fill::<Direct>(&raw mut (*record).sock, sk, old, new, 0);
                entry.submit(0);
            }
        } else if new == TCP_CLOSE && old != TCP_CLOSE && old != TCP_LISTEN {
            ends(hook, sk, old, new);
        }
    }
}

/// A connection reaches CLOSE. What a close told already, and what only ends its orphan, is not told again.
#[inline(always)]
unsafe fn ends(hook: HookId, sk: *const c_void, old: u8, new: u8) {
    // SAFETY: the caller's `sk`.
    unsafe {
        let holder = sock::holder::<Direct>(sk);
        let told = if old == TCP_SYN_SENT {
            false
        } else if holder & SockFlags::HAS_SOCKET != 0 {
            // Inside a close: its record is the end.
            holder & SockFlags::FILE_DEAD != 0
        } else {
            // Without a socket: an orphan of a close (shut 3), a handshake that never completed, or a connection
            // that nobody accepted.
            old == TCP_SYN_RECV || sock::shutdown::<Direct>(sk) == 3
        };
        if !told && NET.is_to_tell(hook, sk) && sock::is_ours::<Direct>(sk) {
            emit_end::<Direct>(hook, RecordKind::End, sk, old, new, holder);
        }
    }
}

/// Writes a [`SockRecord`].
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn emit_sock<A: crate::mem::Access + Key>(
    hook: HookId,
    kind: RecordKind,
    sk: *const c_void,
    old: u8,
    new: u8,
    flags: u16,
) {
    if let Some((header, mut entry)) = reserve::<SockRecord>(hook, kind) {
        let record = entry.as_mut_ptr();
        // SAFETY: the reserved record is valid for writes; `sk` per the contract.
        unsafe {
            (*record).header = header;
            task::fill_current(&raw mut (*record).task);
            sock::fill::<A>(&raw mut (*record).sock, sk, old, new, flags);
            if flags & SockFlags::PORT_PENDING != 0 {
                (*record).sock.inode = sock::inode::<A>(sk);
            }
        }
        entry.submit(0);
    }
}

/// Writes a [`SockEndRecord`].
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn emit_end<A: crate::mem::Access + Key>(
    hook: HookId,
    kind: RecordKind,
    sk: *const c_void,
    old: u8,
    new: u8,
    flags: u16,
) {
    if let Some((header, mut entry)) = reserve::<SockEndRecord>(hook, kind) {
        let record = entry.as_mut_ptr();
        // SAFETY: the reserved record is valid for writes; `sk` per the contract.
        unsafe {
            (*record).header = header;
            task::fill_current(&raw mut (*record).task);
            let flags = flags | sock::fill_counters::<A>(&raw mut (*record).counters, sk);
            sock::fill::<A>(&raw mut (*record).sock, sk, old, new, flags);
        }
        entry.submit(0);
    }
}
