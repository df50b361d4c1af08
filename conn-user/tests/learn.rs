//! `conn learn` from a recording, and the replay of others by what was learnt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use conn_common::hook::HookId;
use conn_user::event::json::{JsonEncoder, StreamIdentity};
use conn_user::event::model::{Event, EventBody, Start};
use conn_user::flow::model::{Actor, Change, ConnEvent, ConnId, Direction, ListenEvent, Method};
use conn_user::process::info::{ProcessInfo, ProcessSource};
use conn_user::units::{BootNs, NetNs, Pid, WallNs};

const SECOND: u64 = 1_000_000_000;
/// 2026-11-26 21:00:00 UTC.
const BEGAN: u64 = 1_795_726_800 * SECOND;

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("conn-learn-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// A recording of what happens.
    fn record(&self, name: &str, what: &[Change]) -> String {
        let identity =
            StreamIdentity { host: "web1".to_owned(), boot_id: "b".to_owned(), agent_start: BootNs(1) };
        let (mut encoder, mut out) = (JsonEncoder::new(&identity), Vec::new());
        let mut add = |seq: u64, body| {
            let boot = BootNs((100 + seq) * SECOND);
            encoder.encode(&Event { seq, boot, wall: WallNs(BEGAN + seq * SECOND), body }, &mut out);
        };
        add(0, EventBody::Start(Start { attached: BootNs(99 * SECOND), has_facts: false }));
        for (change, seq) in what.iter().zip(1..) {
            add(seq, EventBody::Flow(change.clone()));
        }
        let path = self.path(name);
        fs::write(&path, out).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn by(pid: u32, exe: &str) -> Actor {
    let name = exe.rsplit('/').next().unwrap_or_default();
    let process = ProcessInfo {
        ppid: Some(Pid(1)),
        comm: name.as_bytes().into(),
        exe: Some(exe.as_bytes().into()),
        source: ProcessSource::Exec,
        ..ProcessInfo::new(Pid(pid), BootNs(u64::from(pid) * 10_000_000))
    };
    process.identity.set_exe_is_host(true);
    Actor { process: Some(Arc::new(process)), tid: None, method: Method::Hook(HookId::FentryTcpConnect) }
}

fn connect(id: u64, owner: Actor, remote: &str) -> Change {
    Change::Connect(ConnEvent {
        begun: BootNs(1),
        ..ConnEvent::new(
            ConnId(id),
            Direction::Out,
            ("10.0.0.1:40000".parse().expect("an address"), remote.parse().expect("an address")),
            NetNs(1),
            owner,
        )
    })
}

fn listen(id: u64, owner: Actor, local: &str) -> Change {
    Change::Listen(ListenEvent::new(ConnId(id), local.parse().expect("an address"), NetNs(1), owner))
}

fn day() -> Vec<Change> {
    vec![
        listen(1, by(10, "/usr/sbin/nginx"), "0.0.0.0:80"),
        connect(2, by(11, "/usr/bin/curl"), "192.0.2.1:443"),
        connect(3, by(12, "/opt/shop-1.4/bin/shop"), "127.0.0.1:5432"),
    ]
}

fn news() -> Vec<Change> {
    let mut all = day();
    all.extend([
        connect(4, by(11, "/usr/bin/curl"), "198.51.100.7:443"),
        listen(5, by(12, "/opt/shop-1.5/bin/shop"), "0.0.0.0:8080"),
        connect(6, by(13, "/tmp/x"), "198.51.100.8:4444"),
    ]);
    all
}

fn conn(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conn")).args(words).env("CONN_SOCKET", "").output().expect("conn runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// It ended with this code; what it wrote.
fn ended(words: &[&str], code: i32) -> (String, String) {
    let output = conn(words);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
    (out, err)
}

fn rules_of(lines: &str) -> Vec<String> {
    let rule = |line: &str| {
        let alert: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (alert["alert"]["phase"] == "raised")
            .then(|| alert["alert"]["rule"].as_str().expect("a rule").to_owned())
    };
    lines.lines().filter_map(rule).collect()
}

#[test]
fn what_was_learnt_is_silent_and_what_is_new_is_reported_until_it_is_accepted() {
    let folder = Folder::new("whole");
    let (day, more) = (folder.record("day.jsonl", &day()), folder.record("more.jsonl", &news()));
    let (file, alerts) = (folder.path("baseline.toml"), folder.path("alerts.jsonl"));
    ended(&["learn", &day, "-o", &file], 0);
    let learnt = fs::read_to_string(&file).expect("a file");
    assert!(learnt.starts_with("# What is normal on web1: learnt by `conn learn` from "), "{learnt}");
    assert!(learnt.contains("exe = \"/opt/shop-[0-9]*/bin/shop\""), "{learnt}");
    let (out, err) = ended(&["check", &file], 0);
    assert!(out.ends_with("3 rules ok; a baseline of 3 entries\n") && err.is_empty(), "{out}{err}");

    let (out, _) = ended(&["replay", "--json", "--exit-code", "--rules", &file, &day], 0);
    assert_eq!(out, "");
    let (out, _) = ended(&["replay", "--json", "--exit-code", "--rules", &file, &more], 6);
    assert_eq!(rules_of(&out), ["baseline.path", "baseline.server", "baseline.process"]);
    fs::write(&alerts, out).expect("a file");

    // The difference, of what is learnt anew and of files.
    let (out, _) = ended(&["learn", &more, "--diff", &file], 0);
    assert!(out.ends_with("3 new, 0 gone\n"), "{out}");
    let (out, _) = ended(&["learn", "--diff", &file, &more, "--json", "--exit-code"], 5);
    assert_eq!(out.lines().count(), 4, "{out}");

    let old = folder.path("old.toml");
    fs::copy(&file, &old).expect("copied");
    let (_, err) = ended(&["learn", "--accept", &alerts, "-o", &file], 0);
    assert!(err.starts_with("conn: 3 alerts accepted: 3 new entries in "), "{err}");
    let accepted = fs::read_to_string(&file).expect("a file");
    assert!(accepted.starts_with(&learnt), "all that was there is as it was");
    assert_eq!(accepted.matches("# Accepted by ").count(), 3);
    let (out, _) = ended(&["replay", "--json", "--exit-code", "--rules", &file, &more], 0);
    assert_eq!(out, "");
    ended(&["learn", "--diff", &file, &more, "--exit-code"], 0);
    let (out, _) = ended(&["learn", "--diff", &old, &file, "--exit-code"], 5);
    assert!(out.contains("+ exe /tmp/x: out 198.51.100.8 port 4444  ("), "{out}");

    // Again: nothing is added twice.
    ended(&["learn", "--accept", &alerts, "-o", &file], 0);
    assert_eq!(fs::read_to_string(&file).expect("a file"), accepted);
    let others = fs::read_dir(&folder.0).expect("a folder").count();
    assert_eq!(others, 5, "no temporary file is left");
}

#[test]
fn what_is_no_alert_of_a_baseline_is_refused() {
    let folder = Folder::new("refused");
    let day = folder.record("day.jsonl", &day());
    let (file, rules) = (folder.path("baseline.toml"), folder.path("rules.toml"));
    ended(&["learn", &day, "-o", &file], 0);
    fs::write(&rules, "[[rule]]\nid = 'x'\nkind = 'path'\nfind = 'forbidden'\nmatch = 'dport:443'\n")
        .expect("a file");
    let (alert, _) = ended(&["replay", "--json", "--rules", &rules, &day], 0);
    let alerts = folder.path("alerts.jsonl");
    fs::write(&alerts, alert).expect("a file");
    let before = fs::read(&file).expect("a file");
    let (_, err) = ended(&["learn", "--accept", &alerts, "-o", &file], 2);
    assert!(err.contains("except = 'exe:/usr/bin/curl dport:443 raddr:192.0.2.1'"), "{err}");
    fs::write(&alerts, "").expect("a file");
    ended(&["learn", "--accept", &alerts, "-o", &file], 2);
    assert_eq!(fs::read(&file).expect("a file"), before);
}

#[test]
fn a_rule_without_a_baseline_is_not_in_force() {
    let folder = Folder::new("none");
    let rules = folder.path("rules.toml");
    fs::write(&rules, "[[rule]]\nid = 'x'\nkind = 'path'\nbaseline = true\nmatch = ''\n").expect("a file");
    let (out, err) = ended(&["check", &rules], 0);
    assert!(out.ends_with("1 rule ok, 1 of them not enabled\n"), "{out}");
    assert!(err.contains("the rule `x` is not active: it asks for a baseline"), "{err}");
    let day = folder.record("day.jsonl", &day());
    assert_eq!(ended(&["replay", "--json", "--rules", &rules, &day], 0).0, "");
}

#[test]
fn what_cannot_be_written_is_not_lost() {
    let folder = Folder::new("lost");
    let day = folder.record("day.jsonl", &day());
    let (out, err) = ended(&["learn", &day, "-o", &folder.path(".")], 1);
    assert!(out.starts_with("# What is normal on web1"), "{out}");
    assert!(err.contains("it was written to standard output instead: cannot write "), "{err}");
}

#[test]
fn wrong_usage_is_reported() {
    for (words, part) in [
        (&["learn"][..], "say from what to learn"),
        (&["learn", "x.toml"], "a rule file is no recording"),
        (&["learn", "--accept", "x"], "--output"),
        (&["learn", "--for", "1s", "x.jsonl"], "cannot be used with"),
        (&["learn", "x.jsonl", "--exit-code"], "--diff"),
        (&["learn", "--from-units", "--diff", "x"], "cannot be used with"),
        (&["learn", "x.jsonl", "--diff", "/nowhere/x.toml"], "cannot read this file"),
    ] {
        let (_, err) = ended(words, 2);
        assert!(err.contains(part), "{words:?}: {err}");
    }
    let (_, err) = ended(&["learn", "/nowhere/x.jsonl"], 1);
    assert!(err.contains("/nowhere/x.jsonl"), "{err}");
    assert!(!Path::new("x.toml").exists());
}

/// What a default rule raises an alert about is not learned: it is a comment of the file, and listed.
#[test]
fn an_intruder_is_marked_as_suspicious() {
    let folder = Folder::new("suspicious");
    let mut all = day();
    all.push(connect(9, by(13, "/tmp/x"), "198.51.100.8:443"));
    let (recorded, file) = (folder.record("day.jsonl", &all), folder.path("baseline.toml"));
    let (_, err) = ended(&["learn", &recorded, "-o", &file], 0);
    assert!(err.contains("1 entries are suspicious"), "{err}");
    assert!(err.contains("SUSPICIOUS process.drop-place: ") && err.contains(": /tmp/x: out "), "{err}");
    let learnt = fs::read_to_string(&file).expect("a file");
    assert!(learnt.contains("# SUSPICIOUS process.drop-place: ") && learnt.contains("# exe = \"/tmp/x\""));
    let (out, _) = ended(&["check", &file], 0);
    assert!(out.ends_with("a baseline of 3 entries\n"), "{out}");
}
