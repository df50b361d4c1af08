//! The kernels to test on: Debian's, unpacked under `target/vm/kernels`, the newest build that the mirror has.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::workspace;

/// How to get a kernel: suites to look in, the beginnings of package names in order of preference, and their end.
struct Line {
    name: &'static str,
    suites: &'static [&'static str],
    packages: &'static [&'static str],
    flavor: &'static str,
}

/// The kernels that run unless others are named: the oldest with what conn needs, two long-term ones, and the newest.
const LINES: [Line; 4] = [
    Line {
        name: "5.10",
        suites: &["bullseye", "bullseye-security"],
        packages: &["linux-image-5.10."],
        flavor: CLOUD,
    },
    Line {
        name: "6.1",
        suites: &["bookworm", "bookworm-security"],
        packages: &["linux-image-6.1."],
        flavor: CLOUD,
    },
    Line {
        name: "6.12",
        suites: &["bookworm-backports", "trixie"],
        packages: &["linux-image-6.12."],
        flavor: CLOUD,
    },
    Line {
        // Since 7.0 linux-image is an empty package that depends on linux-binary.
        name: "7.3",
        suites: &["trixie-backports", "sid"],
        packages: &["linux-binary-7.3.", "linux-binary-7."],
        flavor: CLOUD,
    },
];

/// The kernels that run only on demand (`--kernel 7.2`): a release in which the tracepoint backend lost a close, and
/// PREEMPT_RT, where softirqs are threads and spinlocks sleep.
const ON_DEMAND: [Line; 2] = [
    Line {
        name: "7.2",
        suites: &["forky", "sid", "trixie-backports"],
        packages: &["linux-binary-7.2."],
        flavor: CLOUD,
    },
    Line {
        name: "rt",
        suites: &["trixie-backports", "trixie"],
        packages: &["linux-image-6.18.", "linux-image-6.12."],
        flavor: "-rt-amd64",
    },
];

/// Debian's flavor for virtual machines: what the tests need is built in.
const CLOUD: &str = "-cloud-amd64";

/// Modules that are loaded in the guest when the kernel has them, each after those it depends on.
pub(crate) const MODULES: [&str; 3] = ["veth", "inet_diag", "tcp_diag"];

/// Modules that the guest has as files, for the tests to load: with them the kernel itself listens.
const MODULES_FOR_TESTS: [&str; 2] = ["rds", "rds_tcp"];

/// A kernel that is ready to boot.
pub(crate) struct Kernel {
    /// How it is called on the command line, e.g. "6.12".
    pub(crate) name: &'static str,
    /// The package it came from, e.g. "linux-image-6.12.95+deb12-cloud-amd64".
    pub(crate) package: String,
    /// The file to boot.
    pub(crate) image: PathBuf,
    /// Files of [`MODULES`], in that order.
    pub(crate) modules: Vec<PathBuf>,
    /// Files of [`MODULES_FOR_TESTS`].
    pub(crate) modules_for_tests: Vec<PathBuf>,
}

/// The names of the kernels that run unless others are named, oldest first.
pub(crate) fn names() -> Vec<&'static str> {
    LINES.iter().map(|line| line.name).collect()
}

/// The kernel of this name, on demand or not.
fn line_of(name: &str) -> Option<&'static Line> {
    LINES.iter().chain(&ON_DEMAND).find(|line| line.name == name)
}

/// Gets the kernels of these names, downloading what is missing.
///
/// # Errors
/// When a name is unknown or a kernel cannot be had.
pub(crate) fn get(names: &[String]) -> Result<Vec<Kernel>> {
    let mut lines = Vec::new();
    for name in names {
        match line_of(name) {
            Some(line) => lines.push(line),
            None => bail!(
                "unknown kernel {name}; known are {}, and on demand {}",
                self::names().join(", "),
                ON_DEMAND.map(|line| line.name).join(", ")
            ),
        }
    }
    lines
        .into_iter()
        .map(|line| of_line(line).with_context(|| format!("getting the kernel {}", line.name)))
        .collect()
}

fn of_line(line: &Line) -> Result<Kernel> {
    let dir = workspace::target().join("vm/kernels").join(line.name);
    let note = dir.join("package");
    if let Ok(package) = fs::read_to_string(&note) {
        return unpacked(line, &dir, package);
    }
    let mut apt = Apt::open()?;
    for suite in line.suites {
        apt.add_suite(suite)?;
    }
    let mut newest = None;
    for prefix in line.packages {
        let names = apt.names(prefix)?;
        newest = names.into_iter().filter(|name| line.has_image(name)).max_by(|a, b| natural_order(a, b));
        if newest.is_some() {
            break;
        }
    }
    let Some(package) = newest else {
        let wanted: Vec<_> = line.packages.iter().map(|start| format!("{start}*{}", line.flavor)).collect();
        bail!("no package {} in the suites {}", wanted.join(", "), apt.tried());
    };
    let modules = package.replace("linux-binary-", "linux-modules-");
    let _ = fs::remove_dir_all(&dir);
    for wanted in [&package, &modules] {
        if let Some(candidate) = apt.versions(wanted)?.into_iter().next() {
            eprintln!("xtask: unpacking {wanted} privately");
            apt.unpack(&[candidate], &dir)?;
        }
        if package == modules {
            break;
        }
    }
    let kernel = unpacked(line, &dir, package)?;
    fs::write(&note, &kernel.package).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(kernel)
}

impl Line {
    /// Whether a package of this name holds the kernel's image, in the right flavor.
    fn has_image(&self, package: &str) -> bool {
        // "0.deb11": another release's kernel rebuilt; offered beside the own ones.
        package.ends_with(self.flavor) && !package.contains("-unsigned") && !package.contains("-0.deb")
    }
}

fn unpacked(line: &Line, dir: &Path, package: String) -> Result<Kernel> {
    let mut files = Vec::new();
    for sub in ["boot", "lib/modules", "usr/lib/modules"] {
        list(&dir.join(sub), &mut files);
    }
    let named = |start: &str| {
        files
            .iter()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
    };
    let Some(image) = named("vmlinuz") else {
        bail!("{package} holds no vmlinuz; remove {} and try again", dir.display());
    };
    let found = |modules: &[&str]| {
        modules.iter().filter_map(|module| named(&format!("{module}.ko")).cloned()).collect()
    };
    let (modules, modules_for_tests) = (found(&MODULES), found(&MODULES_FOR_TESTS));
    Ok(Kernel { name: line.name, package, image: image.clone(), modules, modules_for_tests })
}

/// All files below a folder; none when there is no such folder.
fn list(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), into);
        } else {
            into.push(entry.path());
        }
    }
}

/// Compares names with numbers inside by the numbers' values: "…-9-…" is older than "…-32-…".
fn natural_order(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

fn parts(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut number = String::new();
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        if !number.is_empty() {
            parts.push((number.parse().unwrap_or(u64::MAX), std::mem::take(&mut text)));
            number.clear();
        }
        text.push(letter);
    }
    parts.push((number.parse().unwrap_or(0), text));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest<'a>(names: &[&'a str]) -> Option<&'a str> {
        newest_for("6.12", names)
    }

    fn newest_for<'a>(kernel: &str, names: &[&'a str]) -> Option<&'a str> {
        let line = line_of(kernel).expect("a known kernel");
        names.iter().copied().filter(|name| line.has_image(name)).max_by(|a, b| natural_order(a, b))
    }

    #[test]
    fn the_newest_build_wins_by_number() {
        let names = [
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-32-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64-unsigned",
            "linux-image-5.10.0-40-amd64",
        ];
        assert_eq!(newest(&names), Some("linux-image-5.10.0-32-cloud-amd64"));
        let names = ["linux-image-6.12.95+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"];
        assert_eq!(newest(&names), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        let names = ["linux-image-6.1.0-0.deb11.50-cloud-amd64", "linux-image-6.1.0-48-cloud-amd64"];
        assert_eq!(newest(&names), Some("linux-image-6.1.0-48-cloud-amd64"));
        assert_eq!(newest(&["linux-image-6.12-cloud-amd64-dbg"]), None);
    }

    #[test]
    fn a_kernel_on_demand_is_known_and_not_run_by_default() {
        let names = ["linux-image-6.18.9+deb13-rt-amd64", "linux-image-6.18.15+deb13-cloud-amd64"];
        assert_eq!(newest_for("rt", &names), Some("linux-image-6.18.9+deb13-rt-amd64"));
        let names = ["linux-binary-7.2.13+deb14-cloud-amd64", "linux-binary-7.2.9+deb13-cloud-amd64"];
        assert_eq!(newest_for("7.2", &names), Some("linux-binary-7.2.13+deb14-cloud-amd64"));
        assert!(line_of("7.2").is_some() && !super::names().contains(&"7.2"));
        assert!(line_of("8.0").is_none());
    }
}
