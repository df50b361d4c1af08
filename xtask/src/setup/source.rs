//! The source of Rust's standard library, in exactly the compiler's version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::rustc::Rustc;
use crate::apt::{Apt, Candidate};
use crate::bpf::Toolchain;
use crate::command::{captured, on_path, printed};
use crate::workspace;

/// Where Debian keeps compilers newer than its stable release. Only one of them needs to have ours.
const SUITES: [&str; 7] =
    ["trixie-backports", "sid", "trixie", "bookworm-backports", "forky", "bookworm", "stable"];

/// The folder `library` of the compiler's source tree.
pub(super) fn library(toolchain: &Toolchain, rustc: &Rustc) -> Result<PathBuf> {
    let component = rustc.sysroot.join("lib/rustlib/src/rust/library");
    let private = toolchain.dir().join(format!("rust-src-{}", rustc.release));
    let unpacked = private.join(format!("usr/src/rustc-{}/library", rustc.release));
    for known in [&component, &unpacked] {
        if is_library(known) {
            return Ok(known.clone());
        }
    }
    let mut tried = Vec::new();
    match by_rustup() {
        Ok(()) if is_library(&component) => return Ok(component),
        Ok(()) => tried.push(format!("rustup: component added, but {} is not there", component.display())),
        Err(error) => tried.push(format!("rustup: {error:#}")),
    }
    match by_debian(&rustc.release, &private) {
        Ok(()) if is_library(&unpacked) => return Ok(unpacked),
        Ok(()) => tried.push(format!("Debian: package unpacked, but {} is not there", unpacked.display())),
        Err(error) => tried.push(format!("Debian: {error:#}")),
    }
    bail!(
        "no source of the standard library of rustc {}.\nTried:\n  {}: no such folder\n  {}\n\
         Remedy: `rustup component add rust-src`, or put the `library` folder of that version's source at {}",
        rustc.release,
        component.display(),
        tried.join("\n  "),
        unpacked.display()
    )
}

/// rustc-build-sysroot asks for the same file.
fn is_library(dir: &Path) -> bool {
    dir.join("std/Cargo.toml").is_file() && dir.join("core/Cargo.toml").is_file()
}

fn by_rustup() -> Result<()> {
    if !on_path("rustup") {
        bail!("not installed");
    }
    eprintln!("xtask: adding the rustup component rust-src");
    let out = captured(
        Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(workspace::root()),
    )?;
    if !out.status.success() {
        bail!("`rustup component add rust-src` failed: {}", printed(&out).replace('\n', " "));
    }
    Ok(())
}

fn by_debian(release: &str, into: &Path) -> Result<()> {
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("apt-get and dpkg are not installed");
    }
    eprintln!("xtask: looking for Debian's package rust-src {release}");
    let mut apt = Apt::open()?;
    for suite in SUITES {
        if !apt.add_suite(suite)? {
            continue;
        }
        if let Some(candidate) =
            apt.versions("rust-src")?.into_iter().find(|found| is_release(found, release))
        {
            eprintln!("xtask: unpacking rust-src {} privately", candidate.version);
            let _ = fs::remove_dir_all(into);
            return apt.unpack(&[candidate], into).context("cannot fetch rust-src");
        }
    }
    bail!("no package rust-src {release} in the suites {}", apt.tried())
}

/// Whether a package's upstream version, which ends at "+dfsg", "~" or "-", is the release.
fn is_release(candidate: &Candidate, release: &str) -> bool {
    candidate.version.split(['+', '~', '-']).next() == Some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_must_be_exactly_ours() {
        let is = |version: &str| {
            is_release(&Candidate { package: "rust-src".to_owned(), version: version.to_owned() }, "1.95.0")
        };
        assert!(is("1.95.0+dfsg1-2~bpo13+1"));
        assert!(is("1.95.0-1"));
        assert!(!is("1.95.1+dfsg1-1"));
        assert!(!is("1.95.0.1-1"));
    }
}
