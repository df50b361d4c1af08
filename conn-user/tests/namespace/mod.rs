//! A network namespace for a test.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tests of one process share its descriptors: one at a time. Each has a network namespace of its own, where nobody else
/// makes sockets or fills the table of TIME_WAIT.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: only this test's thread moves.
    let entered = unsafe { enter_new_namespace() };
    assert!(entered, "a network namespace needs root: {}", io::Error::last_os_error());
    alone
}

/// Moves the thread into a new network namespace and brings its loopback up. System calls only.
///
/// # Safety
/// Nothing else of the thread relies on its network namespace.
pub(crate) unsafe fn enter_new_namespace() -> bool {
    // SAFETY: the request is valid for reads and writes.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return false;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let up = libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request) == 0;
        libc::close(socket);
        up
    }
}
