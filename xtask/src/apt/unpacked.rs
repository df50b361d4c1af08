//! A program out of Debian's packages, unpacked into a folder with every library that it needs and started through the
//! loader that comes with them: nothing of the machine takes part.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Apt;
use crate::command::{captured, printed};

/// An unpacked program.
pub(crate) struct Unpacked {
    dir: PathBuf,
    /// The folders of its libraries, as the loader takes them.
    libraries: OsString,
    program: PathBuf,
}

impl Unpacked {
    /// The program of a package in this folder, fetched when it is not there. `places` are the suites to take it from, each
    /// with those that hold the rest of its libraries, in order of preference.
    ///
    /// # Errors
    /// When it cannot be had from any place, or does not start.
    pub(crate) fn get(dir: &Path, package: &str, program: &str, places: &[&[&str]]) -> Result<Self> {
        let there = Self::of_dir(dir, program)?;
        if there.starts().is_ok() {
            return Ok(there);
        }
        let mut tried = Vec::new();
        for suites in places {
            match fetch(suites, package, dir).and_then(|()| there.starts()) {
                Ok(()) => return Ok(there),
                Err(error) => tried.push(format!("{}: {error:#}", suites.join(" + "))),
            }
        }
        bail!("tried\n  {}", tried.join("\n  "))
    }

    fn of_dir(dir: &Path, program: &str) -> Result<Self> {
        let libraries =
            ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib"].map(|sub| dir.join(sub));
        let joined = env::join_paths(libraries).context("a path with a colon in it")?;
        Ok(Self { dir: dir.to_owned(), libraries: joined, program: dir.join("usr/bin").join(program) })
    }

    /// A call of it.
    pub(crate) fn command(&self) -> Command {
        let loader = |sub: &str| self.dir.join(sub).join("ld-linux-x86-64.so.2");
        // From trixie on the packages have it under /usr.
        let merged = Some(loader("usr/lib64")).filter(|loader| loader.exists());
        let mut command = Command::new(merged.unwrap_or_else(|| loader("lib64")));
        command.arg("--library-path").arg(&self.libraries).arg(&self.program);
        command
    }

    /// The folder that it is in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn starts(&self) -> Result<()> {
        let out = captured(self.command().arg("--version"))?;
        if !out.status.success() {
            bail!("it does not start: {}", printed(&out));
        }
        Ok(())
    }
}

fn fetch(suites: &[&str], package: &str, dir: &Path) -> Result<()> {
    let mut apt = Apt::open()?;
    for suite in suites {
        if !apt.add_suite(suite)? {
            bail!("no lists: {}", apt.tried());
        }
    }
    let suite = suites.first().context("no suite")?;
    let packages = apt.closure(package, suite)?;
    eprintln!("xtask: unpacking {package} and {} packages it needs privately", packages.len() - 1);
    let part = dir.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    apt.unpack(&packages, &part)?;
    let _ = fs::remove_dir_all(dir);
    fs::rename(&part, dir).with_context(|| format!("cannot create {}", dir.display()))
}
