//! `conn explain` on a recording: a bash connects twice to an outer address with /dev/tcp. No kernel is asked.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CONN: &str = env!("CARGO_BIN_EXE_conn");
const RECORDING: &str = include_str!("explain.jsonl");

/// A folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("conn-explain-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn conn(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(CONN)
        .env("CONN_SOCKET", "")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("conn runs");
    // One that ends with an error reads nothing.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("conn ends")
}

/// Standard output of one that ends well.
fn said(words: &[&str], input: &str) -> String {
    let output = conn(words, input);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(words: &[&str], input: &str) -> Value {
    serde_json::from_str(&said(&[words, &["--json"]].concat(), input)).expect("JSON")
}

/// The lines of a kind.
fn lines(kind: &str) -> Vec<(u64, &'static str)> {
    let seq = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        (line["kind"] == kind).then(|| line["seq"].as_u64().expect("a number"))
    };
    RECORDING.lines().filter_map(|line| Some((seq(line)?, line))).collect()
}

#[test]
fn an_alert_with_an_exception_that_suppresses_it() {
    let text = said(&["explain", "-"], RECORDING);
    for part in [
        "rule      process.shell: Shell with a network connection of its own",
        "holds  proc:@shells     proc is bash, in @shells",
        "reported when it was recorded: yes",
        "coverage: everything was seen",
        "it was over",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let reported = json(&["explain", "-", "--alert", "a1"], RECORDING);
    assert_eq!((&reported["kind"], &reported["given"]), (&"explained_alert".into(), &true.into()));
    assert_eq!(
        (&reported["state"]["finds"], &reported["filters"]["verdict"]),
        (&true.into(), &"selected".into())
    );
    assert_eq!(reported["event"]["seq"], lines("connect")[0].0);
    let exceptions = reported["exceptions"].as_array().expect("exceptions");
    assert!(exceptions.len() > 2, "by unit and user, too: {reported:#}");
    for (number, exception) in exceptions.iter().enumerate() {
        let rules = folder(&format!("suppress-{number}"));
        let toml = exception["toml"].as_str().expect("a text");
        fs::write(rules.join("own.toml"), format!("use = \"defaults\"\n\n{toml}")).expect("a file");
        let rules = rules.to_str().expect("a path");
        assert!(conn(&["check", rules], "").status.success(), "{toml}");
        assert_eq!(said(&["replay", "-", "--rules", rules], RECORDING), "", "{toml}");
        // The recording has the alert, and these rules do not give it.
        let text = said(&["explain", "-", "--alert", "a1", "--rules", rules], RECORDING);
        assert!(text.contains("these rules do not give it on this recording"), "{text}");
        // The rule has exceptions of its own; ours is behind them.
        let holds = (1..20).any(|number| text.contains(&format!("exception {number} holds")));
        assert!(holds, "{text}");
    }
}

#[test]
fn an_alert_by_each_of_its_names() {
    let (seq, line) = lines("alert")[0];
    let line: Value = serde_json::from_str(line).expect("JSON");
    let name = line["alert"]["id"].as_str().expect("an id");
    let by_id = json(&["explain", "-", "--alert", "a1"], RECORDING);
    assert_eq!(by_id["alert"], name);
    assert_eq!(json(&["explain", "-", "--alert", name], RECORDING), by_id);
    assert_eq!(json(&["explain", "-", "--alert", &seq.to_string()], RECORDING), by_id);
}

#[test]
fn an_alert_alone_is_explained_by_its_subject() {
    let alert = format!("{}\n", lines("alert")[0].1);
    let text = said(&["explain", "-"], &alert);
    assert!(text.contains("holds  proc:@shells     proc is bash, in @shells"), "{text}");
    assert!(text.contains("what the rule remembered is not in an alert"), "{text}");
    let reported = json(&["explain", "-"], &alert);
    assert_eq!((&reported["given"], &reported["state"]), (&false.into(), &Value::Null));
    assert!(!reported["exceptions"].as_array().expect("exceptions").is_empty());
}

#[test]
fn an_event_that_was_only_counted_and_near_misses() {
    let seq = lines("connect")[1].0.to_string();
    let text = said(&["explain", "-", "--event", &seq], RECORDING);
    assert!(text.contains("nothing was reported at this event"), "{text}");
    let says = |line: &str| Some(line.trim_start().strip_prefix("process.shell ")?.trim_start().to_owned());
    assert_eq!(text.lines().find_map(says).as_deref(), Some("the same was reported already"), "{text}");
    assert!(text.contains("fails 1 of 2 words: dst:metadata  dst is 203.0.113.9"), "{text}");
    let text = said(&["explain", "-", "--event", &seq, "--rule", "process.shell"], RECORDING);
    assert!(text.contains("what the rule decides\n  every match raises an alert\n"), "{text}");
    assert!(text.contains("the same was reported as a1"), "{text}");
    // What its filters do not let pass is decided as if they did.
    let text = said(&["explain", "-", "--event", &seq, "--rule", "path.metadata"], RECORDING);
    let assumed = "what it would decide if its filters let it pass\n  every match raises an alert\n";
    assert!(text.contains(assumed), "{text}");
    let reported = json(&["explain", "-", "--event", &seq], RECORDING);
    assert_eq!(reported["rules"][0]["rule"]["id"], "process.shell");
    assert_eq!(reported["rules"][0]["state"]["duplicate_of"]["alert"], "a1");
    let first = lines("connect")[0].0.to_string();
    let text = said(&["explain", "-", "--event", &first], RECORDING);
    assert!(text.contains("reported: a1 process.shell"), "{text}");
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let alert = lines("alert")[0].0.to_string();
    for (words, code, said) in [
        (&["--alert", "a9"][..], 1, "there is no alert `a9`; there are a1"),
        (&["--alert", "x"], 2, "`x` is no id of an alert"),
        (&["--event", "999999"], 1, "there is no event 999999; they have the numbers (seq)"),
        (&["--event", &alert], 1, "is an alert: --alert"),
        (&["--event", "0"], 1, "what was there at the start has no number of its own"),
        (&["--alert", "a1", "--rule", "process.shell"], 2, "cannot be used with"),
        (&["--event", "1", "--rule", "process.shel"], 1, "did you mean `process.shell`?"),
        (&["--rule", "process.shell"], 2, "--event"),
    ] {
        let output = conn(&[&["explain", "-"], words].concat(), RECORDING);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert!(error.contains(said) && output.stdout.is_empty(), "{words:?}: {error}");
    }
}
