//! `cargo xtask setup`: puts the BPF toolchain together under `target/toolchain`.
//!
//! Stable Rust ships no `core` for BPF and no BPF linker. Both are made here, from sources of exactly the version of the
//! installed compiler: nothing is installed system-wide and no other compiler is needed.

mod linker;
mod rustc;
mod source;
mod sysroot;

use std::fs;

use anyhow::{Context as _, Result};

use crate::bpf::Toolchain;
use crate::lock::Lock;
use crate::workspace;
use rustc::Rustc;

/// Raise it when the same versions must be set up in another way.
const LAYOUT: u32 = 1;

/// Makes sure that the toolchain is there and fits the compiler. Prints nothing when it does already.
///
/// # Errors
/// Names the step that failed, what was tried, and the remedy.
pub(crate) fn ensure() -> Result<Toolchain> {
    let toolchain = workspace::toolchain();
    let rustc = Rustc::query().context("setup: cannot ask rustc for its version")?;
    let wanted = stamp_text(&rustc);
    if is_current(&toolchain, &wanted) {
        return Ok(toolchain);
    }
    let _lock = Lock::take(toolchain.dir())?;
    if is_current(&toolchain, &wanted) {
        return Ok(toolchain);
    }
    let _ = fs::remove_file(toolchain.stamp());
    // `core` is one crate, so its build leaves the other processors to the linker.
    std::thread::scope(|scope| {
        let linker = scope.spawn(|| linker::build(&toolchain, &rustc).context("setup: building bpf-linker"));
        let library = source::library(&toolchain, &rustc).context("setup: getting the source of `core`")?;
        sysroot::build(&toolchain, &library).context("setup: building `core` for BPF")?;
        linker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let stamp = toolchain.stamp();
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    eprintln!("xtask: the BPF toolchain is ready in {}", toolchain.dir().display());
    Ok(toolchain)
}

fn is_current(toolchain: &Toolchain, wanted: &str) -> bool {
    fs::read_to_string(toolchain.stamp()).is_ok_and(|found| found == wanted)
        && toolchain.linker().is_file()
        && toolchain.sysroot().is_dir()
}

fn stamp_text(rustc: &Rustc) -> String {
    format!("layout {LAYOUT}\nbpf-linker {}\n{}", linker::VERSION, rustc.verbose)
}
