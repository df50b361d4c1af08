//! A run by its events: what is told, judged and learnt.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::samples;
use crate::flow::model::{ConnEvent, ConnId, Failure};
use crate::learn::run::learn;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::rules::file;
use crate::rules::host::Host;
use crate::rules::testing::{BEGAN, SECOND, process};

/// A connection that the command makes, to this port.
#[derive(Clone, Copy, Debug)]
struct Made {
    port: u16,
    fails: bool,
}

fn conn(id: u64, owner: &Arc<ProcessInfo>, port: u16) -> ConnEvent {
    let mut conn = ConnEvent { id: ConnId(id), ..samples::outgoing() };
    conn.owner.process = Some(Arc::clone(owner));
    conn.remote = format!("127.0.0.1:{port}").parse().expect("an address");
    conn
}

fn run(rules: Option<&RuleSet>, made: &[Made]) -> Report {
    let (ours, other) = (process(100, "/usr/bin/client"), process(200, "/usr/bin/other"));
    let tree = SharedTree::default();
    tree.borrow_mut().plant(ours.pid, ours.start);
    let mut run = Run::new(rules, tree, BEGAN);
    let mut seq = 0;
    let mut tell = |change| {
        seq += 1;
        let boot = BootNs(BEGAN.0 + seq * SECOND);
        run.on_event(&Event { seq, boot, wall: WallNs(boot.0), body: EventBody::Flow(change) });
    };
    for (id, made) in (1..).zip(made) {
        let conn = conn(2 * id, &ours, made.port);
        tell(Change::Connect(conn.clone()));
        if made.fails {
            tell(Change::Failed(conn, Failure { errno: 111, after: None }));
        } else {
            tell(Change::Established(conn));
        }
        // Somebody else's is nothing to the run.
        tell(Change::Connect(self::conn(2 * id + 1, &other, 9)));
    }
    let end = BootNs(BEGAN.0 + 9_999 * SECOND);
    run.finish(vec![b"client"[..].into()], (ExitStatus::Code(0), end), end, 0)
}

fn read(text: &str) -> RuleSet {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("conn-run-{}-{number}.toml", std::process::id()));
    fs::write(&path, text).expect("a file");
    let rules = file::load(std::slice::from_ref(&path), &Host::default());
    fs::remove_file(&path).expect("the file");
    rules.unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn any_made() -> impl Strategy<Value = Made> {
    (1_u16..30_000, any::<bool>()).prop_map(|(port, fails)| Made { port, fails })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What was learnt holds for the same run; another port is told, once, by its name; without it all is missing.
    #[test]
    fn a_learnt_file_passes_and_a_change_does_not(made in prop::collection::vec(any_made(), 0..8)) {
        let good = run(None, &made);
        let rules = read(&learn(&good.good_run(32_768..=60_999)).expect("not too much"));
        prop_assert_eq!(run(Some(&rules), &made).exit_code(true, 6), 0);

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

#[test]
fn the_report_names_what_is_wrong() {
    let good = run(None, &[Made { port: 80, fails: false }]);
    let rules = read(&learn(&good.good_run(32_768..=60_999)).expect("not too much"));
    let report = run(Some(&rules), &[Made { port: 80, fails: true }, Made { port: 81, fails: false }]);
    let mut out = Vec::new();
    text::write(&report, false, &mut out);
    let out = String::from_utf8(out).expect("UTF-8");
    assert!(
        out.contains("unexpected: /usr/bin/client[100] out ") && out.contains("-> 127.0.0.1:81 "),
        "{out}"
    );
    assert!(out.contains("dport:80\": 0 of 1, 1 attempt failed (ECONNREFUSED)"), "{out}");
    assert!(!out.contains("other"), "{out}");
    let cases = junit::cases(&report, false);
    let failed =
        cases.iter().filter(|case| matches!(case.outcome, crate::output::junit::Outcome::Failed { .. }));
    assert_eq!((cases.len(), failed.count()), (4, 2));
    let mut line = Vec::new();
    json::write(&report, false, &samples::identity(), WallNs(1), &mut line);
    let json: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!((&json["kind"], &json["verdict"]), (&"run".into(), &"failed".into()));
    assert_eq!(json["unexpected"][0]["rport"], 81);
    assert_eq!(json["missing"][0], "run.missing.connection");
}

#[test]
fn the_commands_own_code_wins_and_a_loss_fails_only_if_asked() {
    let mut report = run(None, &[]);
    report.loss.records = 3;
    assert_eq!((report.exit_code(false, 6), report.exit_code(true, 6)), (0, 6));
    report.ended = ExitStatus::Code(9);
    assert_eq!(report.exit_code(true, 6), 9);
    report.ended = ExitStatus::Signal(15);
    assert_eq!(report.exit_code(true, 6), 143);
}
