//! QEMU 10 or later. Older ones crash guests under software emulation once many probe sites are patched, so a system
//! QEMU is used only when it is new enough; else Debian's packages are unpacked under `target/vm/qemu`, with every library
//! they need, and started through the loader that comes with them: nothing of the machine takes part.

use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::apt::Unpacked;
use crate::command::{on_path, output};
use crate::workspace;

const PROGRAM: &str = "qemu-system-x86_64";
const OLDEST: u32 = 10;

/// The suites to take it from, each with those that hold the rest of its libraries. The first is the one under which
/// the four kernels were put under stress.
const PLACES: [&[&str]; 2] = [&["bookworm-backports", "bookworm"], &["trixie"]];

/// A QEMU that can be started.
pub(crate) struct Qemu {
    /// The private one; absent: the system's.
    private: Option<Unpacked>,
    version: String,
    accelerator: &'static str,
}

/// Everything that QEMU can emulate but a fifth level of page tables and guards between the kernel's and the programs' memory:
/// they are nothing to the tests, and each copy from a program's memory costs more with them.
const CPU: &str = "max,-la57,-smap,-smep,-pku";

impl Qemu {
    /// Finds or fetches one.
    ///
    /// # Errors
    /// When there is none and none can be had.
    pub(crate) fn get() -> Result<Self> {
        if let Some(system) = Self::of_system() {
            return Ok(system.probed());
        }
        let dir = workspace::target().join("vm/qemu");
        let private = Unpacked::get(&dir, "qemu-system-x86", PROGRAM, &PLACES)
            .context("getting QEMU (remedy: install qemu-system-x86 10 or later)")?;
        Ok(Self::new(Some(private)).with_version().context("the fetched QEMU")?.probed())
    }

    fn new(private: Option<Unpacked>) -> Self {
        Self { private, version: String::new(), accelerator: TCG }
    }

    /// A call of it with the options that are the same for every guest.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare();
        for sub in ["seabios", "qemu", "ipxe/qemu"] {
            if let Some(private) = &self.private {
                command.arg("-L").arg(private.dir().join("usr/share").join(sub));
            }
        }
        command.args(["-nodefaults", "-display", "none", "-no-reboot", "-machine", "pc", "-cpu", CPU]);
        command.args(["-accel", self.accelerator]);
        command
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("QEMU {} ({})", self.version, self.accelerator)
    }

    fn bare(&self) -> Command {
        self.private.as_ref().map_or_else(|| Command::new(PROGRAM), Unpacked::command)
    }

    fn of_system() -> Option<Self> {
        if !on_path(PROGRAM) {
            return None;
        }
        Self::new(None).with_version().ok()
    }

    fn with_version(self) -> Result<Self> {
        let text = output(self.bare().arg("--version"))?;
        let version = version_of(&text).with_context(|| format!("no version in {text:?}"))?;
        if version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .is_none_or(|major: u32| major < OLDEST)
        {
            bail!("QEMU {version} is older than {OLDEST}");
        }
        Ok(Self { version: version.to_owned(), ..self })
    }

    /// Uses KVM only when asked to (`CONN_VM_ACCEL=kvm`) and when it works: a device file alone does not mean that, and
    /// QEMU does not fall back by itself.
    fn probed(mut self) -> Self {
        if env::var_os("CONN_VM_ACCEL").is_some_and(|wanted| wanted == "kvm") {
            self.accelerator = "kvm";
            if !self.starts() {
                eprintln!("xtask: KVM does not work here; using software emulation");
                self.accelerator = TCG;
            }
        }
        self
    }

    /// Whether a machine can be created: QEMU then waits to be reported to quit.
    fn starts(&self) -> bool {
        let mut command = self.command();
        command
            .args(["-S", "-monitor", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return false };
        if let Some(mut monitor) = child.stdin.take() {
            let _ = std::io::Write::write_all(&mut monitor, b"quit\n");
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }
}

const TCG: &str = "tcg,thread=multi";

/// "QEMU emulator version 10.0.2 (Debian …)" → "10.0.2".
fn version_of(text: &str) -> Option<&str> {
    text.split_once("version ")?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_found_in_the_first_line() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)";
        assert_eq!(version_of(text), Some("10.0.2"));
        assert_eq!(version_of("something else"), None);
    }
}
