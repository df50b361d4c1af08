//! What the list says against what its schema says, and the page of the documentation made from the schema.

use serde_json::Value;

use super::*;
use crate::event::names::{self, Named};
use crate::event::samples::{self as events, compare_file};
use crate::event::schema::page::{Parts, table};
use crate::event::schema::shared::with_parts;
use crate::event::schema::validator::{Validator, names_at};
use crate::flow::born::BornBy;
use crate::flow::model::{Direction, Transport};
use crate::flow::snapshot::model::NoHolder::{NotAccepted, NotFound, Orphan, TimeWait};
use crate::flow::snapshot::model::TcpState;
use crate::sockets::json::Asked;
use crate::sockets::model::{Listing, SCHEMA_VERSION, Selection};
use crate::sockets::samples;

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
    crate::sockets::json::write(&Listing::default(), &asked, &events::identity(), samples::WALL, &mut out);
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

/// Processes and ages look the same in lists and in events; `CONN_BLESS=1` copies them from the events' schema.
#[test]
fn processes_are_those_of_events() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sockets/schema.json");
    let text = with_parts(SCHEMA, &["process", "age"]);
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
