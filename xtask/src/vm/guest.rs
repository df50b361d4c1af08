//! What runs inside the guests: the agent and the tests, linked statically so that they need no other file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::initramfs::Archive;
use super::kernels::Kernel;
use crate::{agent, bpf, setup, workspace};

/// The host's target, named explicitly: only then are build scripts and macros spared the flags below.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// See `.cargo/config.toml`.
const PROFILE: &str = "vm";
const TEST: &str = "scenarios";

/// The programs of a guest.
pub(crate) struct Programs {
    init: PathBuf,
    agent: PathBuf,
    tests: PathBuf,
    /// Name and file of the programs that the tests start.
    helpers: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Builds them.
    ///
    /// # Errors
    /// When something does not build or is missing.
    pub(crate) fn build() -> Result<Self> {
        setup::ensure()?;
        eprintln!("xtask: building the agent and the tests for the VMs");
        let mut bins =
            executables(&["build", "--package", "conn-user", "--package", "conn-tests", "--bins"])?;
        agent::check_programs()?;
        let mut tests = executables(&["test", "--package", "conn-tests", "--no-run", "--test", TEST])?;
        let mut bin =
            |name: &str| bins.remove(name).with_context(|| format!("cargo built no program {name}"));
        let (init, agent) = (bin("vm-init")?, bin("conn")?);
        let tests = tests.remove(TEST).with_context(|| format!("cargo built no test {TEST}"))?;
        Ok(Self { init, agent, tests, helpers: bins })
    }

    /// Writes a guest's initramfs.
    ///
    /// # Errors
    /// When a program cannot be read or the file not be written.
    pub(crate) fn write_initramfs(&self, file: &Path, kernel: &Kernel, job: &Job) -> Result<()> {
        let out = File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        let mut archive = Archive::new(BufWriter::new(out));
        for folder in ["bin", "tests", "modules", "dev", "proc", "sys", "tmp", "run"] {
            archive.folder(folder)?;
        }
        archive.executable("init", &self.init)?;
        archive.executable("conn", &self.agent)?;
        archive.executable(&format!("tests/{TEST}"), &self.tests)?;
        for (name, program) in &self.helpers {
            archive.executable(&format!("bin/{name}"), program)?;
        }
        let mut config = Vec::new();
        for module in kernel.modules.iter().chain(&kernel.modules_for_tests) {
            let name = module.file_name().context("a module without a name")?.to_string_lossy();
            let content =
                std::fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
            archive.plain(&format!("modules/{name}"), &content)?;
            if kernel.modules.contains(module) {
                config.push(format!("module=/modules/{name}"));
            }
        }
        for backend in &job.backends {
            config.push(format!("backend={backend}"));
        }
        if let Some(filter) = &job.filter {
            config.push(format!("filter={filter}"));
        }
        config.push(format!("timeout={}", job.timeout.as_secs()));
        archive.plain("vm.conf", (config.join("\n") + "\n").as_bytes())?;
        archive.finish()?.into_inner().context("cannot write the initramfs")?.flush()?;
        Ok(())
    }
}

/// What a guest is to do.
pub(crate) struct Job {
    /// For each of them the tests are run once.
    pub(crate) backends: Vec<String>,
    /// Which tests; all when absent.
    pub(crate) filter: Option<String>,
    /// Limit of one run.
    pub(crate) timeout: Duration,
}

/// Runs cargo and returns the programs it made, by name.
fn executables(arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = Command::new(workspace::cargo_program());
    bpf::clean(&mut cargo);
    cargo
        .args(arguments)
        .args(["--target", TARGET, "--profile", PROFILE, "--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(workspace::target().join("vm/build"))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .current_dir(workspace::root())
        .stderr(Stdio::inherit());
    let out = cargo.output().context("cannot start cargo")?;
    if !out.status.success() {
        bail!("cargo {} failed: {}", arguments.join(" "), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).lines().filter_map(executable).collect())
}

/// Name and file of the program that a line of cargo's messages announces.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    let file = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_cargos_messages() {
        let program = r#"{"reason":"compiler-artifact","target":{"name":"conn"},"executable":"/t/conn"}"#;
        assert_eq!(executable(program), Some(("conn".to_owned(), PathBuf::from("/t/conn"))));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("running 3 tests"), None);
    }
}
