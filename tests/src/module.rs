//! Kernel modules.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Kernel: include/uapi/linux/module.h, `MODULE_INIT_COMPRESSED_FILE` (5.17 and later).
const COMPRESSED: libc::c_int = 4;

/// Loads the module of this file, which may be compressed if its name does not end in `.ko`.
///
/// # Errors
/// When the file cannot be read or the kernel refuses it (`EEXIST`: it has it already).
pub fn load(file: &Path) -> io::Result<()> {
    let content = File::open(file)?;
    let flags = if file.extension().is_some_and(|ending| ending == "ko") { 0 } else { COMPRESSED };
    let no_parameters = c"".as_ptr();
    // SAFETY: the descriptor is open and the string is NUL-terminated.
    match unsafe { libc::syscall(libc::SYS_finit_module, content.as_raw_fd(), no_parameters, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unloads a module that nobody uses.
///
/// # Errors
/// When the kernel refuses.
pub fn unload(name: &CStr) -> io::Result<()> {
    // SAFETY: the string is NUL-terminated.
    match unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
