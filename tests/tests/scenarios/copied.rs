//! Copies of programs that tests execute.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::settings;

/// A folder of its own with a copy of one program, which everybody may execute; gone with the value.
pub(crate) struct Copied {
    folder: PathBuf,
    program: PathBuf,
}

impl Copied {
    /// Copies the program under a name; the folder's mode says who may write there.
    pub(crate) fn new(program: &Path, name: &str, mode: u32) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("conn-test-{}-{name}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let copied = Self { program: folder.join(name), folder };
        set_mode(&copied.folder, mode)?;
        fs::copy(program, &copied.program).with_context(|| format!("copy {}", program.display()))?;
        set_mode(&copied.program, 0o755)?;
        Ok(copied)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("change the mode of {}", path.display()))
}

/// Starts a program that has just been written. A test beside this one may have forked while it was open for writing, and
/// not executed yet: until then the kernel refuses to execute the file (ETXTBSY, fs/exec.c `deny_write_access`).
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + settings::seconds(10);
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}
