//! How the BPF programs are compiled. `conn-user/build.rs` includes this file too, so that the agent's build, the lints
//! and the set-up of the toolchain cannot disagree; hence it uses nothing but std.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Rust target of the BPF programs: little-endian, no operating system.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The target folder of the BPF build.
pub(crate) fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target").join("bpf")
}

/// The object that the build makes there.
pub(crate) fn object(workspace: &Path) -> PathBuf {
    target_dir(workspace).join(TARGET).join("release").join("conn-ebpf")
}

/// The parts of the toolchain that `cargo xtask setup` puts together.
pub(crate) struct Toolchain {
    dir: PathBuf,
}

impl Toolchain {
    /// The toolchain of a workspace: `target/toolchain` in it, or the folder named by `CONN_TOOLCHAIN_DIR`.
    pub(crate) fn of(workspace: &Path) -> Self {
        let dir = env::var_os("CONN_TOOLCHAIN_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| workspace.join("target").join("toolchain"), PathBuf::from);
        // Cargo runs build scripts in the package's folder and xtask in the caller's: relative means "to the workspace".
        Self { dir: workspace.join(dir) }
    }

    /// The folder that holds everything below.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The sysroot whose only libraries are `core` and what it needs, for [`TARGET`].
    pub(crate) fn sysroot(&self) -> PathBuf {
        self.dir.join("sysroot")
    }

    /// The linker.
    pub(crate) fn linker(&self) -> PathBuf {
        self.dir.join("bin").join("bpf-linker")
    }

    /// The file that says what the toolchain was made for; written last, so its presence means "complete".
    pub(crate) fn stamp(&self) -> PathBuf {
        self.dir.join("stamp")
    }

    /// A cargo call that compiles for [`TARGET`]; the caller adds the packages. `cargo` is the program to start.
    pub(crate) fn cargo(&self, cargo: OsString, subcommand: &str) -> Command {
        let mut command = Command::new(cargo);
        clean(&mut command);
        let flags = [
            format!("--sysroot={}", self.sysroot().display()),
            format!("-Clinker={}", self.linker().display()),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        command
            .args([subcommand, "--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            // bpf-linker sees all bitcode at once; rustc's own link-time optimisation would only come before it.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            // The target is not a stable one; the compiler itself is.
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// Takes out of a cargo call's environment what an outer cargo, or a person's settings for host builds, put there.
/// What reaches registries and the terminal stays, and so do the choice of the toolchain and the job server.
pub(crate) fn clean(command: &mut Command) {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_ALIAS_",
    ];
    const LEAKING: [&str; 6] =
        ["RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO_") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if of_cargo || LEAKING.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
}
