//! What runs inside the guests: the agent and the tests as they run on this machine, and the shared libraries that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::initramfs::Archive;
use super::kernels::Kernel;
use crate::command::output;
use crate::test::suite::Built;

/// The test program that the guests run.
pub(crate) const TEST: &str = "scenarios";

/// The programs of a guest.
pub(crate) struct Programs {
    init: PathBuf,
    agent: PathBuf,
    tests: PathBuf,
    /// Name and file of the programs that the tests start.
    helpers: BTreeMap<String, PathBuf>,
    /// The shared libraries and the loader, where the programs look for them.
    libraries: BTreeSet<PathBuf>,
}

impl Programs {
    /// Those of what was built, and the agent.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn new(built: &Built, agent: PathBuf) -> Result<Self> {
        let tests = built.test(&format!("conn-tests/{TEST}"))?.file.clone();
        let program =
            |name: &str| built.programs.get(name).cloned().with_context(|| format!("cargo built no {name}"));
        let init = program("vm-init")?;
        let helpers = BTreeMap::from([("conn-scenario".to_owned(), program("conn-scenario")?)]);
        let mut libraries = BTreeSet::new();
        for program in helpers.values().chain([&init, &agent, &tests]) {
            libraries.extend(shared_libraries(program)?);
        }
        Ok(Self { init, agent, tests, helpers, libraries })
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
        let mut folders = BTreeSet::new();
        for library in &self.libraries {
            let inside = library.strip_prefix("/").unwrap_or(library);
            // From the root down, without the root and the file itself.
            let above: Vec<_> = inside.ancestors().skip(1).filter(|above| *above != Path::new("")).collect();
            for folder in above.into_iter().rev().filter(|folder| folders.insert(folder.to_path_buf())) {
                archive.folder(&folder.to_string_lossy())?;
            }
            archive.executable(&inside.to_string_lossy(), library)?;
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
        config.push(format!("backend={}", job.backend));
        match job.share {
            Share::None => {}
            Share::Kernel => config.push("share=kernel".to_owned()),
            Share::All => config.push("share=all".to_owned()),
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

/// What a guest runs of the tests that not every guest runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// None of them.
    None,
    /// What one backend of a kernel is enough for.
    Kernel,
    /// Also what one kernel is enough for.
    All,
}

/// What a guest is to do.
pub(crate) struct Job {
    /// The agent's backend.
    pub(crate) backend: String,
    /// What is to be run beside what every backend of every kernel runs.
    pub(crate) share: Share,
    /// Which tests; all when absent.
    pub(crate) filter: Option<String>,
    /// Limit of one run.
    pub(crate) timeout: Duration,
}

/// The shared libraries of a program and its loader, asked of the loader itself (ld.so(8), `LD_TRACE_LOADED_OBJECTS`).
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output(Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1"))?;
    let libraries: Vec<_> = said.lines().filter_map(library).collect();
    if libraries.is_empty() {
        bail!("the loader names no library of {}: {said:?}", program.display());
    }
    Ok(libraries)
}

/// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)" or "/lib64/ld-linux-x86-64.so.2 (0x00007f…)" → the file.
fn library(line: &str) -> Option<PathBuf> {
    let (name, _address) = line.trim().rsplit_once(" (0x")?;
    let file = name.split_once(" => ").map_or(name, |(_, file)| file);
    file.starts_with('/').then(|| file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_the_loader_says() {
        let files = [
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5a)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f5b)", Some("/lib64/ld-linux-x86-64.so.2")),
            // The kernel brings this one.
            ("\tlinux-vdso.so.1 (0x00007ffd)", None),
            ("\tstatically linked", None),
        ];
        for (line, file) in files {
            assert_eq!(library(line), file.map(PathBuf::from), "{line}");
        }
    }
}
