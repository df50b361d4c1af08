//! `cargo xtask attack`: the default rules against a corpus of attacks and of benign work.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::command::run;
use crate::{agent, workspace};

/// The corpus.
const CORPUS: [&str; 4] = ["shells.toml", "programs.toml", "benign.toml", "before.toml"];
/// Debian's packages of the programs that cases need.
const PACKAGES: [&str; 26] = [
    "bash",
    "busybox",
    "curl",
    "gawk",
    "gcc",
    "git",
    "iproute2",
    "libc6-dev",
    "lua-socket",
    "lua5.4",
    "make",
    "ncat",
    "netcat-openbsd",
    "netcat-traditional",
    "nodejs",
    "openssh-client",
    "perl",
    "php-cli",
    "python3",
    "ruby",
    "socat",
    "tcl",
    "telnet",
    "tmux",
    "util-linux",
    "wget",
];

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Install the programs that cases need (Debian packages; they stay installed). Without it, cases whose programs are missing are
    /// skipped.
    #[arg(long)]
    install: bool,
    /// Run only cases whose names contain one of these.
    names: Vec<String>,
}

/// Builds the agent and the runner, and runs it; as root.
///
/// # Errors
/// When something does not build, or the default rules detect too little or raise too much.
pub(crate) fn attack(options: &Options) -> Result<()> {
    if options.install {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends"]).args(PACKAGES);
        let status = apt.status().context("run apt-get")?;
        ensure!(
            status.success(),
            "apt-get install ended with {status}: run apt-get update, or install by hand"
        );
    }
    let conn = agent::build(false)?;
    run(workspace::cargo().args(["build", "-p", "conn-tests", "--bin", "conn-attack"]))
        .context("building the runner")?;
    let corpus = workspace::root().join("tests/attack");
    let mut runner = Command::new(conn.with_file_name("conn-attack"));
    runner.arg(&conn).args(CORPUS.map(|file| corpus.join(file)));
    if !options.names.is_empty() {
        runner.arg("--").args(&options.names);
    }
    run(&mut runner)
}
