//! `core` for BPF, in a sysroot of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustc_build_sysroot::{BuildMode, SysrootBuilder, SysrootConfig};

use crate::bpf::{self, Toolchain};
use crate::workspace;

pub(super) fn build(toolchain: &Toolchain, library: &Path) -> Result<()> {
    let mut cargo = Command::new(workspace::cargo_program());
    bpf::clean(&mut cargo);
    cargo.env("RUSTC_BOOTSTRAP", "1").current_dir(workspace::root());
    SysrootBuilder::new(&toolchain.sysroot(), bpf::TARGET)
        .build_mode(BuildMode::Build)
        .sysroot_config(SysrootConfig::NoStd)
        .cargo(cargo)
        .when_build_required(|| eprintln!("xtask: building `core` for {}", bpf::TARGET))
        .build_from_source(library)
        .map(|_| ())
        .with_context(|| {
            format!(
                "from the source in {}.\nRemedy: remove {} and run `cargo xtask setup` again",
                library.display(),
                toolchain.dir().display()
            )
        })
}
