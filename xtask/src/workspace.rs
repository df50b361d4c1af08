//! Where things lie.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bpf::Toolchain;

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The folder for everything that is made, downloaded or built, apart from cargo's own.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Cargo's target folder.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(target, |dir| root().join(dir))
}

/// The BPF toolchain's place.
pub(crate) fn toolchain() -> Toolchain {
    Toolchain::of(&root())
}

/// The cargo that started us, else the one on `PATH`.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A cargo call in the workspace that inherits the environment.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_program());
    // These describe xtask itself, not the packages to be built.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH").current_dir(root());
    command
}
