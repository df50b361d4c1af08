//! Logs of Zeek, written here in both formats and packed, judged by `conn replay`. The findings are those that RITA's published
//! definitions demand (activecm/rita v5, `analysis/beacons.go`, `analysis/analysis.go`, `default_config.hjson`), worked out by hand.
//! Needs no kernel and no privileges.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use conn_user::event::time::Rfc3339Reader;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::Value;

/// When the first line begins, seconds.
const BEGAN: u64 = 1_700_000_000;

const BEACON: &str = "\
    [[rule]]\nid = 'b'\nkind = 'path'\nfind = 'beacon'\nmatch = 'dir:out'\nscore = 0.9\nat_least = 20\nthrottle = '24h'\n";
const SUM: &str = "\
    [[rule]]\nid = 's'\nkind = 'long'\nmatch = 'dir:out'\nlevels = ['1h', '4h', '8h', '12h']\nsum = true\n";

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
        self.replay_all(&[("log", log)])
    }

    /// The alerts of logs with these names, what was said on standard error, and the exit code.
    fn replay_all(&self, logs: &[(&str, &[u8])]) -> (String, String, Option<i32>) {
        for (name, log) in logs {
            fs::write(self.0.join(name), log).expect("a file");
        }
        let out = Command::new(env!("CARGO_BIN_EXE_conn"))
            .arg("replay")
            .args(logs.iter().map(|(name, _)| name))
            .args(["--json", "--rules", "rules"])
            .current_dir(&self.0)
            .output()
            .expect("conn runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(out.stdout), text(out.stderr), out.status.code())
    }

    /// The alerts of these lines as `conn replay` writes them: the same in both formats and packed.
    fn written(&self, lines: &[Line]) -> String {
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
        alerts
    }

    /// The alerts of these lines, read.
    fn alerts(&self, lines: &[Line]) -> Vec<Value> {
        read(&self.written(lines))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(alerts: &str) -> Vec<Value> {
    alerts.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn evidence<'a>(alert: &'a Value, name: &str) -> &'a Value {
    let all = &alert["alert"]["evidence"];
    all.get(name).unwrap_or_else(|| panic!("no {name}: {alert}"))
}

/// The scores of an alert: of all, of the intervals, of the sizes.
fn scores(alert: &Value, expected: [f64; 3]) {
    for (name, expected) in ["score", "interval_score", "size_score"].into_iter().zip(expected) {
        let score = evidence(alert, name).as_f64().expect("a number");
        assert!((score - expected).abs() < 0.001, "{name}: {score}, not {expected}");
    }
}

/// RITA on the intervals 56, 58, 60, 62, 64 s again and again: median 60, MAD 2 (deviations 4, 2, 0, 2, 4), so the dispersion
/// scores (60 - 2) / 60 = 0.967; the quartiles 58, 60, 62 have no skew: 1. The timestamp score is (1 + 0.967) / 2 = 0.983, that of
/// equal sizes 1; the mean of both is 0.992.
#[test]
fn a_beacon_is_reported_with_its_score_and_people_are_not() {
    let folder = Folder::new("beacon", BEACON);
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
    scores(&alerts[0], [0.992, 0.983, 1.0]);
    assert_eq!(alerts[0]["reason"], "no_processes");
}

/// RITA on 19 intervals, 550, 580, 600, 610, 630 s again and again: quartiles 580, 600, 610, so a skew of (1190 - 1200) / 30 = -1/3;
/// MAD 20. The timestamp score is (2/3 + 580/600) / 2 = 0.817. Of the sizes 300, 302, 309 again and again the quartiles are those:
/// less than ten apart, no skew; MAD 2. Their score is (1 + 300/302) / 2 = 0.997.
#[test]
fn a_skew_of_ten_seconds_counts_and_one_of_nine_bytes_does_not() {
    let (mut lines, mut at): (Vec<Line>, u64) = (Vec::new(), 0);
    for turn in 0..20 {
        lines.push(("10.0.0.5", "203.0.113.9", at, 1, [300, 302, 309][turn % 3], "SF"));
        at += [550, 580, 600, 610, 630][turn % 5];
    }
    let alerts = Folder::new("skew", BEACON).alerts(&lines);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    scores(&alerts[0], [0.907, 0.817, 0.997]);
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
    let alerts = Folder::new("sum", SUM).alerts(&[
        ("10.0.0.5", "203.0.113.9", 0, 1800, 1, "SF"),
        ("10.0.0.5", "203.0.113.9", 2000, 1800, 1, "SF"),
        ("10.0.0.5", "203.0.113.9", 4000, 1800, 1, "SF"),
        ("10.0.0.6", "203.0.113.9", 0, 1800, 1, "SF"),
        ("10.0.0.6", "203.0.113.9", 2000, 1740, 1, "SF"),
    ]);
    assert_eq!(alerts.first().map(|alert| &alert["laddr"]), Some(&Value::from("10.0.0.5")), "{alerts:?}");
    assert!(alerts.iter().all(|alert| alert["laddr"] == "10.0.0.5"), "{alerts:?}");
}

/// RITA adds what an open connection has lasted so far (`open_conn.log`): 40 min and 30 min are above 1 h, 40 min are not. It has
/// lasted 20 min when the sum is 1 h.
#[test]
fn an_open_connection_is_in_the_sum() {
    let folder = Folder::new("open", SUM);
    let ended = tsv(&[("10.0.0.5", "203.0.113.9", 0, 2400, 1, "SF")]);
    let open = tsv(&[("10.0.0.5", "203.0.113.9", 3000, 1800, 1, "S1")]);
    let open = open.replace("#path\tconn\n", "#path\topen_conn\n").replace("\tC0\t", "\tC1\t");
    let (alerts, stderr, _) = folder.replay(ended.as_bytes());
    assert_eq!(alerts, "", "{stderr}");
    let (alerts, stderr, _) =
        folder.replay_all(&[("conn.log", ended.as_bytes()), ("open_conn.log", open.as_bytes())]);
    let alerts = read(&alerts);
    assert_eq!(alerts.len(), 1, "{stderr}");
    assert_eq!(alerts[0]["alert"]["phase"], "raised");
    let ts = alerts[0]["ts"].as_str().unwrap_or_default();
    let at = Rfc3339Reader::default().read(ts).map(|at| at.0);
    assert_eq!(at, Some((BEGAN + 3000 + 1200) * 1_000_000_000 + 250_000_000), "{}", alerts[0]);
    assert_eq!(evidence(&alerts[0], "connections"), 2);
}

/// What the default rules report a log, to the letter; `CONN_BLESS=1` writes the file instead.
#[test]
fn the_alerts_of_a_log_are_those_of_the_file() {
    let mut lines: Vec<Line> = vec![
        ("10.0.0.6", "203.0.113.7", 30, 5 * 3600, 9_000, "SF"),
        ("10.0.0.6", "203.0.113.8", 40, 2 * 3600, 70, "S1"),
        // Others that are seen and are nothing: refused, asked from outside, there before.
        ("10.0.0.6", "203.0.113.1", 50, 0, 0, "REJ"),
        ("198.51.100.4", "10.0.0.7", 60, 0, 0, "S0"),
        ("198.51.100.4", "10.0.0.7", 61, 20, 500, "RSTO"),
        ("10.0.0.7", "10.0.0.8", 70, 900, 500, "OTH"),
    ];
    let mut at = 100;
    for turn in 0..41 {
        lines.push(("10.0.0.5", "203.0.113.9", at, 1, 300, "SF"));
        at += [56, 58, 60, 62, 64][turn % 5];
    }
    let written = Folder::new("golden", "use = 'defaults'\n").written(&lines);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zeek.jsonl");
    if std::env::var_os("CONN_BLESS").is_some() {
        fs::write(path, &written).expect("a writable file");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == expected,
        "{path} is not what conn gives; CONN_BLESS=1 cargo test writes it:\n{written}"
    );
}

/// The shapes in which tools between Zeek and conn leave a log: the same alerts, or the cause in words.
#[test]
fn other_shapes_are_read_or_named() {
    let folder = Folder::new("shapes", SUM);
    let lines: [Line; 1] = [("10.0.0.5", "203.0.113.9", 0, 20_000, 1, "SF")];
    let expected = folder.written(&lines);
    assert!(!expected.is_empty());
    let (tsv, json) = (tsv(&lines), json(&lines));
    let flat =
        "\"id.orig_h\":\"10.0.0.5\",\"id.orig_p\":40000,\"id.resp_h\":\"203.0.113.9\",\"id.resp_p\":443";
    let nested = json.replace(flat, &format!("\"id\":{{{}}}", flat.replace("id.", "")));
    assert_ne!(nested, json);
    let dns = "#separator \\x09\n#path\tdns\n#fields\tts\tquery\n1\tx\n";
    let of_dns = "{\"_path\":\"dns\",\"ts\":1.5,\"query\":\"x\"}\n";
    for log in [
        tsv.replace("id.", "id_"),
        json.replace("id.", "id_"),
        nested,
        format!("\u{feff}{tsv}"),
        format!("\u{feff}{json}"),
        format!("{dns}{tsv}{dns}"),
        format!("{of_dns}{json}{of_dns}"),
    ] {
        let (alerts, stderr, code) = folder.replay(log.as_bytes());
        assert_eq!((alerts.as_str(), code), (&*expected, Some(0)), "{log}{stderr}");
        let has_others = log.contains("dns");
        assert_eq!(
            stderr.contains("lines of other logs in log were left out: 2 dns"),
            has_others,
            "{stderr}"
        );
    }
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (log, cause) in [
        (
            format!("[{}]", json.trim_end()).as_bytes(),
            "log: it is a JSON array; make it one object a line: jq -c '.[]'",
        ),
        (json.replacen('{', "{\n", 1).as_bytes(), "its JSON goes over several lines"),
        (utf16.as_slice(), "it is UTF-16"),
        (dns.as_bytes(), "a Zeek log of \"dns\"; what can be judged is conn.log"),
        (of_dns.as_bytes(), "a Zeek log of \"dns\""),
    ] {
        let (_, stderr, code) = folder.replay(log);
        assert!(code == Some(1) && stderr.contains(cause), "{cause}: {stderr}");
    }
    let head: String = tsv.split_inclusive('\n').filter(|line| line.starts_with('#')).collect();
    for (log, note) in [("", "note: log is empty"), (&*head, "note: log has no connections")] {
        let (_, stderr, code) = folder.replay(log.as_bytes());
        assert!(code == Some(0) && stderr.contains(note), "{stderr}");
    }
}

#[test]
fn what_cannot_be_read_is_reported() {
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
