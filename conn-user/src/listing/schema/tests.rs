//! What the list says against what its schema says, and the page of the documentation made from the schema.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::event::names::{self, Named};
use crate::event::samples::{self as events, compare_file};
use crate::event::schema as event_schema;
use crate::event::schema::page::{Parts, table};
use crate::event::schema::validator::{Validator, names_at};
use crate::flow::born::BornBy;
use crate::flow::model::{Direction, Transport};
use crate::flow::snapshot::model::NoHolder::{NotAccepted, NotFound, Orphan, TimeWait};
use crate::flow::snapshot::model::TcpState;
use crate::listing::json::Asked;
use crate::listing::model::{Listing, SCHEMA_VERSION, Selection};
use crate::listing::samples;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn check(lines: &str) {
    let validator = Validator { root: schema() };
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        validator.check(&line, &validator.root, false).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn lines_keep_to_the_schema() {
    check(&samples::json());
    let mut out = Vec::new();
    let asked = Asked { selection: Selection::Connected, filter: "proc:\"\u{202e}\"".to_owned() };
    crate::listing::json::write(&Listing::default(), &asked, &events::identity(), samples::WALL, &mut out);
    check(&String::from_utf8(out).expect("UTF-8"));
}

#[test]
fn lists_of_names_are_those_of_the_code() {
    let schema = schema();
    let listed = |pointer| names_at(&schema, pointer);
    assert_eq!(listed("/$defs/socket/properties/state/enum"), names::all::<TcpState>());
    assert_eq!(listed("/$defs/socket/properties/proto/enum"), names::all::<Transport>());
    assert_eq!(listed("/$defs/connection/properties/dir/enum"), names::all::<Direction>());
    assert_eq!(listed("/$defs/age/properties/at_most_by/enum"), names::all::<BornBy>());
    let reasons = [NotAccepted, Orphan, TimeWait, NotFound].map(|why| why.reason().name());
    assert_eq!(listed("/$defs/socket/properties/reason/enum"), reasons);
    let selections = [Selection::Connected, Selection::Listening, Selection::All].map(Selection::name);
    assert_eq!(listed("/$defs/list/properties/selection/enum"), selections);
    assert_eq!(schema["$defs"]["head"]["properties"]["schema"]["const"], SCHEMA_VERSION);
}

/// The names of the parts that a part of the events' schema needs, itself among them.
fn needed<'a>(events: &'a Value, name: &'a str, all: &mut BTreeSet<&'a str>) {
    fn references<'a>(node: &'a Value, all: &mut Vec<&'a str>) {
        match node {
            Value::Object(map) => {
                all.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|node| references(node, all));
            }
            Value::Array(list) => list.iter().for_each(|node| references(node, all)),
            _ => {}
        }
    }
    if all.insert(name) {
        let mut found = Vec::new();
        references(&events["$defs"][name], &mut found);
        for reference in found {
            needed(events, reference.trim_start_matches("#/$defs/"), all);
        }
    }
}

/// The lines of a part in the text of a schema.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let start = text.find(&format!("\n    \"{name}\": {{\n"))? + 1;
    let end = start + text[start..].find("\n    }")? + "\n    }".len();
    Some(&text[start..end])
}

/// Processes and ages look the same in lists and in events; `CONN_BLESS=1` copies them from the events' schema.
#[test]
fn processes_are_those_of_events() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/listing/schema.json");
    let events: Value = serde_json::from_str(event_schema::SCHEMA).expect("JSON");
    let mut shared = BTreeSet::new();
    needed(&events, "process", &mut shared);
    needed(&events, "age", &mut shared);
    let mut text = SCHEMA.to_owned();
    for name in shared {
        let theirs = block(event_schema::SCHEMA, name).unwrap_or_else(|| panic!("no part {name}"));
        if let Some(ours) = block(&text, name).map(str::to_owned) {
            text = text.replace(&ours, theirs);
        } else {
            let before = block(&text, "process").expect("the part of a process").to_owned();
            text = text.replace(&before, &format!("{before},\n{theirs}"));
        }
    }
    compare_file(path, &text);
}

#[test]
fn the_page_of_the_documentation_is_made_from_the_schema() {
    let parts: Parts =
        serde_json::from_str(SCHEMA).expect("every part has a description, properties and required keys");
    let mut page = PAGE.to_owned();
    for name in ["head", "list", "note", "socket", "connection", "listener", "holder", "age"] {
        table(name, &parts.parts[name], &mut page);
    }
    page.push_str("\n### process\n\nAs in events: see [events.md](events.md#process).\n");
    compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/list.md"), &page);
}

const PAGE: &str = include_str!("../page.md");
