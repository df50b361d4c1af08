//! A private network namespace, with its loopback up.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::sys::{check, socket};

/// Moves this process into a new network namespace and raises its loopback.
pub(crate) fn own_netns() -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("unshare(CLONE_NEWNET)")?;
    let fd = socket(false, false, 0)?;
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is a valid ifreq that outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .context("raise the loopback")?;
    Ok(())
}
