//! What the encoder writes against what the schema says, and the page of the documentation made from the schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::page::{Parts, table};
use super::validator::{Validator, names_at};
use super::*;
use crate::event::alert::{Phase, RuleKind, Severity};
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventKind, SCHEMA_VERSION};
use crate::event::names;
use crate::event::samples;
use crate::flow::born::BornBy;
use crate::flow::model::{Direction, EndedHow, Source, Transport, UnknownReason};
use crate::process::info::ProcessSource;
use crate::process::placement::Runtime;

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

#[test]
fn lists_of_names_are_those_of_the_code() {
    let schema = schema();
    let listed = |pointer| names_at(&schema, pointer);
    assert_eq!(listed("/$defs/head/properties/kind/enum"), names::all::<EventKind>());
    assert_eq!(listed("/$defs/connection/properties/dir/enum"), names::all::<Direction>());
    assert_eq!(listed("/$defs/socket/properties/proto/enum"), names::all::<Transport>());
    assert_eq!(listed("/$defs/socket/properties/source/enum"), names::all::<Source>());
    assert_eq!(listed("/$defs/process/properties/source/enum"), names::all::<ProcessSource>());
    let mut runtimes: Vec<_> = names::all::<Runtime>().into_iter().map(Value::from).collect();
    runtimes.push(Value::Null);
    assert_eq!(
        schema.pointer("/$defs/container/properties/runtime/enum"),
        Some(&Value::Array(runtimes)),
        "every runtime, or null"
    );
    assert_eq!(listed("/$defs/close/properties/end/enum"), names::all::<EndedHow>());
    assert_eq!(listed("/$defs/actor/properties/reason/enum"), names::all::<UnknownReason>());
    assert_eq!(listed("/$defs/actor/properties/method/enum"), names::METHODS);
    assert_eq!(listed("/$defs/alert_body/properties/phase/enum"), names::all::<Phase>());
    assert_eq!(listed("/$defs/alert_body/properties/severity/enum"), names::all::<Severity>());
    assert_eq!(listed("/$defs/alert_body/properties/rule_kind/enum"), names::all::<RuleKind>());
    assert_eq!(listed("/$defs/age/properties/at_least_by/enum"), names::all::<BornBy>());
    assert_eq!(listed("/$defs/age/properties/at_most_by/enum"), names::all::<BornBy>());
    assert_eq!(schema["$defs"]["head"]["properties"]["schema"]["const"], SCHEMA_VERSION);
    let kinds = schema["oneOf"].as_array().expect("a list").len();
    assert_eq!(kinds, EventKind::ALL.len());
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
    let mut page = String::from(
        "# Events\n\n<!-- Made from conn-user/src/event/schema.json: CONN_BLESS=1 cargo test -p conn-user schema -->\n\n\
         `conn tail --json` writes one JSON object a line; `conn schema` prints the JSON Schema of what follows. This is\n\
         version 1 of the schema: a field that changes its meaning or goes away makes a new version, a new field does\n\
         not, so readers must accept keys that they do not know. A key is absent where it does not apply, and `null`\n\
         where it applies and is not known. Keys come in the order shown: head, connection id, Community ID, the rest\n\
         of socket and connection, owner, and what the kind adds.\n\n\
         Names, paths and arguments are chosen by the programs that bear them. UTF-8 stays as it is; characters that\n\
         act on a terminal or hide on it are written as `\\uXXXX`, so a line is harmless to look at. A field with bytes\n\
         that are not UTF-8 has those written as the four characters `\\xNN` and its own backslashes doubled, and is\n\
         followed by `<field>_escaped: true`.\n\n## What several kinds share\n",
    );
    for name in [
        "head",
        "socket",
        "connection",
        "age",
        "actor",
        "listener_owner",
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
        "\n## Kinds\n\n`connect`, `accept`, `established`, `failed` and `close` have head, socket, connection and the owner's\n\
         `actor` keys; `listen` and `unlisten` have head, socket and the owner's; `exec`, `exit`, `facts`, `sample`, `gap`, `repair`, `degraded`, `start` and `clock` have the head, `alert` has it and the keys of what it is\n\
         about."
    );
    for kind in EventKind::ALL {
        table(kind.name(), &parts.parts[kind.name()], &mut page);
    }
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md"), &page);
}
