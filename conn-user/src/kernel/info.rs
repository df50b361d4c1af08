//! Facts that the kernel keeps about a loaded program.

use std::mem::size_of;
use std::os::fd::RawFd;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

/// `recursion_misses` of a program; `None` when the kernel does not tell.
pub(super) fn recursion_misses(fd: RawFd) -> Option<u64> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    // SAFETY: as above; a union of such structs.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = u32::try_from(fd).ok()?;
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).ok()?;
    attr.info.info = &raw mut info as u64;
    // SAFETY: BPF_OBJ_GET_INFO_BY_FD writes at most `info_len` bytes to `info`; both outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<bpf_attr>())
    };
    (result == 0).then_some(info.recursion_misses)
}
