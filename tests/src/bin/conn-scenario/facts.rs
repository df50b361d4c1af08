//! Reports the ground truth: one line, one `write`, so that lines of several processes never mix.

use std::io;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use conn_tests::truth::{Line, ProcessFact};

use crate::sys::{boot_ns, boot_shift_s, check};

/// Writes one line to standard output. Pipes take up to 4096 bytes at once (`PIPE_BUF`), which no line exceeds.
pub(crate) fn emit(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line).context("ground truth as JSON")?;
    text.push(b'\n');
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        // SAFETY: `rest` is readable for its length.
        let written = unsafe { libc::write(1, rest.as_ptr().cast(), rest.len()) };
        let written = usize::try_from(written)
            .map_err(|_| io::Error::last_os_error())
            .context("write the ground truth")?;
        rest = &rest[written..];
    }
    Ok(())
}

/// This process as it is now.
pub(crate) fn me() -> Result<ProcessFact> {
    let cmdline = std::fs::read("/proc/self/cmdline").context("read /proc/self/cmdline")?;
    let mut args: Vec<Vec<u8>> = cmdline.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
    args.pop();
    let exe = std::fs::read_link("/proc/self/exe").context("read /proc/self/exe")?;
    let comm = std::fs::read_to_string("/proc/self/comm").context("read /proc/self/comm")?;
    let (uid, gid) = ids();
    Ok(ProcessFact {
        pid: std::process::id(),
        ppid: Some(std::os::unix::process::parent_id()),
        comm: comm.trim_end_matches('\n').to_owned(),
        exe: String::from_utf8_lossy(exe.as_os_str().as_bytes()).into_owned(),
        args,
        uid,
        gid,
        start_ticks: Some(start_ticks(std::process::id())?),
        from_ns: boot_ns(),
    })
}

/// Reports that this process takes part.
pub(crate) fn emit_me() -> Result<()> {
    emit(&Line::Process(me()?))
}

fn ids() -> (u32, u32) {
    // SAFETY: these calls have no arguments and cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Field 22 of /proc/PID/stat, as it reads outside of any time namespace.
pub(crate) fn start_ticks(pid: u32) -> Result<u64> {
    let ticks: u64 = stat_field(pid, 22)?.parse().context("start time of a process")?;
    // Before 5.11 /proc does not shift it. Shifted by more than its age, it seems to start in the future.
    let shifted = ticks > boot_ns() / 10_000_000;
    Ok(if shifted { ticks.saturating_sub(boot_shift_s() * 100) } else { ticks })
}

/// A field of /proc/PID/stat, from 3 on. The name in field 2 may hold anything, so count from the last parenthesis.
pub(crate) fn stat_field(pid: u32, number: usize) -> Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc/PID/stat")?;
    let rest = stat.rsplit_once(')').context("/proc/PID/stat has no name")?.1;
    rest.split_whitespace().nth(number - 3).map(str::to_owned).context("/proc/PID/stat is short")
}

/// The inode of this thread's network namespace.
pub(crate) fn netns() -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/thread-self/ns/net").context("read /proc/thread-self/ns/net")?.ino())
}

/// Waits for a child and wants it to have succeeded (or to have been killed by `signal`).
pub(crate) fn reap(pid: u32, signal: Option<i32>) -> Result<()> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let result = unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
    check(result).context("waitpid")?;
    let good = match signal {
        None => libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        Some(signal) => libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal,
    };
    anyhow::ensure!(good, "child {pid} ended with wait status {status:#x}");
    Ok(())
}
