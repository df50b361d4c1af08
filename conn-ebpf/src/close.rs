//! Close: the entry of `tcp_close`, where tuple and counters are intact. The caller dropped the last reference of the
//! file; it need not be the owner.

use core::ffi::c_void;

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use conn_common::hook::HookId;
use conn_common::record::{RecordKind, SockFlags};

use crate::backup::Place;
use crate::mem::{Access, Direct, Probe};
use crate::offsets::OFF_SKC_STATE;
use crate::sock::{self, Key, TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT};
use crate::state::emit_end;

const PLACE: Place = Place::of(HookId::FentryTcpClose);

#[fentry(function = "tcp_close")]
pub(crate) fn fentry_tcp_close(ctx: FEntryContext) -> i32 {
    // SAFETY: void tcp_close(struct sock *sk, long timeout)
    unsafe { close::<Direct>(HookId::FentryTcpClose, ctx.arg(0)) };
    0
}

#[fentry(function = "tcp_close")]
pub(crate) fn fentry_tcp_close_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { close::<Direct>(HookId::FentryTcpCloseBackup, ctx.arg(0)) };
    0
}

#[fentry(function = "tcp_close")]
pub(crate) fn fentry_tcp_close_second_backup(ctx: FEntryContext) -> i32 {
    // SAFETY: as above.
    unsafe { close::<Direct>(HookId::FentryTcpCloseSecondBackup, ctx.arg(0)) };
    0
}

#[kprobe]
pub(crate) fn kprobe_tcp_close(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<*const c_void>(0) {
        // SAFETY: void tcp_close(struct sock *sk, long timeout)
        unsafe { close::<Probe>(HookId::KprobeTcpClose, sk) };
    }
    0
}

#[inline(always)]
unsafe fn close<A: Access + Key>(hook: HookId, sk: *const c_void) {
    // SAFETY: the hook's argument.
    unsafe {
        let state = A::load::<u8>(sk, OFF_SKC_STATE.load());
        // CLOSE: ended before. LISTEN and SYN_SENT: the state tracepoint reports the end.
        if !PLACE.must_report(hook, sk as u64, 0)
            || state == TCP_CLOSE
            || state == TCP_LISTEN
            || state == TCP_SYN_SENT
        {
            return;
        }
        let Some(ours) = sock::ours::<A>(sk, true) else { return };
        emit_end::<A>(
            hook,
            RecordKind::Close,
            ours,
            state,
            state,
            SockFlags::HAS_SOCKET | SockFlags::IN_CLOSE,
        );
    }
}
