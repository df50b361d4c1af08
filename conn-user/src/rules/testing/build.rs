//! Processes and rules for tests.

use std::sync::Arc;

use crate::event::alert::{Alert, Evidence, RuleKind, RuleRef, Severity, Value};
use crate::event::samples;
use crate::filter::Filter;
use crate::process::identity::ExeFile;
use crate::process::info::ProcessInfo;
use crate::process::lineage;
use crate::rules::model::{Advice, Detect, Rule};
use crate::units::{BootNs, DurationNs, Pid};

/// A second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// So many seconds.
pub(crate) const fn seconds(count: u64) -> DurationNs {
    DurationNs(count * SECOND)
}

/// A child of init with everything known; its start is its pid in ticks.
pub(crate) fn process(pid: u32, exe: &str) -> Arc<ProcessInfo> {
    let init = ProcessInfo { comm: b"systemd"[..].into(), ..ProcessInfo::new(Pid(1), BootNs(0)) };
    child(&init, pid, exe)
}

/// A child of another parent with everything known; its start is its pid in ticks.
pub(crate) fn child(parent: &ProcessInfo, pid: u32, exe: &str) -> Arc<ProcessInfo> {
    let name = exe.rsplit('/').next().unwrap_or_default().as_bytes();
    let process = ProcessInfo {
        start: BootNs(u64::from(pid) * 10_000_000),
        ppid: Some(parent.pid),
        ancestors: lineage::below(parent),
        comm: name[..name.len().min(15)].into(),
        ..ProcessInfo::clone(&samples::process(pid, b"", exe, &[exe]))
    };
    process.identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
    process.identity.set_sha256(None);
    process.identity.set_copy_of(None);
    process.identity.set_exe_is_host(true);
    Arc::new(process)
}

/// A rule of this id `test`, medium, that reports the same again after an hour.
pub(crate) fn rule(detect: Detect, matches: &str) -> Rule {
    let kind = match detect {
        Detect::Path(_) => RuleKind::Path,
        Detect::Process(_) => RuleKind::Process,
        Detect::Server(_) => RuleKind::Server,
        Detect::Long(_) => RuleKind::Long,
        Detect::Missing(_) => RuleKind::Missing,
    };
    Rule {
        about: Arc::new(RuleRef { id: "test".into(), kind, title: "A test".into(), attack: Box::default() }),
        severity: Severity::Medium,
        matches: Filter::new(matches).expect("a filter"),
        except: Box::default(),
        covers: Arc::default(),
        throttle: seconds(3_600),
        detect,
        advice: Advice::default(),
    }
}

/// The evidence of this name.
pub(crate) fn evidence<'a>(alert: &'a Alert, name: &str) -> Option<&'a Value> {
    let found = |evidence: &&Evidence| evidence.name == name;
    alert.evidence.iter().find(found).map(|evidence| &evidence.value)
}
