//! The encoder against a golden file, a parser, and arbitrary events.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::model::ProcEvent;
use crate::event::samples;
use crate::event::time::Rfc3339Reader;

fn encode(events: &[Event]) -> String {
    let (mut encoder, mut out) = (JsonEncoder::new(&samples::identity()), Vec::new());
    for event in events {
        encoder.encode(event, &mut out);
    }
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn parse(event: &Event) -> Value {
    serde_json::from_str(&encode(std::slice::from_ref(event))).expect("one JSON object")
}

/// Compares with a file beside the tests; `CONN_BLESS=1` writes the file instead.
#[test]
fn golden() {
    samples::golden("events.jsonl", &encode(&samples::all()));
}

#[test]
fn keys_come_in_the_documented_order() {
    let line = encode(&[samples::all().swap_remove(1)]);
    let head = concat!(
        r#"{"schema":1,"seq":2,"ts":"2026-11-24T03:43:41.125456789Z","boot_ns":"5000002000000","#,
        r#""host":"web-1","boot_id":"3f2a9c1e-0b7d-4c58-9f11-6a5d2b3c4e5f","kind":"connect","#,
        r#""conn_id":"3f2a9c1e-123456789a-7","community_id":"1:"#
    );
    assert!(line.starts_with(head), "{line}");
}

#[test]
fn values_round_trip() {
    let close = &samples::all()[4];
    let json = parse(close);
    assert_eq!(json["laddr"], "127.0.0.1");
    assert_eq!(json["rport"], 8080);
    assert_eq!(json["process"]["id"], "3f2a9c1e-4242-424");
    assert_eq!(json["process"]["args"][2], "http://127.0.0.1:8080/");
    assert_eq!(json["bytes_in"], 5_300_000);
    assert_eq!(json["closer"]["hook"], "fentry:tcp_close");
    assert_eq!(json["error"], Value::Null);
}

#[test]
fn connect_time_needs_both_ends() {
    let established = |begun, established| {
        let conn = ConnEvent { begun: BootNs(begun), established, ..samples::outgoing() };
        parse(&samples::event(1, EventBody::Flow(Change::Established(conn))))["connect_ns"].clone()
    };
    assert_eq!(established(5, Some(BootNs(12))), 7);
    assert_eq!(established(0, Some(BootNs(12))), Value::Null);
    assert_eq!(established(5, None), Value::Null);
}

#[test]
fn a_listener_on_a_mapped_address_is_ipv4() {
    let json = parse(&samples::all()[14]);
    assert_eq!(
        (&json["laddr"], &json["family"], &json["mapped"]),
        (&"127.0.0.1".into(), &"ipv4".into(), &true.into())
    );
    assert_eq!(json["lport"], Value::Null);
    assert!(json.get("raddr").is_none() && json.get("dir").is_none() && json.get("community_id").is_none());
}

/// The cache must never answer for a process that took the address of a freed one, nor mix two up.
#[test]
fn the_cache_answers_for_the_right_process() {
    let (mut encoder, mut out) = (JsonEncoder::new(&samples::identity()), Vec::new());
    let mut kept = Vec::new();
    for round in 0..20_000_u32 {
        let process = samples::process(round, b"x", "/x", &[]);
        if round % 3 == 0 {
            kept.push(Arc::clone(&process));
        }
        for process in [Some(&process), kept.get(round as usize / 7)].into_iter().flatten() {
            out.clear();
            encoder.process(Some(process), b"", &mut out);
            let json: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(json["pid"], process.pid.0);
        }
    }
}

/// What is found out later shows in the events that come after it.
#[test]
fn a_process_is_written_anew_when_more_is_known() {
    let (mut writer, process) = (ProcessWriter::new("b"), samples::process(1, b"x", "/x", &[]));
    let mut write = || {
        let mut out = Vec::new();
        writer.write(&process, &mut out);
        serde_json::from_slice::<Value>(&out).expect("JSON")
    };
    assert_eq!((&write()["exe_sha256"], &write()["exe_fs"]), (&Value::Null, &Value::Null));
    process.identity.set_sha256(Some([0xab; 32]));
    assert_eq!(write()["exe_sha256"], "ab".repeat(32));
    assert_eq!(write()["exe_sha256"], "ab".repeat(32), "from the cache");
}

#[test]
fn what_does_not_apply_is_absent() {
    let json = parse(&samples::all()[1]);
    let process = &json["process"];
    assert_eq!((&process["unit"], &process["tty"]), (&"session-3.scope".into(), &"pts/3".into()));
    assert!(process.get("container").is_none() && process.get("user_unit").is_none());
    let json = parse(&samples::all()[2]);
    let process = &json["process"];
    assert_eq!(process["container"]["pod"], "2c48913c-b29f-11e7-9350-020968147796");
    assert!(process.get("tty").is_none());
    let place = |text: &str| {
        let json = parse(&samples::event(1, EventBody::Exec(ProcEvent::new(samples::memfd()))));
        json["process"].get(text).cloned()
    };
    assert_eq!(
        (place("cgroup"), place("unit"), place("slice")),
        (Some(Value::Null), Some(Value::Null), None)
    );
}

#[test]
fn escaped_arguments_are_one_field() {
    let mut process = ProcessInfo::clone(&samples::curl());
    process.args = [b"\\x41".as_slice().into(), b"\xff".as_slice().into()].into();
    let mut out = Vec::new();
    ProcessWriter::new("b").write(&Arc::new(process), &mut out);
    let json: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(json["args"], serde_json::json!(["\\\\x41", "\\xff"]));
    assert_eq!(json["args_escaped"], true);
}

proptest! {
    #[test]
    fn every_line_parses(event in samples::any_event()) {
        let text = encode(std::slice::from_ref(&event));
        prop_assert_eq!(text.matches('\n').count(), 1);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        prop_assert_eq!(&json["seq"], &Value::from(event.seq));
        prop_assert_eq!(Rfc3339Reader::default().read(json["ts"].as_str().expect("text")), Some(event.wall));
        prop_assert_eq!(&json["boot_ns"], &Value::from(event.boot.0.to_string()));
        prop_assert_eq!(&json["kind"], event.body.kind().name());
        if let EventBody::Flow(Change::Close(conn, ending)) = &event.body {
            prop_assert_eq!(json["laddr"].as_str().expect("text").parse::<IpAddr>().expect("address"), conn.local.ip());
            prop_assert_eq!(&json["bytes_out"], &ending.traffic.map_or(Value::Null, |traffic| traffic.bytes_out.into()));
        }
    }
}
