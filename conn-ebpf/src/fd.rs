//! From a descriptor to its socket.

use core::ffi::c_void;

use crate::mem::{Access, Probe};
use crate::offsets::{
    OFF_FDTABLE_FD, OFF_FDTABLE_MAX_FDS, OFF_FILE_PRIVATE_DATA, OFF_FILES_FDT, OFF_TASK_FILES,
};
use crate::sock;

/// The array of a task's descriptors; null where this one is not in it.
///
/// # Safety
/// `task` is a `struct task_struct` for this access.
#[inline(always)]
pub(crate) unsafe fn descriptors<A: Access>(task: *const c_void, fd: u64) -> *const c_void {
    // SAFETY: per the contract.
    unsafe {
        let files = A::pointer(task, OFF_TASK_FILES.load());
        if files.is_null() {
            return core::ptr::null();
        }
        let table = A::pointer(files, OFF_FILES_FDT.load());
        if table.is_null() || fd >= u64::from(A::load::<u32>(table, OFF_FDTABLE_MAX_FDS.load())) {
            return core::ptr::null();
        }
        A::pointer(table, OFF_FDTABLE_FD.load())
    }
}

/// The `struct sock` of a descriptor in such an array, for reads by the helper; null where it is no socket's. The back
/// pointer from the socket to its file proves that it is one.
///
/// # Safety
/// None: the helper faults safely.
#[inline(always)]
pub(crate) unsafe fn sock(fds: *const c_void, fd: u64) -> *const c_void {
    // SAFETY: the helper faults safely.
    unsafe {
        let file = Probe::pointer(fds.byte_add(fd as usize * 8), 0);
        let socket = Probe::pointer(file, OFF_FILE_PRIVATE_DATA.load());
        let (back, sk) = sock::file_and_sk(socket);
        if socket.is_null() || back != file { core::ptr::null() } else { sk }
    }
}
