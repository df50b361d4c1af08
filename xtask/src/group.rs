//! Child processes that never outlive us: each leads a process group, which is killed at its end, at ours and when a
//! signal ends us.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// How long between two looks at whether a child has ended.
const TICK: Duration = Duration::from_millis(20);

/// The groups that are to be killed when a signal ends us; 0: free.
static GROUPS: [AtomicI32; 32] = [const { AtomicI32::new(0) }; 32];

/// The signals that end us.
const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Kills the groups before a signal ends us. Handlers are reset by exec, so children are not concerned.
pub(crate) fn end_on_signals() {
    for signal in SIGNALS {
        // SAFETY: all bytes zero is a valid sigaction: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` is a valid place for what is in force now.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        if action.sa_sigaction == libc::SIG_IGN {
            // E.g. under nohup.
            continue;
        }
        action.sa_sigaction = on_signal as *const () as usize;
        // SAFETY: `action` is valid, and the handler makes only calls that signal-safety(7) allows.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

extern "C" fn on_signal(signal: i32) {
    for group in &GROUPS {
        kill(group.load(Ordering::SeqCst));
    }
    // SAFETY: both take plain numbers and are async-signal-safe. The signal then ends us as it would have.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Kills a group; nothing for 0.
fn kill(group: i32) {
    if group > 0 {
        // SAFETY: plain numbers. The group's leader has not been waited for, so its id belongs to nobody else.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// A running child and its group.
pub(crate) struct Group {
    child: Child,
    /// Its place in [`GROUPS`]; absent once it has been waited for.
    slot: Option<&'static AtomicI32>,
}

impl Group {
    /// Starts a command as the leader of a group of its own. The calling thread has to live as long as the child.
    ///
    /// # Errors
    /// When it cannot be started, or there are too many.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let arm = || {
            // SAFETY: this option takes plain numbers only. It asks for the death of the calling thread's process when
            // the thread that forked dies (kernel: `reparent_leader`), SIGKILL included.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec the closure makes one system call and neither allocates nor locks.
        unsafe { command.pre_exec(arm) };
        let child = command.process_group(0).spawn()?;
        let id = child.id().cast_signed();
        let slot = GROUPS
            .iter()
            .find(|slot| slot.compare_exchange(0, id, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        let group = Self { child, slot };
        if group.slot.is_none() {
            kill(id);
            return Err(io::Error::other("too many children"));
        }
        Ok(group)
    }

    /// Waits until the child has ended, then kills what is left of its group. Nothing when it has not ended after `limit`
    /// or `stop` said so before: then everything is killed.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn wait(mut self, limit: Duration, stop: impl Fn() -> bool) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if self.has_ended()? {
                return self.reap().map(Some);
            }
            if Instant::now() >= end || stop() {
                self.reap()?;
                return Ok(None);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Whether the child has ended; it stays a zombie, so that its id stays its own.
    fn has_ended(&self) -> io::Result<bool> {
        // SAFETY: all bytes zero is a valid siginfo, which waitid then fills.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is a valid place for the answer.
        match unsafe { libc::waitid(libc::P_PID, self.child.id(), &raw mut info, options) } {
            // SAFETY: waitid has filled it, or left it zero when there is nothing to report.
            0 => Ok(unsafe { info.si_pid() } != 0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        if self.slot.is_some() {
            kill(self.child.id().cast_signed());
        }
        let status = self.child.wait()?;
        if let Some(slot) = self.slot.take() {
            slot.store(0, Ordering::SeqCst);
        }
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Does nothing when it has been waited for.
        let _ = self.reap();
    }
}

/// How a program ended, if not well: "ended with exit status: 3", "killed by signal 11".
pub(crate) fn complaint(status: ExitStatus) -> Option<String> {
    match (status.success(), status.signal()) {
        (true, _) => None,
        (false, Some(signal)) => Some(format!("killed by signal {signal}")),
        (false, None) => Some(format!("ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_alive(pid: i32) -> bool {
        // SAFETY: signal 0 asks only whether the process is there.
        unsafe { libc::kill(pid, 0) == 0 }
    }

    /// A child that leaves a process behind, whose id is in the file.
    fn leaving(then: &str) -> (Command, std::path::PathBuf) {
        static NUMBER: AtomicI32 = AtomicI32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("xtask-group-{}-{number}", std::process::id()));
        (sh(&format!("sleep 600 & echo $! > {}; {then}", file.display())), file)
    }

    fn left(file: &std::path::Path) -> i32 {
        let pid = std::fs::read_to_string(file).expect("written").trim().parse().expect("a pid");
        std::fs::remove_file(file).expect("removed");
        // Killed, it is still there until whoever inherited it has waited for it.
        let end = Instant::now() + Duration::from_secs(10);
        let state = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while is_alive(pid) && !state(pid).contains(") Z ") && Instant::now() < end {
            std::thread::sleep(TICK);
        }
        if is_alive(pid) && !state(pid).contains(") Z ") { pid } else { 0 }
    }

    #[test]
    fn what_a_child_leaves_behind_is_killed() {
        let (mut command, file) = leaving("exit 3");
        let group = Group::spawn(&mut command).expect("started");
        let status = group.wait(Duration::from_mins(1), || false).expect("waited").expect("it ended");
        assert_eq!(status.code(), Some(3));
        assert_eq!(complaint(status).as_deref(), Some("ended with exit status: 3"));
        assert_eq!(left(&file), 0, "still alive");
    }

    #[test]
    fn a_child_that_does_not_end_is_killed_with_its_children() {
        let (mut command, file) = leaving("echo; wait");
        let group = Group::spawn(&mut command).expect("started");
        let ended = group
            .wait(Duration::from_mins(1), || std::fs::read_to_string(&file).is_ok_and(|t| t.ends_with('\n')));
        assert_eq!(ended.expect("waited"), None);
        assert_eq!(left(&file), 0, "still alive");
    }

    #[test]
    fn a_dropped_child_is_killed() {
        let group = Group::spawn(&mut sh("sleep 600")).expect("started");
        let pid = group.child.id().cast_signed();
        drop(group);
        assert!(!is_alive(pid), "still alive");
    }
}
