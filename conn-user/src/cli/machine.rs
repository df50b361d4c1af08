//! What names this machine, this boot and this run.

use anyhow::Context as _;

use crate::clock;
use crate::event::json::StreamIdentity;
use crate::units::NetNs;

/// What names them in every JSON line.
///
/// # Errors
/// When /proc does not say.
pub(super) fn identity() -> anyhow::Result<StreamIdentity> {
    let read = |path: &str| -> anyhow::Result<String> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        Ok(text.trim().to_owned())
    };
    Ok(StreamIdentity {
        host: read("/proc/sys/kernel/hostname")?,
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        agent_start: clock::boot_now(),
    })
}

/// Our own network namespace: the one that needs no mention.
pub(super) fn own_netns() -> Option<NetNs> {
    use std::os::linux::fs::MetadataExt as _;
    let inode = std::fs::metadata("/proc/self/ns/net").ok()?.st_ino();
    u32::try_from(inode).ok().map(NetNs)
}

/// Columns of the terminal on standard output; `None`: it is none.
pub(super) fn terminal_width() -> Option<usize> {
    width_of(libc::STDOUT_FILENO)
}

/// Columns of the terminal on standard error; `None`: it is none.
pub(super) fn message_width() -> Option<usize> {
    width_of(libc::STDERR_FILENO)
}

fn width_of(descriptor: libc::c_int) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a `winsize`.
    let result = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
