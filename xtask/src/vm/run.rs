//! One run of a guest.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::guest::{Job, Programs};
use super::kernels::Kernel;
use super::qemu::Qemu;
use super::verdict::{Ending, Report};
use crate::workspace;

/// Memory of a guest. The initramfs lies in it twice for a moment.
const MEMORY_MB: u32 = 1024;
/// Time for booting, besides the runs' own time.
const BOOT: Duration = Duration::from_mins(1);

/// The command line of the guest's kernel. A panic must reboot, which QEMU turns into its end; warnings must reach the
/// console. Under emulation on a busy host a processor can stand still for long without any fault of the kernel: hence
/// no watchdog, patience with RCU, and no check of the timer at boot (kernel: arch/x86/kernel/apic/io_apic.c,
/// check_timer), which panics when too few ticks come in too little time. What only hardens costs an emulated processor more
/// than anything else, and half of the tests' time: mitigations of processor flaws, pages zeroed when they are allocated,
/// checks of copies.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 loglevel=5 nowatchdog no_timer_check rcupdate.rcu_cpu_stall_timeout=200 \
     mitigations=off init_on_alloc=0 hardened_usercopy=off audit=0";

/// A guest's report and where its logs are.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) console: PathBuf,
    pub(crate) results: PathBuf,
    pub(crate) took: Duration,
}

/// Boots a kernel, lets it do the job and judges.
///
/// # Errors
/// When the guest cannot be started; a guest that misbehaves is a report with troubles.
pub(crate) fn run(qemu: &Qemu, kernel: &Kernel, programs: &Programs, job: &Job) -> Result<Outcome> {
    let dir = workspace::target().join("vm/logs");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = |ending: &str| dir.join(format!("{}.{ending}", kernel.name));
    let (initramfs, console, results) = (file("cpio"), file("console.log"), file("results.log"));
    programs.write_initramfs(&initramfs, kernel, job)?;
    for log in [&console, &results] {
        fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    }

    let mut command = qemu.command();
    command
        .args(["-m", &MEMORY_MB.to_string(), "-smp", "2"])
        .args(["-serial", &file_port(&console), "-serial", &file_port(&results)])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", KERNEL_ARGUMENTS])
        .stdin(Stdio::null());
    let start = Instant::now();
    let limit = BOOT + job.timeout.saturating_mul(u32::try_from(job.backends.len()).unwrap_or(u32::MAX));
    let child = end_with_us(&mut command).spawn().context("cannot start QEMU")?;
    let ending = match wait(child, limit)? {
        Some(status) if status.success() => Ending::Clean,
        Some(_) => Ending::Failed,
        None => Ending::TimedOut(limit),
    };
    let read = |log: &Path| {
        fs::read(log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("cannot read {}", log.display()))
    };
    let report = Report::of(&read(&results)?, &read(&console)?, ending, &job.backends);
    let _ = fs::remove_file(&initramfs);
    Ok(Outcome { report, console, results, took: start.elapsed() })
}

/// Lets the kernel kill the process when we die first, however that comes: a forgotten guest would take a core for good.
fn end_with_us(command: &mut Command) -> &mut Command {
    let arm = || {
        // SAFETY: this option takes plain numbers only. It asks for the death of the calling thread's process, and the
        // thread that calls waits for the child.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(arm) }
}

/// QEMU reads a comma in an option as its end unless it is doubled.
fn file_port(path: &Path) -> String {
    format!("file:{}", path.to_string_lossy().replace(',', ",,"))
}

/// Waits for a process; kills it after the time limit and returns nothing then.
fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for QEMU")? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill().and_then(|()| child.wait()).context("cannot kill QEMU")?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
