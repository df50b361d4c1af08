//! The state tracepoint `inet_sock_set_state`: what processes do, where no function hook reports it, and what the network
//! does, in one program. Its backup program ([`crate::backup`]) reports what the kernel skips when a softirq or another task
//! comes upon the tracepoint while the program runs.

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use conn_common::hook::HookId;
use conn_common::record::{EstablishedRecord, RecordKind, SockEndRecord, SockFlags, SockRecord};

use crate::backup::Place;
use crate::mem::{Access as _, Direct};
use crate::offsets::{ASK_COOKIE_EARLY, STATE_REPORTS_ALL, STATE_REPORTS_LISTEN};
use crate::ring::reserve;
use crate::sock::{
    self, IPPROTO_MPTCP, Key, Ours, TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_LISTEN,
    TCP_SYN_RECV, TCP_SYN_SENT,
};
use crate::task;

const PLACE: Place = Place::of(HookId::State);

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state(ctx: BtfTracePointContext) -> i32 {
    changes(HookId::State, &ctx);
    0
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_backup(ctx: BtfTracePointContext) -> i32 {
    changes(HookId::StateBackup, &ctx);
    0
}

/// See [`crate::backup`].
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_second_backup(ctx: BtfTracePointContext) -> i32 {
    changes(HookId::StateSecondBackup, &ctx);
    0
}

#[inline(always)]
fn changes(hook: HookId, ctx: &BtfTracePointContext) {
    let sk: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    if !PLACE.must_report(hook, sk as u64, old << 4 | new & 15) {
        return;
    }
    // SAFETY: the tracepoint's argument is a `struct sock`, typed by BTF.
    unsafe {
        match (old, new) {
            (TCP_CLOSE, TCP_SYN_SENT) => {
                begins(hook, sk, old, new, RecordKind::Connect, STATE_REPORTS_ALL.load());
            }
            (TCP_CLOSE, TCP_LISTEN) => {
                begins(hook, sk, old, new, RecordKind::Listen, STATE_REPORTS_LISTEN.load());
            }
            (TCP_LISTEN, TCP_CLOSE) => {
                if let Some(ours) = sock::ours::<Direct>(sk, false) {
                    emit_sock::<Direct>(hook, RecordKind::Unlisten, ours, old, new, 0);
                }
            }
            (_, TCP_ESTABLISHED) => establishes(hook, sk, old, new),
            (TCP_SYN_SENT, TCP_CLOSE) => ends(hook, sk, old, new),
            (TCP_CLOSE | TCP_LISTEN | TCP_SYN_SENT, _) => {}
            _ => {
                let reported = closes(hook, sk, old, new);
                if !reported && new == TCP_CLOSE {
                    ends(hook, sk, old, new);
                }
            }
        }
    }
}

/// A handshake completes.
#[inline(always)]
unsafe fn establishes(hook: HookId, sk: *const c_void, old: u8, new: u8) {
    // SAFETY: the caller's `sk`; the reserved record is valid for writes.
    unsafe {
        if let Some(ours) = sock::ours::<Direct>(sk, false)
            && let Some((header, mut entry)) = reserve::<EstablishedRecord>(hook, RecordKind::Established)
        {
            let record = entry.as_mut_ptr();
            (*record).header = header;
            sock::fill::<Direct>(&raw mut (*record).sock, ours, &Direct::common(sk), (old, new), 0, false);
            entry.submit(0);
        }
    }
}

/// A connect or a listen begins; function hooks report it later, with the port.
#[inline(always)]
unsafe fn begins(hook: HookId, sk: *const c_void, old: u8, new: u8, kind: RecordKind, reports: u32) {
    // SAFETY: the caller's `sk`.
    unsafe {
        let mptcp = sock::protocol::<Direct>(sk) == IPPROTO_MPTCP;
        if reports == 0 && !mptcp {
            if ASK_COOKIE_EARLY.load() != 0 {
                // A kprobe can only read the cookie; asking makes it.
                let _ = Direct::key(sk, &Direct::common(sk));
            }
            return;
        }
        if let Some(ours) = sock::ours::<Direct>(sk, false) {
            emit_sock::<Direct>(hook, kind, ours, old, new, SockFlags::PORT_PENDING);
        }
    }
}

/// A transition that a close makes, where no function hook reports it: without function hooks, and for MPTCP, for which
/// `tcp_close` never runs (`mptcp_close`). Whether it was one.
///
/// A close goes to FIN_WAIT1, LAST_ACK or CLOSE, or from a state to itself (`tcp_close_state`, `__tcp_close`,
/// `mptcp_close_state`). Segments that came while it held the lock are processed within it, too (`__release_sock`): their
/// transitions are other ones, or come after the close was reported.
#[inline(always)]
unsafe fn closes(hook: HookId, sk: *const c_void, old: u8, new: u8) -> bool {
    // SAFETY: the caller's `sk`.
    unsafe {
        if STATE_REPORTS_ALL.load() == 0 && sock::protocol::<Direct>(sk) != IPPROTO_MPTCP {
            return false;
        }
        if old != new && new != TCP_FIN_WAIT1 && new != TCP_LAST_ACK && new != TCP_CLOSE {
            return false;
        }
        let holder = sock::holder::<Direct>(sk);
        if holder & SockFlags::IN_CLOSE == 0 {
            return false;
        }
        if let Some(ours) = sock::ours::<Direct>(sk, true) {
            emit_end::<Direct>(hook, RecordKind::Close, ours, old, new, holder);
        }
        true
    }
}

/// A connection reaches CLOSE. What a close reported already, and what only ends its orphan, is not reported again.
#[inline(always)]
unsafe fn ends(hook: HookId, sk: *const c_void, old: u8, new: u8) {
    // SAFETY: the caller's `sk`.
    unsafe {
        let holder = sock::holder::<Direct>(sk);
        let reported = if old == TCP_SYN_SENT {
            false
        } else if holder & SockFlags::HAS_SOCKET != 0 {
            // Inside a close: its record is the end. The death of the file is not enough: a dying task gives up all files
            // before it releases the first one, and what the network ends in between has no other record.
            holder & SockFlags::IN_CLOSE != 0
        } else {
            // Without a socket: an orphan of a close (shut 3), a handshake that never completed, or a connection
            // that nobody accepted.
            old == TCP_SYN_RECV || sock::shutdown::<Direct>(sk) == 3
        };
        if !reported && let Some(ours) = sock::ours::<Direct>(sk, true) {
            emit_end::<Direct>(hook, RecordKind::End, ours, old, new, holder);
        }
    }
}

/// Writes a [`SockRecord`].
///
/// # Safety
/// `ours` was found with this access.
#[inline(always)]
pub(crate) unsafe fn emit_sock<A: crate::mem::Access + Key>(
    hook: HookId,
    kind: RecordKind,
    ours: Ours,
    old: u8,
    new: u8,
    flags: u16,
) {
    // SAFETY: the caller's socket.
    unsafe { emit_common::<A>(hook, kind, ours, &A::common(ours.sk), (old, new), flags) };
}

/// Writes a [`SockRecord`] of a socket whose beginning is read.
///
/// # Safety
/// `ours` was found with this access, `common` is its beginning.
#[inline(always)]
pub(crate) unsafe fn emit_common<A: crate::mem::Access + Key>(
    hook: HookId,
    kind: RecordKind,
    ours: Ours,
    common: &A::Common,
    (old, new): (u8, u8),
    flags: u16,
) {
    if let Some((header, mut entry)) = reserve::<SockRecord>(hook, kind) {
        let record = entry.as_mut_ptr();
        // SAFETY: the reserved record is valid for writes; the socket per the contract.
        unsafe {
            (*record).header = header;
            task::fill_current(&raw mut (*record).task);
            sock::fill::<A>(&raw mut (*record).sock, ours, common, (old, new), flags, false);
            if flags & SockFlags::PORT_PENDING != 0 {
                (*record).sock.inode = sock::inode::<A>(ours.sk);
            }
            if matches!(kind, RecordKind::Listen) {
                (*record).sock.flags |= sock::v6only::<A>(common);
            }
        }
        entry.submit(0);
    }
}

/// Writes a [`SockEndRecord`].
///
/// # Safety
/// `ours` was found with this access and with counters.
#[inline(always)]
pub(crate) unsafe fn emit_end<A: crate::mem::Access + Key>(
    hook: HookId,
    kind: RecordKind,
    ours: Ours,
    old: u8,
    new: u8,
    flags: u16,
) {
    if let Some((header, mut entry)) = reserve::<SockEndRecord>(hook, kind) {
        let record = entry.as_mut_ptr();
        // SAFETY: the reserved record is valid for writes; the socket per the contract.
        unsafe {
            (*record).header = header;
            let received = sock::fill_counters::<A>(&raw mut (*record).counters, ours);
            task::fill_current(&raw mut (*record).task);
            sock::fill::<A>(&raw mut (*record).sock, ours, &A::common(ours.sk), (old, new), flags, true);
            (*record).sock.flags |= sock::settle_fin::<A>(&raw mut (*record).counters, ours, received);
        }
        entry.submit(0);
    }
}
