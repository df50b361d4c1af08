//! What the encoder writes against what the schema says, and the page of the documentation made from the schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::page::{Parts, table};
use super::validator::Validator;
use super::*;
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventKind};
use crate::event::samples;
use crate::event::wire;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn check(event: &Event) -> Result<(), String> {
    let mut line = Vec::new();
    JsonEncoder::new(&samples::identity()).encode(event, &mut line);
    let root = schema();
    let validator = Validator { root: root.clone() };
    validator.check(&serde_json::from_slice(&line).expect("JSON"), &root, false)
}

#[test]
fn samples_keep_to_the_schema() {
    let kinds: BTreeSet<EventKind> = samples::all().iter().map(|event| event.body.kind()).collect();
    assert_eq!(kinds.len(), EventKind::ALL.len(), "a sample of every kind");
    for event in samples::all() {
        check(&event).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The validator is of our own making: it must find what is wrong.
#[test]
fn the_validator_refuses() {
    let mut line = Vec::new();
    JsonEncoder::new(&samples::identity()).encode(&samples::all()[4], &mut line);
    let good: Value = serde_json::from_slice(&line).expect("JSON");
    let validator = Validator { root: schema() };
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        validator.check(&bad, &schema(), false).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|event| event["invented"] = 1.into()));
    assert!(refused(&|event| event["process"]["invented"] = 1.into()));
    assert!(refused(&|event| event["closer"]["invented"] = 1.into()));
    assert!(refused(&|event| event["lport"] = "80".into()));
    assert!(refused(&|event| event["end"] = "fin".into()));
    assert!(refused(&|event| event["kind"] = "connect".into()));
    assert!(refused(&|event| _ = event.as_object_mut().expect("object").remove("closer")));
    assert!(refused(&|event| _ = event["closer"].as_object_mut().expect("object").remove("hook")));
    assert!(refused(&|event| event["community_id"] = "2:x".into()));
}

/// `CONN_BLESS=1` writes the file.
#[test]
fn the_schema_is_that_of_the_types() {
    let schema = wire::schema::events();
    samples::compare_file(
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/event/schema.json"),
        &wire::schema::text(&schema),
    );
    let kinds: Vec<&str> =
        schema["oneOf"].as_array().into_iter().flatten().filter_map(|of| of["$ref"].as_str()).collect();
    assert_eq!(kinds, EventKind::ALL.map(|kind| format!("#/$defs/{}", kind.name())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_event_keeps_to_the_schema(event in samples::any_event()) {
        prop_assert_eq!(check(&event), Ok(()));
    }
}

#[test]
fn the_page_of_the_documentation_is_made_from_the_schema() {
    let parts: Parts =
        serde_json::from_str(SCHEMA).expect("every part has a description, properties and required keys");
    let mut page = String::from(include_str!("page.md"));
    for name in [
        "head",
        "socket",
        "owner",
        "connection",
        "listening",
        "age",
        "actor",
        "process",
        "container",
        "ancestor",
        "stdio",
        "stdio_peer",
        "alert_body",
        "coverage",
    ] {
        table(name, &parts.parts[name], &mut page);
    }
    let _ = writeln!(
        page,
        "\n## Kinds\n\n`connect`, `accept`, `established`, `failed` and `close` have head, socket, owner and connection; `listen` and\n\
         `unlisten` have head, socket, owner and listening; `exec`, `exit`, `facts`, `sample`, `gap`, `repair`, `degraded`, `start` and `clock` have the head, `alert` has it and the keys of what it is\n\
         about."
    );
    for kind in EventKind::ALL {
        table(kind.name(), &parts.parts[kind.name()], &mut page);
    }
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md"), &page);
}
