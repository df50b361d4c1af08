//! Compiles the BPF programs and hands the object to the agent as `OUT_DIR/conn-ebpf`.
//!
//! Environment: `CONN_TOOLCHAIN_DIR` names another place of the toolchain than `target/toolchain`; `CONN_EBPF_OBJECT`
//! names a ready object, and then nothing is compiled and no toolchain needed.

#![deny(clippy::expect_used)]

#[allow(dead_code, reason = "xtask uses the rest")]
#[path = "../xtask/src/bpf.rs"]
mod bpf;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bpf::Toolchain;

const SETUP: &str = "run `cargo xtask setup`";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Cargo shows this line as the error itself, whatever else the script printed.
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let workspace = folder("CARGO_MANIFEST_DIR")?.join("..");
    let workspace = workspace
        .canonicalize()
        .map_err(|error| format!("no workspace at {}: {error}", workspace.display()))?;
    let object = folder("OUT_DIR")?.join("conn-ebpf");
    for name in ["CONN_EBPF_OBJECT", "CONN_TOOLCHAIN_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Some(ready) = env::var_os("CONN_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        let ready = workspace.join(ready);
        rerun_if_changed(&ready);
        return copy(&ready, &object);
    }

    let toolchain = Toolchain::of(&workspace);
    rerun_if_changed(&toolchain.stamp());
    for input in ["Cargo.lock", "Cargo.toml", "rust-toolchain.toml", "xtask/src/bpf.rs", "conn-user/build.rs"]
    {
        rerun_if_changed(&workspace.join(input));
    }
    for package in ["conn-ebpf", "conn-common"] {
        rerun_if_changed(&workspace.join(package).join("Cargo.toml"));
        rerun_if_changed(&workspace.join(package).join("src"));
    }
    check(&toolchain)?;

    // One folder for all profiles and targets of the agent: the object is the same for all of them. The lock keeps
    // another build from replacing the object while it is copied.
    let target_dir = bpf::target_dir(&workspace);
    let lock = target_dir.join("build-script.lock");
    let held = fs::create_dir_all(&target_dir).and_then(|()| File::create(&lock)).and_then(|file| {
        file.lock()?;
        Ok(file)
    });
    let _held = held.map_err(|error| format!("cannot lock {}: {error}", lock.display()))?;
    let mut cargo = toolchain.cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), "build");
    cargo
        .args(["--package", "conn-ebpf", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target_dir)
        .current_dir(&workspace);
    let status =
        cargo.status().map_err(|error| format!("cannot start cargo for the BPF programs: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the BPF programs (package conn-ebpf) do not build: {status}; cargo's messages are below"
        ));
    }
    copy(&bpf::object(&workspace), &object)
}

/// Fails unless the toolchain is there and was made for the compiler in use.
fn check(toolchain: &Toolchain) -> Result<(), String> {
    let Ok(stamp) = fs::read_to_string(toolchain.stamp()) else {
        return Err(format!(
            "the BPF toolchain is not set up: {SETUP} (looked in {})",
            toolchain.dir().display()
        ));
    };
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let version =
        Command::new(&rustc).arg("-vV").output().map_err(|error| format!("cannot run rustc: {error}"))?;
    if !stamp.ends_with(String::from_utf8_lossy(&version.stdout).as_ref()) {
        return Err(format!("the BPF toolchain was set up for another rustc: {SETUP}"));
    }
    Ok(())
}

fn folder(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {variable}"))
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|error| {
        format!("cannot copy the BPF object {} to {}: {error}", from.display(), to.display())
    })
}
