//! Read-only globals: offsets of kernel members and switches, set by the agent before loading.

use aya_ebpf::Global;
use conn_common::config::OFFSET_NONE;

macro_rules! globals {
    ($(($global:ident, $container:literal, $path:literal, $size:expr, $need:ident);)*) => {
        $(
            #[doc = concat!("Offset of `", $container, ".", $path, "`.")]
            #[unsafe(no_mangle)]
            pub(crate) static $global: Global<u32> = Global::new(OFFSET_NONE);
        )*
    };
}

conn_common::for_each_offset!(globals);

/// 1: `bpf_get_socket_cookie` may be called from tracing programs (5.12 on).
#[unsafe(no_mangle)]
pub(crate) static COOKIE_HELPER: Global<u32> = Global::new(0);

/// 1: `bpf_get_current_task_btf` may be called (5.11 on).
#[unsafe(no_mangle)]
pub(crate) static CURRENT_TASK_TYPED: Global<u32> = Global::new(0);

/// 1: there are no function hooks; the state tracepoint reports connect and close too.
#[unsafe(no_mangle)]
pub(crate) static STATE_REPORTS_ALL: Global<u32> = Global::new(0);

/// 1: kprobes will read the cookie of a socket, so the state tracepoint asks for it first.
#[unsafe(no_mangle)]
pub(crate) static ASK_COOKIE_EARLY: Global<u32> = Global::new(0);

/// 1: no hook reports listeners either; the state tracepoint does, without the port of an automatic bind.
#[unsafe(no_mangle)]
pub(crate) static STATE_REPORTS_LISTEN: Global<u32> = Global::new(0);

/// 1: places have a second backup program.
#[unsafe(no_mangle)]
pub(crate) static SECOND_BACKUPS: Global<u32> = Global::new(0);
