//! A run by its events: what is reported, judged and learnt.

use std::sync::Arc;

use proptest::prelude::*;

use super::samples::{Rig, at, client, closed, failed, other, passed, read, to};
use super::*;
use crate::event::model::ProcEvent;
use crate::event::samples::{compare_file, identity};
use crate::flow::model::{Change, Failure};
use crate::learn::run::{GoodRun, learn};
use crate::output::junit as junit_file;
use crate::process::identity::{ExeFile, Identity};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::rules::testing::{BEGAN, SECOND, child};
use crate::units::DurationNs;

const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A connection that the command makes, to this port.
#[derive(Clone, Copy, Debug)]
struct Made {
    port: u16,
    fails: bool,
}

fn run(rules: Option<&RuleSet>, made: &[Made]) -> Report {
    let mut rig = Rig::new(rules);
    for (id, made) in (1..).zip(made) {
        let conn = to(2 * id, &client(), &format!("127.0.0.1:{}", made.port));
        rig.change(Change::Connect(conn.clone()));
        if made.fails {
            rig.change(Change::Failed(conn, Failure { errno: 111, after: None }));
        } else {
            rig.change(Change::Established(conn));
        }
        // Somebody else's is nothing to the run.
        rig.change(Change::Connect(to(2 * id + 1, &other(), "127.0.0.1:9")));
    }
    rig.finish(ExitStatus::Code(0))
}

fn any_made() -> impl Strategy<Value = Made> {
    (1_u16..30_000, any::<bool>()).prop_map(|(port, fails)| Made { port, fails })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// What was learnt holds for the same run; another port is reported, once, by its name; without it all is missing.
    #[test]
    fn a_learnt_file_passes_and_a_change_does_not(made in prop::collection::vec(any_made(), 0..8)) {
        let good = run(None, &made);
        let rules = read(&learn(&good.good_run(EPHEMERAL)).expect("not too much"));
        prop_assert_eq!(run(Some(&rules), &made).exit_code(false, 6), 0);

        let changed: Vec<Made> = made.iter().copied().chain([Made { port: 31_000, fails: false }]).collect();
        let report = run(Some(&rules), &changed);
        prop_assert_eq!((report.unexpected.len(), report.missing().count()), (1, 0));
        prop_assert!(report.unexpected[0].what().contains("127.0.0.1:31000"));
        prop_assert_eq!(report.exit_code(false, 6), 6);

        let nothing = run(Some(&rules), &[]);
        let ports: std::collections::BTreeSet<u16> =
            made.iter().filter(|made| !made.fails).map(|made| made.port).collect();
        prop_assert_eq!(nothing.missing().count(), ports.len());
    }
}

fn golden(name: &str, actual: &[u8]) {
    let path = format!("{}/src/run/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    compare_file(&path, std::str::from_utf8(actual).expect("UTF-8"));
}

/// Reports as people and CI systems get them; names and arguments of programs in them are hostile.
#[test]
fn reports() {
    for (name, report) in [("failed", failed()), ("passed", passed(0)), ("inconclusive", passed(3))] {
        let (mut shown, mut line) = (Vec::new(), Vec::new());
        text::write(&report, None, &mut shown);
        golden(&format!("{name}.txt"), &shown);
        shown.clear();
        text::write(&report, Some(80), &mut shown);
        golden(&format!("{name}.80.txt"), &shown);
        json::write(&report, &identity(), WallNs(1_795_491_831_123_456_789), &mut line);
        golden(&format!("{name}.json"), &line);
        let xml = junit_file::report(&report.command_line(), &junit::cases(&report, false));
        golden(&format!("{name}.xml"), &xml.expect("a report"));
    }
}

/// Rules as they are learnt, for people to read.
#[test]
fn learnt() {
    let mut good = GoodRun { lost: 0, ..failed().good_run(EPHEMERAL) };
    // A listener whose port the kernel chose, and a connection to it.
    let mut rig = Rig::new(None);
    rig.change(Change::Listen(at(1, &client(), "127.0.0.1:40001")));
    rig.change(Change::Established(to(2, &client(), "127.0.0.1:40001")));
    let chosen = rig.finish(ExitStatus::Code(0)).good_run(EPHEMERAL);
    good.connections.extend(chosen.connections);
    good.listeners.extend(chosen.listeners);
    let text = learn(&good).expect("not too much");
    golden("learnt.toml", text.as_bytes());
    assert_eq!(read(&text).rules.len(), 7);
    let incomplete = learn(&passed(3).good_run(EPHEMERAL)).expect("not too much");
    assert!(incomplete.contains("# INCOMPLETE: 3 records were lost"), "{incomplete}");
}

#[test]
fn the_commands_own_code_wins() {
    let mut report = failed();
    assert_eq!(report.exit_code(false, 6), 128 + 15);
    report.ended = ExitStatus::Code(9);
    assert_eq!(report.exit_code(false, 6), 9);
    report.ended = ExitStatus::Code(0);
    assert_eq!((report.exit_code(false, 6), report.exit_code(false, 33)), (6, 33));
    assert_eq!(passed(0).exit_code(false, 6), 0);
}

/// What may have been missed is no pass, unless that was asked for; what was seen to be wrong is wrong either way.
#[test]
fn a_loss_is_never_a_pass() {
    let report = passed(1);
    assert_eq!(report.verdict(), report::Verdict::Inconclusive);
    assert_eq!((report.exit_code(false, 6), report.exit_code(true, 6)), (6, 0));
    let failures = |allow_loss| {
        let cases = junit::cases(&report, allow_loss);
        cases.iter().filter(|case| matches!(case.outcome, junit_file::Outcome::Failed { .. })).count()
    };
    assert_eq!((failures(false), failures(true)), (1, 0));
    let failed = Report { ended: ExitStatus::Code(0), ..failed() };
    assert_eq!(failed.exit_code(true, 6), 6);
    // Without expectations there is nothing to doubt.
    let mut rig = Rig::new(None);
    rig.gap(BEGAN, 1);
    assert_eq!(rig.finish(ExitStatus::Code(0)).exit_code(false, 6), 0);
}

#[test]
fn a_command_that_was_not_seen_is_no_pass() {
    let rules = read(
        "[[rule]]\nid = \"a\"\nkind = \"path\"\nfind = \"forbidden\"\ntitle = \"A\"\nseverity = \"low\"\nmatch = 'port:1'\n",
    );
    let report = Rig::blind(Some(&rules)).finish(ExitStatus::Code(0));
    assert_eq!((report.verdict(), report.loss.not_followed), (report::Verdict::Inconclusive, 1));
}

/// A daemon goes on after its command: what it begins then is none of the run, what it ends is.
#[test]
fn what_begins_after_the_end_is_none_of_the_run() {
    let mut rig = Rig::new(Some(&samples::rules()));
    let daemon = child(&client(), 101, "/usr/bin/daemon");
    rig.fork(&client(), &daemon);
    let early = to(1, &daemon, "192.0.2.5:5432");
    rig.change(Change::Established(early.clone()));
    rig.tree.borrow_mut().close(rig.now());
    rig.change(Change::Connect(to(2, &daemon, "203.0.113.1:1")));
    rig.change(Change::Listen(at(3, &daemon, "0.0.0.0:1")));
    rig.emit(EventBody::Exec(ProcEvent::new(Arc::clone(&daemon))));
    rig.change(Change::Close(early, closed(&daemon)));
    // Whoever lost records since then lost none of the run.
    rig.gap(rig.now(), 5);
    let report = rig.finish(ExitStatus::Code(0));
    assert_eq!((report.connections.len(), report.listeners.len()), (1, 0));
    assert_eq!((report.connections[0].open, report.connections[0].bytes_out), (0, 78));
    assert!(report.unexpected.is_empty() && report.loss.is_none());
    assert_eq!(report.survivors.len(), 1);
}

/// Where a program's file lies is found out in the background: an expectation that asks for it waits.
#[test]
fn an_expectation_waits_for_late_facts() {
    let rules = read(
        "[[rule]]\nid = \"a\"\nkind = \"missing\"\nexpect = \"connection\"\ntitle = \"A\"\nseverity = \"low\"\nmatch = 'exe_fs:tmpfs'\n",
    );
    let of = |facts: Option<&[u8]>| {
        let mut rig = Rig::new(Some(&rules));
        let client = Arc::new(ProcessInfo { identity: Identity::default(), ..ProcessInfo::clone(&client()) });
        rig.change(Change::Established(to(1, &client, "192.0.2.5:5432")));
        if let Some(fs) = facts {
            client.identity.set_exe(ExeFile { fs: Some(fs.into()), ..ExeFile::default() });
        }
        rig.finish(ExitStatus::Code(0)).missing().count()
    };
    assert_eq!((of(Some(b"tmpfs")), of(Some(b"ext4")), of(None)), (0, 1, 1));
}

/// Facts that never came leave a doubt, whichever way it is judged then.
#[test]
fn a_verdict_without_its_facts_is_inconclusive() {
    let text = "id = \"a\"\ntitle = \"A\"\nseverity = \"low\"\n";
    let missing = "kind = \"missing\"\nexpect = \"connection\"\nmatch = 'exe_fs:tmpfs'\n";
    let forbidden = "kind = \"path\"\nfind = \"forbidden\"\nmatch = 'dir:out'\nexcept = ['exe:/usr/bin/client exe_flag:host']\n";
    for (kind, unexpected) in [(missing, 0), (forbidden, 1)] {
        let mut rig = Rig::new(Some(&read(&format!("[[rule]]\n{text}{kind}"))));
        let client = Arc::new(ProcessInfo { identity: Identity::default(), ..ProcessInfo::clone(&client()) });
        let conn = to(1, &client, "192.0.2.5:5432");
        rig.change(Change::Connect(conn.clone()));
        rig.change(Change::Established(conn));
        let report = rig.finish(ExitStatus::Code(0));
        assert_eq!((report.unexpected.len(), report.loss.not_followed), (unexpected, 1), "{kind}");
    }
}

/// However much one rule finds, another one that finds something has failed too.
#[test]
fn the_first_finding_of_each_rule_is_reported() {
    let mut rig = Rig::new(Some(&samples::rules()));
    for port in 0..1_100 {
        rig.change(Change::Connect(to(10 + port, &client(), &format!("203.0.113.1:{}", 6_000 + port))));
    }
    rig.change(Change::Listen(at(1, &client(), "0.0.0.0:8080")));
    let report = rig.finish(ExitStatus::Code(0));
    assert_eq!((report.unexpected.len(), report.more_unexpected), (1_001, 100));
    let failed = |id: &str| {
        let cases = junit::cases(&report, false);
        cases.iter().any(|case| case.name == id && matches!(case.outcome, junit_file::Outcome::Failed { .. }))
    };
    assert!(failed("paths") && failed("servers") && !failed("shells"));
}

#[test]
fn the_run_takes_as_long_as_the_command() {
    assert_eq!(passed(0).took, DurationNs(10 * SECOND));
}
