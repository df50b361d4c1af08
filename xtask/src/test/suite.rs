//! The test programs of the workspace: built once, then started directly, so that nothing is compiled between two runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::group::{Group, complaint};
use crate::libtest::{Counts, Failure, OUTPUT_TAIL, Output, important_part, last_lines, skips};
use crate::workspace;

/// How the lines begin that are shown of a program although all is well: what the scenarios measured.
const MEASURED: [&str; 7] = ["slowest of ", "alerts: ", "storm, ", "leak, ", "memory", "agent, ", "loss"];

/// What cargo built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Test programs.
    pub(crate) tests: Vec<TestProgram>,
    /// Other programs, by name.
    pub(crate) programs: BTreeMap<String, PathBuf>,
}

/// A program with tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// Package and target, e.g. "conn-user/snapshot"; the package alone for the unit tests of its library or program.
    pub(crate) name: String,
    /// The file to start.
    pub(crate) file: PathBuf,
    /// The folder of its package: where cargo starts it.
    pub(crate) dir: PathBuf,
}

/// Builds test programs; `arguments` are those of `cargo test`.
///
/// # Errors
/// When something does not build.
pub(crate) fn build(arguments: &[&str]) -> Result<Built> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    let out = cargo.args(arguments).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !out.status.success() {
        bail!("cargo test --no-run {} failed: {}", arguments.join(" "), out.status);
    }
    Ok(Built::of(&String::from_utf8_lossy(&out.stdout)))
}

impl Built {
    /// Reads cargo's messages.
    fn of(messages: &str) -> Self {
        let mut built = Self::default();
        for line in messages.lines() {
            let Some(artifact) = Artifact::of(line) else { continue };
            if artifact.is_test {
                built.tests.push(artifact.program);
            } else {
                built.programs.insert(artifact.target, artifact.program.file);
            }
        }
        built.tests.sort_by(|a, b| a.name.cmp(&b.name));
        built
    }

    /// The test program of this name.
    ///
    /// # Errors
    /// When cargo built none.
    pub(crate) fn test(&self, name: &str) -> Result<&TestProgram> {
        self.tests.iter().find(|test| test.name == name).with_context(|| format!("cargo built no {name}"))
    }
}

/// A program that a line of cargo's messages announces.
struct Artifact {
    target: String,
    is_test: bool,
    program: TestProgram,
}

impl Artifact {
    fn of(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        if message.get("reason")?.as_str()? != "compiler-artifact" {
            return None;
        }
        let file = PathBuf::from(message.get("executable")?.as_str()?);
        let target = message.get("target")?;
        let name = target.get("name")?.as_str()?.to_owned();
        let kind = target.get("kind")?.get(0)?.as_str()?;
        let dir = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
        let is_test = message.get("profile")?.get("test")?.as_bool()?;
        let package = package(message.get("package_id")?.as_str()?)?;
        let shown = if kind == "test" { format!("{package}/{name}") } else { package.to_owned() };
        Some(Self { target: name, is_test, program: TestProgram { name: shown, file, dir } })
    }
}

/// The package's name out of its id (`cargo help pkgid`): "path+file:///w/xtask#0.1.0", "path+file:///w/tests#conn-tests@0.1.0".
fn package(id: &str) -> Option<&str> {
    let (path, version) = id.rsplit_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

/// How to run a test program.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// Variables that the tests read.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// After this time it is killed.
    pub(crate) limit: Duration,
}

/// One run of a test program.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// A program that did not come to its end has one failure more than it has failed tests.
    pub(crate) counts: Counts,
    pub(crate) failures: Vec<Failure>,
    /// Ignored and skipped tests, with the reasons.
    pub(crate) skips: Vec<String>,
    pub(crate) took: Duration,
    /// Where its output is: standard output and standard error.
    pub(crate) logs: [PathBuf; 2],
}

impl Run {
    /// Whether nothing failed.
    pub(crate) fn is_success(&self) -> bool {
        self.counts.failed == 0
    }

    /// What a failed run is to show: its failures, and what it printed on standard error.
    pub(crate) fn shown(&self) -> String {
        let [stdout, stderr] = self.logs.each_ref().map(|log| {
            fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        });
        format!("{}{}", important_part(&stdout), last_lines(&stderr, OUTPUT_TAIL))
    }

    /// What a program without libtest's capture printed on standard error although all is well: what it measured.
    pub(crate) fn measured(&self) -> String {
        let [_, stderr] = &self.logs;
        let text = fs::read(stderr).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let lines = text.unwrap_or_default();
        lines
            .lines()
            .filter(|line| MEASURED.iter().any(|start| line.starts_with(start)))
            .map(|line| line.to_owned() + "\n")
            .collect()
    }

    /// Judges what a program printed and how it ended; `trouble` is why it did not end by itself, or not well.
    fn judge(stdout: &str, stderr: &str, trouble: Option<String>) -> Self {
        let output = Output::of(stdout);
        let mut counts = output.counts.unwrap_or_default();
        let mut failures = output.failures;
        let mut lists_no_failure = |message: String| {
            counts.failed += 1;
            failures.push(Failure { test: "(the program)".to_owned(), message });
        };
        match trouble {
            // A failure that no test stands for: what comes after the tests, or a program that died.
            Some(trouble) if output.counts.is_none_or(|counts| counts.failed == 0) => {
                let said = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
                lists_no_failure(format!("{trouble}; last line: {}", said.unwrap_or("none")));
            }
            None if output.counts.is_none() => lists_no_failure("ended without a summary".to_owned()),
            _ => {}
        }
        let mut skips = skips(stderr);
        // A test that skipped itself has passed as far as its program knows.
        let skipped = (skips.len() as u64).min(counts.passed);
        counts.passed -= skipped;
        counts.ignored += skipped;
        skips.extend(output.ignored);
        Self { counts, failures, skips, ..Self::default() }
    }
}

impl TestProgram {
    /// Runs it. Its output goes to files, so nothing that it leaves behind can hold us up.
    ///
    /// # Errors
    /// When it cannot be started; failed tests are no error.
    pub(crate) fn run(&self, settings: &Settings) -> Result<Run> {
        let dir = workspace::target().join("test-logs");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let logs =
            ["stdout", "stderr"].map(|stream| dir.join(format!("{}.{stream}", self.name.replace('/', "."))));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("cannot create {}", path.display()));
        let mut command = Command::new(&self.file);
        command
            .args(&settings.filter)
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir)
            .envs(settings.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(create(&logs[0])?)
            .stderr(create(&logs[1])?);
        let start = Instant::now();
        let ended = Group::spawn(&mut command)
            .and_then(|group| group.wait(settings.limit, || false))
            .with_context(|| format!("cannot run {}", self.file.display()))?;
        let trouble = match ended {
            None => Some(format!("not finished after {} s: killed", settings.limit.as_secs())),
            Some(status) => complaint(status),
        };
        let read = |path: &Path| {
            fs::read(path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let run = Run::judge(&read(&logs[0])?, &read(&logs[1])?, trouble);
        Ok(Run { took: start.elapsed(), logs, ..run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_and_others_are_reported_apart() {
        let messages = [
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/conn-user#0.1.0","manifest_path":"/w/conn-user/Cargo.toml","target":{"kind":["lib"],"name":"conn_user"},"profile":{"test":true},"executable":"/t/conn_user-1"}"#,
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/conn-user#0.1.0","manifest_path":"/w/conn-user/Cargo.toml","target":{"kind":["bin"],"name":"conn"},"profile":{"test":false},"executable":"/t/conn"}"#,
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#conn-tests@0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"scenarios"},"profile":{"test":true},"executable":"/t/scenarios-1"}"#,
            r#"{"reason":"compiler-artifact","package_id":"registry+x#libc@0.2.1","manifest_path":"/r/libc/Cargo.toml","target":{"kind":["lib"],"name":"libc"},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "no message",
        ];
        let built = Built::of(&messages.join("\n"));
        let scenarios = TestProgram {
            name: "conn-tests/scenarios".to_owned(),
            file: "/t/scenarios-1".into(),
            dir: "/w/tests".into(),
        };
        assert_eq!(built.test("conn-tests/scenarios").expect("built"), &scenarios);
        assert_eq!(built.test("conn-user").expect("built").file, Path::new("/t/conn_user-1"));
        assert_eq!(built.tests.len(), 2);
        assert_eq!(built.programs, BTreeMap::from([("conn".to_owned(), PathBuf::from("/t/conn"))]));
        assert!(built.test("libc").is_err());
    }

    const GOOD: &str =
        "test a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn a_test_that_skipped_itself_has_not_passed() {
        let run = Run::judge(GOOD, "SKIPPED tests/x.rs:1: no MPTCP\n", None);
        assert_eq!((run.counts.passed, run.counts.ignored), (2, 2));
        assert!(run.is_success());
        assert_eq!(run.skips, ["tests/x.rs:1: no MPTCP"]);
    }

    #[test]
    fn a_program_that_fails_after_its_tests_or_dies_has_a_failure() {
        let run =
            Run::judge(GOOD, "scenarios: FAILED at the end: lost 3\n", Some("ended with 101".to_owned()));
        assert_eq!(run.counts.failed, 1);
        let message = "ended with 101; last line: scenarios: FAILED at the end: lost 3";
        assert_eq!(run.failures[0].message, message);
        let died = Run::judge("test a ... ok\n", "", Some("killed by signal 11".to_owned()));
        assert_eq!(died.failures[0].message, "killed by signal 11; last line: none");
        let cut = Run::judge("", "", None);
        assert_eq!(cut.failures[0].message, "ended without a summary");
        let failed = GOOD.replace("0 failed", "1 failed");
        assert_eq!(Run::judge(&failed, "", Some("ended with 101".to_owned())).counts.failed, 1);
    }

    #[test]
    fn a_killed_program_is_a_failure() {
        let sleep =
            TestProgram { name: "xtask-sleep".to_owned(), file: "/bin/sleep".into(), dir: "/".into() };
        let settings = Settings {
            filter: Some("600".to_owned()),
            limit: Duration::from_millis(50),
            ..Settings::default()
        };
        let run = sleep.run(&settings).expect("it starts");
        assert_eq!(run.counts.failed, 1);
        assert!(run.failures[0].message.starts_with("not finished after 0 s: killed"), "{run:?}");
    }
}
