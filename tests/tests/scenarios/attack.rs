//! The default rules against a part of the corpus of `cargo xtask attack`: cases that need only what every Debian has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::settings;

/// Parts of the names of the cases.
const CASES: [&str; 20] = [
    "bash-dev-tcp",
    "bash-read-loop",
    "perl-exec",
    "perl-backticks",
    "perl-disguised",
    "database-program",
    "bind-c-popen",
    "scan-ports-bash",
    "exfil-bash",
    "tmp-program",
    "curl-then-commands",
    "report-by-curl",
    "wait-for-it",
    "tests-in-tmp",
    "perl-http",
    "shell-session",
    "before-bash-dev-tcp",
    "before-perl-exec",
    "before-perl-pipes",
    "before-daemon-descriptor",
];

/// Why the corpus cannot be run here.
pub(crate) fn refusal() -> Option<&'static str> {
    let found = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    (!found).then_some("ip (package iproute2) is not installed")
}

/// Attacks are detected, and benign work is not.
pub(crate) fn corpus() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("attack");
    let files = ["shells.toml", "programs.toml", "benign.toml", "before.toml"].map(|name| folder.join(name));
    let output = Command::new(settings::attack()?)
        .arg(settings::conn()?)
        .args(files)
        .arg("--")
        .args(CASES)
        .output()
        .context("run conn-attack")?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}
