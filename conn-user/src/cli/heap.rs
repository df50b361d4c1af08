//! The allocator's settings.

/// Keeps what is freed from staying in the process.
///
/// glibc maps large blocks one by one, and gives them back to the system when they are freed; but each such block
/// raises the size that counts as large, up to 32 MB (mallopt(3), `M_MMAP_THRESHOLD`). After the kernel's BTF and a
/// snapshot the tables would grow between the holes that those left: at 100,000 connections 17 MB of 65.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        /// What counts as large, and how much may be free at the top of the heap.
        const LARGE: libc::c_int = 256 << 10;
        for setting in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
            // SAFETY: no thread but this one runs yet; a value that is refused changes nothing.
            unsafe { libc::mallopt(setting, LARGE) };
        }
    }
}
