//! Facts that the kernel keeps about loaded programs and their links.

use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_prog_info};

/// `recursion_misses` of a program; `None` when the kernel does not report (before 5.12).
pub(super) fn recursion_misses(fd: RawFd) -> Option<u64> {
    // SAFETY: it has integers alone.
    let (info, length) = unsafe { info::<bpf_prog_info>(fd) }?;
    let reported = offset_of!(bpf_prog_info, recursion_misses) + size_of::<u64>();
    (length >= reported).then_some(info.recursion_misses)
}

/// How often a kprobe or kretprobe did not run at all, because another one was running on the CPU, or because no instance
/// for a return was left (`trace_kprobe_missed`, kernel/trace/trace_kprobe.c); `None` when the kernel does not report
/// (before 6.7).
///
/// `link` must be the id of a link to a kprobe: others share the memory.
pub(super) fn kprobe_misses(link: u32) -> Option<u64> {
    // SAFETY: a union of structs of integers, for which zero is a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_6.__bindgen_anon_1.link_id = link;
    // SAFETY: BPF_LINK_GET_FD_BY_ID reads the id alone.
    let fd = unsafe { bpf(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr) };
    // SAFETY: the kernel made this descriptor just now, for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?) };
    // SAFETY: it has integers alone, also in its unions.
    let (info, length) = unsafe { info::<bpf_link_info>(fd.as_raw_fd()) }?;
    let reported = offset_of!(bpf_link_info, __bindgen_anon_1.perf_event.__bindgen_anon_1.kprobe.missed)
        + size_of::<u64>();
    // SAFETY: every member of the unions is of integers, and all of it was zero before the kernel wrote to it.
    let missed = unsafe { info.__bindgen_anon_1.perf_event.__bindgen_anon_1.kprobe.missed };
    (length >= reported).then_some(missed)
}

/// What BPF_OBJ_GET_INFO_BY_FD reports a program or link, and how much of it this kernel knows, in bytes.
///
/// # Safety
/// All bytes zero, and any others that the kernel may write, must be a value of `T`.
unsafe fn info<T>(fd: RawFd) -> Option<(T, usize)> {
    // SAFETY: the caller answers for it.
    let mut info: T = unsafe { std::mem::zeroed() };
    // SAFETY: a union of structs of integers, for which zero is a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = u32::try_from(fd).ok()?;
    attr.info.info_len = u32::try_from(size_of::<T>()).ok()?;
    attr.info.info = &raw mut info as u64;
    // SAFETY: it writes at most `info_len` bytes to `info`, which outlives the call, and the length that it knows to `attr`.
    let result = unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) };
    // SAFETY: the member that was set above.
    let length = unsafe { attr.info.info_len };
    (result == 0).then_some((info, length as usize))
}

/// The system call.
///
/// # Safety
/// What `attr` points to must be as the command demands.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> libc::c_long {
    // SAFETY: `attr` is valid for reading and writing; the caller answers for the rest.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>()) }
}
