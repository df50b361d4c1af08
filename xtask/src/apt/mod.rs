//! Debian packages without installing anything: a private apt with its own lists and cache under `target/apt`, able to
//! reach suites which the machine's own sources do not name. `/etc/apt` and `/var` stay as they are. Mirrors and keys are
//! those of the machine's sources.

mod sources;
mod unpacked;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::command::{captured, output, printed};
use crate::lock::Lock;
use crate::workspace;
use sources::Source;
pub(crate) use unpacked::Unpacked;

/// How old fetched lists may be: security suites drop the packages they replace.
const FRESH: Duration = Duration::from_hours(12);

/// The private apt.
pub(crate) struct Apt {
    dir: PathBuf,
    machine: Vec<Source>,
    suites: BTreeMap<String, Result<(), String>>,
    _lock: Lock,
}

/// One version of a package that some suite offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The package's name.
    pub(crate) package: String,
    /// Debian version, epoch included.
    pub(crate) version: String,
}

impl Apt {
    /// Opens `target/apt`; waits while another xtask uses it.
    ///
    /// # Errors
    /// When this is no Debian-like machine or its sources name no Debian mirror.
    pub(crate) fn open() -> Result<Self> {
        let dir = workspace::target().join("apt");
        let lock = Lock::take(&dir)?;
        for sub in ["lists/partial", "cache/archives/partial", "sources", "debs"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("cannot create {sub} in {}", dir.display()))?;
        }
        let machine = sources::of_machine()
            .context("cannot learn the Debian mirror from this machine's apt sources")?;
        Ok(Self { dir, machine, suites: BTreeMap::new(), _lock: lock })
    }

    /// Makes a suite's packages known. A suite that the mirror does not have is remembered for messages: see [`Self::tried`].
    ///
    /// # Errors
    /// Only for local troubles.
    pub(crate) fn add_suite(&mut self, suite: &str) -> Result<bool> {
        if let Some(known) = self.suites.get(suite) {
            return Ok(known.is_ok());
        }
        let file = self.dir.join("sources").join(format!("{suite}.sources"));
        let fresh = fs::metadata(&file)
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < FRESH));
        if fresh {
            return self.accept(suite);
        }
        let mut errors = String::new();
        for stanza in sources::stanzas(&self.machine, suite) {
            let pending = self.dir.join(format!("{suite}.pending.sources"));
            fs::write(&pending, stanza).with_context(|| format!("cannot write {}", pending.display()))?;
            let mut update = self.apt("apt-get");
            update
                .arg("-o")
                .arg(format!("Dir::Etc::sourcelist={}", pending.display()))
                .args(["-o", "APT::Get::List-Cleanup=0", "--error-on=any"])
                .arg("update");
            let out = captured(&mut update)?;
            if out.status.success() {
                fs::rename(&pending, &file).with_context(|| format!("cannot create {}", file.display()))?;
                return self.accept(suite);
            }
            let _ = fs::remove_file(&pending);
            errors = printed(&out);
        }
        let _ = fs::remove_file(&file);
        let reason = errors.lines().filter(|line| line.starts_with("E:")).collect::<Vec<_>>().join("; ");
        self.suites.insert(suite.to_owned(), Err(if reason.is_empty() { errors } else { reason }));
        Ok(false)
    }

    /// Lets apt see a suite whose lists are there, besides those accepted before.
    fn accept(&mut self, suite: &str) -> Result<bool> {
        self.suites.insert(suite.to_owned(), Ok(()));
        let mut visible = String::new();
        for (suite, _) in self.suites.iter().filter(|(_, result)| result.is_ok()) {
            let file = self.dir.join("sources").join(format!("{suite}.sources"));
            visible +=
                &fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            visible.push('\n');
        }
        let file = self.visible();
        fs::write(&file, visible).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(true)
    }

    fn visible(&self) -> PathBuf {
        self.dir.join("visible.sources")
    }

    /// The suites that were looked at, each with "ok" or why its lists could not be fetched.
    pub(crate) fn tried(&self) -> String {
        let suites = self.suites.iter().map(|(suite, result)| match result {
            Ok(()) => format!("{suite} (ok)"),
            Err(why) => format!("{suite} ({why})"),
        });
        suites.collect::<Vec<_>>().join(", ")
    }

    /// All versions of a package in the suites added so far, newest first.
    ///
    /// # Errors
    /// When apt-cache cannot be run.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<Candidate>> {
        let text = output(self.apt("apt-cache").args(["madison", package]))?;
        Ok(text.lines().filter_map(madison_line).collect())
    }

    /// The names of all packages with this prefix in the suites added so far.
    ///
    /// # Errors
    /// When apt-cache cannot be run.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Downloads packages (signature-checked by apt), unpacks them into one folder and drops the downloads.
    ///
    /// # Errors
    /// When one cannot be downloaded or unpacked.
    pub(crate) fn unpack(&self, candidates: &[Candidate], into: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        let mut command = self.apt("apt-get");
        command.arg("download").current_dir(&debs);
        command.args(candidates.iter().map(|wanted| format!("{}={}", wanted.package, wanted.version)));
        output(&mut command)?;
        fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
        for wanted in candidates {
            let start = format!("{}_{}_", wanted.package, wanted.version.replace(':', "%3a"));
            let deb = file_starting_with(&debs, &start)?;
            output(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        }
        Ok(())
    }

    /// A package from a suite and all packages it needs, as if on a machine with nothing installed.
    ///
    /// # Errors
    /// When they cannot be found.
    pub(crate) fn closure(&self, package: &str, suite: &str) -> Result<Vec<Candidate>> {
        let nothing = self.dir.join("nothing-installed");
        fs::write(&nothing, "").with_context(|| format!("cannot write {}", nothing.display()))?;
        let mut command = self.apt("apt-get");
        command
            .arg("-o")
            .arg(format!("Dir::State::Status={}", nothing.display()))
            .args(["-o", "Debug::NoLocking=true"])
            .args(["--simulate", "--no-install-recommends", "--target-release", suite, "install", package]);
        let text = output(&mut command)?;
        let found: Vec<Candidate> = text.lines().filter_map(inst_line).collect();
        if found.is_empty() {
            bail!("apt-get would install nothing for {package}:\n{text}");
        }
        Ok(found)
    }

    /// An apt program that knows only the private lists and sources.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |option: &str, value: &str| {
            command.arg("-o").arg(format!("{option}={value}"));
        };
        set("Dir::Etc::sourcelist", &self.visible().to_string_lossy());
        set("Dir::Etc::sourceparts", "-");
        set("Dir::Etc::preferences", "/dev/null");
        set("Dir::Etc::preferencesparts", "-");
        set("Dir::State::Lists", &self.dir.join("lists").to_string_lossy());
        set("Dir::Cache", &self.dir.join("cache").to_string_lossy());
        set("APT::Sandbox::User", "root");
        set("Acquire::Languages", "none");
        set("Acquire::Retries", "3");
        // Suites that are no longer maintained stop renewing their (still checked) signatures.
        set("Acquire::Check-Valid-Until", "false");
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

fn file_starting_with(dir: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let found =
        entries.filter_map(Result::ok).find(|entry| entry.file_name().to_string_lossy().starts_with(start));
    found
        .map(|entry| entry.path())
        .with_context(|| format!("no file {start}*.deb appeared in {}", dir.display()))
}

/// A line of `apt-cache madison`: "package | version | mirror suite/component arch Packages".
fn madison_line(line: &str) -> Option<Candidate> {
    let mut fields = line.split('|').map(str::trim);
    let candidate = Candidate { package: fields.next()?.to_owned(), version: fields.next()?.to_owned() };
    fields.next()?.ends_with("Packages").then_some(candidate)
}

/// A line of `apt-get --simulate`: `Inst package (version Debian:12/stable [amd64])`.
fn inst_line(line: &str) -> Option<Candidate> {
    let (package, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    Some(Candidate { package: package.to_owned(), version: rest.split_whitespace().next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_gives_binary_packages_only() {
        let line = " rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror.example/debian x/main amd64 Packages";
        let got = madison_line(line).expect("a binary package");
        assert_eq!((got.package.as_str(), got.version.as_str()), ("rust-src", "1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(madison_line(" rustc | 1.95.0 | http://mirror.example/debian x/main Sources"), None);
        assert_eq!(madison_line("N: nothing"), None);
    }

    #[test]
    fn simulated_installations_are_read() {
        let line = "Inst libc6 (2.36-9+deb12u14 Debian:12.14/oldstable [amd64]) []";
        let got = inst_line(line).expect("an installation");
        assert_eq!((got.package.as_str(), got.version.as_str()), ("libc6", "2.36-9+deb12u14"));
        assert_eq!(inst_line("Conf libc6 (2.36-9+deb12u14 Debian:12.14/oldstable [amd64])"), None);
    }
}
