//! What others on the machine do does not stop the agent.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::settings;

/// Programs run from a file system that does not answer: `tests/hung-filesystem.sh`.
pub(crate) fn beside_a_hung_file_system() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hung-filesystem.sh");
    let output = Command::new("bash")
        .arg(&script)
        .env("CONN", settings::conn()?)
        .env("HUNG", settings::hung_file_system()?)
        .output()
        .with_context(|| format!("run {}", script.display()))?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}
