//! bpf-linker, linked against the LLVM inside the Rust toolchain: it reads the bitcode that this very rustc writes, so
//! the two must be of one version, and no LLVM has to be installed for it.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::rustc::Rustc;
use crate::bpf::{self, Toolchain};
use crate::command::run;
use crate::workspace;

/// The version that fits aya-ebpf 0.2 (who writes which part of a map's BTF changed between versions).
pub(super) const VERSION: &str = "0.13.0";

pub(super) fn build(toolchain: &Toolchain, rustc: &Rustc) -> Result<()> {
    let made_for = toolchain.dir().join("bin/bpf-linker.made-for");
    let wanted = format!("{VERSION}\n{}", rustc.verbose);
    if toolchain.linker().is_file() && fs::read_to_string(&made_for).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let library = llvm_library(rustc)?;
    let prefix = toolchain.dir().join("llvm");
    link_llvm(&library, &prefix)
        .with_context(|| format!("cannot link {} into {}", library.display(), prefix.display()))?;

    eprintln!("xtask: building bpf-linker {VERSION} against LLVM {} of the Rust toolchain", rustc.llvm_major);
    let mut cargo = Command::new(workspace::cargo_program());
    bpf::clean(&mut cargo);
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet", "--no-track"])
        .args(["--no-default-features", "--features", &format!("llvm-{}", rustc.llvm_major)])
        .arg("--root")
        .arg(toolchain.dir())
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{}", rustc.sysroot.join("lib").display()))
        .current_dir(workspace::root());
    run(&mut cargo).with_context(|| {
        format!(
            "bpf-linker {VERSION} from the crate registry, feature llvm-{}, against {}.\n\
             Remedy: check the access to the crate registry; another rustc than the one in rust-toolchain.toml may need \
             another bpf-linker (setup/linker.rs)",
            rustc.llvm_major,
            library.display()
        )
    })?;
    fs::write(&made_for, wanted).with_context(|| format!("cannot write {}", made_for.display()))
}

/// The LLVM library of the Rust toolchain. Beside it lies a text file of a similar name for the system's linker.
fn llvm_library(rustc: &Rustc) -> Result<PathBuf> {
    let dir = rustc.sysroot.join("lib");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let found = entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM")) && is_elf(path)
    });
    match found {
        Some(library) => Ok(library),
        None => bail!(
            "no libLLVM in {}: this rustc does not bring its LLVM as a shared library.\n\
             Remedy: use the toolchain that rust-toolchain.toml names, installed by rustup",
            dir.display()
        ),
    }
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// bpf-linker's build script looks for `lib/libLLVM.so` below `LLVM_PREFIX`.
fn link_llvm(library: &Path, prefix: &Path) -> Result<()> {
    let dir = prefix.join("lib");
    fs::create_dir_all(&dir)?;
    let link = dir.join("libLLVM.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(library, &link)?;
    Ok(())
}
