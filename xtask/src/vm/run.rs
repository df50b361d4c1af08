//! One run of a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::guest::{Job, Programs};
use super::kernels::Kernel;
use super::qemu::Qemu;
use super::verdict::{Ending, Report};
use crate::group::Group;
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
    let file = |ending: &str| dir.join(format!("{}-{}.{ending}", kernel.name, job.backend));
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
    let limit = BOOT + job.timeout;
    let guest = Group::spawn(&mut command).context("cannot start QEMU")?;
    let ending = match guest.wait(limit, || false).context("cannot wait for QEMU")? {
        Some(status) if status.success() => Ending::Clean,
        Some(_) => Ending::Failed,
        None => Ending::TimedOut(limit),
    };
    let read = |log: &Path| {
        fs::read(log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("cannot read {}", log.display()))
    };
    let report = Report::of(&read(&results)?, &read(&console)?, ending, &job.backend);
    let _ = fs::remove_file(&initramfs);
    Ok(Outcome { report, console, results, took: start.elapsed() })
}

/// QEMU reads a comma in an option as its end unless it is doubled.
fn file_port(path: &Path) -> String {
    format!("file:{}", path.to_string_lossy().replace(',', ",,"))
}
