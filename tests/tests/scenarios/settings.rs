//! Where things are and how patient to be: the environment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// `CONN_BIN`, else `conn` next to the folder of this test program.
pub(crate) fn conn() -> Result<PathBuf> {
    program("CONN_BIN", "conn")
}

/// `CONN_SCENARIO_BIN`, else `conn-scenario` next to the folder of this test program.
pub(crate) fn workload() -> Result<PathBuf> {
    program("CONN_SCENARIO_BIN", "conn-scenario")
}

/// `CONN_ATTACK_BIN`, else `conn-attack` next to the folder of this test program.
pub(crate) fn attack() -> Result<PathBuf> {
    program("CONN_ATTACK_BIN", "conn-attack")
}

/// `CONN_HUNG_BIN`, else `hung-filesystem` next to the folder of this test program.
pub(crate) fn hung_file_system() -> Result<PathBuf> {
    program("CONN_HUNG_BIN", "hung-filesystem")
}

fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().context("own path")?;
    let path = exe.parent().and_then(|deps| deps.parent()).context("own folder")?.join(name);
    ensure!(path.exists(), "{} is not built; set {variable} or build it first", path.display());
    Ok(path)
}

/// `CONN_BACKEND`, else `auto`.
pub(crate) fn backend() -> String {
    std::env::var("CONN_BACKEND").unwrap_or_else(|_| "auto".to_owned())
}

/// A time limit, stretched by `CONN_TIME_FACTOR`.
pub(crate) fn seconds(seconds: u32) -> Duration {
    let factor = std::env::var("CONN_TIME_FACTOR").ok().and_then(|f| f.parse::<f64>().ok()).unwrap_or(1.0);
    Duration::from_secs(u64::from(seconds)).mul_f64(factor.clamp(0.1, 1_000.0))
}

/// `CONN_MILLION`: connections of the leak test, where the machine has the time for it: under emulation the first tenth
/// alone would not fill the tables.
pub(crate) fn million() -> Option<u64> {
    std::env::var("CONN_MILLION").ok().and_then(|n| n.parse().ok())
}

/// `CONN_STORM`: connections of the storm; the default suits a virtual machine.
pub(crate) fn storm() -> u64 {
    std::env::var("CONN_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000)
}
