//! Logs of Zeek, written here in both formats and packed, judged by `conn replay`. The findings are those that RITA's published
//! definitions demand (activecm/rita v5, `analysis/beacons.go`, `analysis/analysis.go`). Needs no kernel and no privileges.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::Value;

/// When the first line begins, seconds.
const BEGAN: u64 = 1_700_000_000;

/// The originator, the responder, seconds after the beginning, how long, bytes, state.
type Line = (&'static str, &'static str, u64, u64, u64, &'static str);

fn tsv(lines: &[Line]) -> String {
    let mut out = String::from(
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n\
         #fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\tlocal_orig\thistory\n",
    );
    for (at, (orig, resp, begins, lasts, bytes, state)) in lines.iter().enumerate() {
        let line = format!(
            "{}.250000\tC{at}\t{orig}\t40000\t{resp}\t443\ttcp\t-\t{lasts}.0\t{bytes}\t100\t{state}\t-\tShADadFf\n",
            BEGAN + begins
        );
        out += &line;
    }
    out + "#close\t2023-11-15-00-00-00\n"
}

fn json(lines: &[Line]) -> String {
    let line = |(at, (orig, resp, begins, lasts, bytes, state)): (usize, &Line)| {
        format!(
            "{{\"ts\":{}.25,\"uid\":\"C{at}\",\"id.orig_h\":\"{orig}\",\"id.orig_p\":40000,\"id.resp_h\":\"{resp}\",\
             \"id.resp_p\":443,\"proto\":\"tcp\",\"duration\":{lasts}.0,\"orig_bytes\":{bytes},\"resp_bytes\":100,\
             \"conn_state\":\"{state}\",\"history\":\"ShADadFf\"}}\n",
            BEGAN + begins
        )
    };
    lines.iter().enumerate().map(line).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, rules: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("conn-zeek-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("rules")).expect("a folder");
        fs::write(folder.join("rules/rules.toml"), rules).expect("a file");
        Self(folder)
    }

    /// The alerts of a log, and what was said on standard error.
    fn replay(&self, log: &[u8]) -> (String, String, Option<i32>) {
        fs::write(self.0.join("log"), log).expect("a file");
        let out = Command::new(env!("CARGO_BIN_EXE_conn"))
            .args(["replay", "log", "--json", "--rules", "rules"])
            .current_dir(&self.0)
            .output()
            .expect("conn runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(out.stdout), text(out.stderr), out.status.code())
    }

    /// The alerts of these lines, which are the same in both formats and packed.
    fn alerts(&self, lines: &[Line]) -> Vec<Value> {
        let (alerts, stderr, code) = self.replay(tsv(lines).as_bytes());
        assert_eq!(code, Some(0), "{stderr}");
        for log in [
            json(lines).into_bytes(),
            gzip(&tsv(lines)),
            compress_to_vec(json(lines).as_bytes(), CompressionLevel::Fastest),
        ] {
            let (other, stderr, _) = self.replay(&log);
            assert_eq!(other, alerts, "{stderr}");
        }
        alerts.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn evidence<'a>(alert: &'a Value, name: &str) -> &'a Value {
    let all = &alert["alert"]["evidence"];
    all.get(name).unwrap_or_else(|| panic!("no {name}: {alert}"))
}

/// RITA on the intervals 56, 58, 60, 62, 64 s again and again: median 60, MAD 2 (deviations 4, 2, 0, 2, 4), so the dispersion
/// scores (60 - 2) / 60 = 0.967; the quartiles 58, 60, 62 have no skew: 1. The timestamp score is (1 + 0.967) / 2 = 0.983, that of
/// equal sizes 1; the mean of both is 0.992.
#[test]
fn a_beacon_is_told_with_its_score_and_people_are_not() {
    let rules = "[[rule]]\nid = 'b'\nkind = 'path'\nfind = 'beacon'\nmatch = 'dir:out'\nscore = 0.9\nat_least = 20\nthrottle = '24h'\n";
    let folder = Folder::new("beacon", rules);
    let (mut lines, mut at): (Vec<Line>, u64) = (Vec::new(), 0);
    for turn in 0..41 {
        lines.push(("10.0.0.5", "203.0.113.9", at, 1, 300, "SF"));
        // Another host has the same peer, now and then: it is no part of the clock.
        if turn % 7 == 3 {
            lines.push(("10.0.0.6", "203.0.113.9", at + turn * turn % 31, 1, 5_000 + turn * 991, "SF"));
        }
        at += [56, 58, 60, 62, 64][turn as usize % 5];
    }
    lines.reverse();
    let alerts = folder.alerts(&lines);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["laddr"], "10.0.0.5");
    let score = evidence(&alerts[0], "score").as_f64().expect("a number");
    assert!((score - 0.99).abs() < 0.01, "{score}");
    assert_eq!(alerts[0]["reason"], "no_processes");
}

/// RITA's thresholds of long connections are 1, 4, 8 and 12 h. One of 5 h passes two of them, at their instants.
#[test]
fn a_long_connection_passes_its_levels() {
    let rules = "[[rule]]\nid = 'l'\nkind = 'long'\nmatch = 'dir:out'\nlevels = ['1h', '4h', '8h', '12h']\n";
    let alerts = Folder::new("long", rules).alerts(&[
        ("10.0.0.5", "203.0.113.9", 10, 59 * 60, 1, "SF"),
        ("10.0.0.5", "203.0.113.7", 0, 5 * 3600, 1, "S1"),
    ]);
    let phases: Vec<&str> = alerts.iter().filter_map(|alert| alert["alert"]["phase"].as_str()).collect();
    assert_eq!(phases, ["raised", "escalated", "resolved"], "{alerts:?}");
    assert!(alerts.iter().all(|alert| alert["raddr"] == "203.0.113.7"));
}

/// RITA sums the durations of a pair: 3 of 30 min are 1 h 30 min, above 1 h. The other host's two are 1 h less a minute.
#[test]
fn connections_of_a_pair_are_summed() {
    let rules = "[[rule]]\nid = 's'\nkind = 'long'\nmatch = 'dir:out'\nlevels = ['1h', '4h', '8h', '12h']\nsum = true\n";
    let alerts = Folder::new("sum", rules).alerts(&[
        ("10.0.0.5", "203.0.113.9", 0, 1800, 1, "SF"),
        ("10.0.0.5", "203.0.113.9", 2000, 1800, 1, "SF"),
        ("10.0.0.5", "203.0.113.9", 4000, 1800, 1, "SF"),
        ("10.0.0.6", "203.0.113.9", 0, 1800, 1, "SF"),
        ("10.0.0.6", "203.0.113.9", 2000, 1740, 1, "SF"),
    ]);
    assert_eq!(alerts.first().map(|alert| &alert["laddr"]), Some(&Value::from("10.0.0.5")), "{alerts:?}");
    assert!(alerts.iter().all(|alert| alert["laddr"] == "10.0.0.5"), "{alerts:?}");
}

#[test]
fn what_cannot_be_read_is_told() {
    let rules = "[[rule]]\nid = 'p'\nkind = 'process'\nfind = 'network'\nmatch = 'proc:sh'\n";
    let folder = Folder::new("wrong", rules);
    let lines: [Line; 1] = [("10.0.0.5", "203.0.113.9", 0, 1, 1, "SF")];
    let (_, stderr, code) = folder.replay(tsv(&lines).as_bytes());
    assert_eq!(code, Some(0));
    assert!(stderr.contains("Zeek logs have no processes; not judged: p"), "{stderr}");
    let (_, stderr, code) = folder.replay(tsv(&lines).replace("\tSF\t", "\tXX\t").as_bytes());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("log: line 7: `conn_state` is not a state of a connection: \"XX\""), "{stderr}");
    let packed = gzip(&tsv(&lines).repeat(500));
    let (_, stderr, code) = folder.replay(&packed[..packed.len() / 2]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("the compressed data of log end too early"), "{stderr}");
    let text = json(&lines);
    let (_, stderr, _) = folder.replay([&*text, &text[..30]].concat().as_bytes());
    assert!(stderr.contains("the last line of log is cut off"), "{stderr}");
}
