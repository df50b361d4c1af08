//! Memory that is shared with the kernel.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// A memory map that is unmapped on drop.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it hands out an address and nothing else; what is done with that has to be sound there.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference, too, gives the address and nothing else.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a BPF map from `offset`, shared with the kernel.
    ///
    /// # Errors
    /// When the kernel refuses length, offset or protection.
    pub(super) fn new(fd: RawFd, len: usize, offset: usize, protection: i32) -> io::Result<Self> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a fresh shared mapping of a map's file; the kernel checks length, offset and protection.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    /// The first byte.
    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range that `new` mapped, not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
