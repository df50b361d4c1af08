//! Classic tracepoints: their numbers, which only tracefs reports, and the perf event that runs a program at one.
//!
//! Where nobody mounted tracefs, the agent makes a mount of its own that is attached nowhere (`fsopen`, `fsmount`,
//! 5.2 on): nothing on the machine changes.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;

use thiserror::Error;

/// Where tracefs is mounted by convention.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why a classic tracepoint cannot be used.
#[derive(Debug, Error)]
pub enum TracepointError {
    /// tracefs is mounted nowhere and cannot be mounted.
    #[error("tracefs is not mounted at /sys/kernel/tracing and cannot be: {step}: {source}")]
    Mount {
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tracepoint's number cannot be read.
    #[error("reading events/{category}/{name}/id in tracefs: {source}")]
    Id {
        /// Category of the tracepoint.
        category: &'static str,
        /// Name of the tracepoint.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The perf event was refused.
    #[error("{step} for the tracepoint: {source}")]
    Perf {
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The number of a tracepoint, as `perf_event_open` wants it.
///
/// # Errors
/// When tracefs is not to be had or has no such tracepoint.
pub fn tracepoint_id(category: &'static str, name: &'static str) -> Result<u64, TracepointError> {
    let file = format!("events/{category}/{name}/id");
    let id_error = |source| TracepointError::Id { category, name, source };
    for mount in MOUNTS {
        match std::fs::read_to_string(PathBuf::from(mount).join(&file)) {
            Ok(text) => return parse_id(&text).map_err(id_error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(id_error(error)),
        }
    }
    let mount = detached_mount()?;
    let path = std::ffi::CString::new(file).map_err(|error| id_error(error.into()))?;
    // SAFETY: a valid descriptor and a NUL-terminated path.
    let fd = unsafe { libc::openat(mount.as_raw_fd(), path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let fd = owned(i64::from(fd)).map_err(id_error)?;
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).map_err(id_error)?;
    parse_id(&text).map_err(id_error)
}

fn parse_id(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(io::Error::other)
}

/// A mount of tracefs that only this descriptor reaches.
fn detached_mount() -> Result<OwnedFd, TracepointError> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const NAME: &CStr = c"tracefs";
    let fail = |step| move |source| TracepointError::Mount { step, source };
    // SAFETY: a NUL-terminated name.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, NAME.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context).map_err(fail("fsopen"))?;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: the command takes no key and no value.
    let made =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) };
    if made != 0 {
        return Err(fail("fsconfig")(io::Error::last_os_error()));
    }
    // SAFETY: a configured context.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    owned(mount).map_err(fail("fsmount"))
}

/// Takes the descriptor that a system call returned.
fn owned(result: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a loaded program at a tracepoint, on every CPU, until the result is dropped.
///
/// # Errors
/// When the tracepoint is not to be had or the perf event is refused.
pub fn attach(
    program: BorrowedFd<'_>,
    category: &'static str,
    name: &'static str,
) -> Result<OwnedFd, TracepointError> {
    use aya_obj::generated::{perf_event_attr, perf_type_id};
    let fail = |step| move |source| TracepointError::Perf { step, source };
    // SAFETY: a struct of integers, for which zero is a value.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(0);
    attr.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attr.config = tracepoint_id(category, name)?;
    // One event stands for all CPUs: the program hangs on the tracepoint, not on the event (perf_event_attach_bpf_prog).
    let (pid, cpu, group, flags) = (-1, 0, -1, PERF_FLAG_FD_CLOEXEC);
    // SAFETY: `attr` is initialised and outlives the call.
    let event = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, cpu, group, flags) };
    let event = owned(event).map_err(fail("perf_event_open"))?;
    for (step, request, argument) in [
        ("PERF_EVENT_IOC_SET_BPF", PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        ("PERF_EVENT_IOC_ENABLE", PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } != 0 {
            return Err(fail(step)(io::Error::last_os_error()));
        }
    }
    Ok(event)
}

/// include/uapi/linux/perf_event.h.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// `_IO('$', 0)` (include/uapi/linux/perf_event.h).
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
/// `_IOW('$', 8, __u32)` (include/uapi/linux/perf_event.h).
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
