//! What the list says against what its schema says, and the page of the documentation made from the schema.

use serde_json::{Value, json};

use super::*;
use crate::event::names::Named as _;
use crate::event::samples::{self as events, compare_file};
use crate::event::schema::page::{Parts, table};
use crate::event::schema::validator::{Validator, names_at};
use crate::event::wire;
use crate::flow::snapshot::model::NoHolder::{NotAccepted, NotFound, Orphan, TimeWait};
use crate::sockets::json::Asked;
use crate::sockets::model::{Listing, SCHEMA_VERSION, Selection};
use crate::sockets::samples;
use crate::sockets::wire::{Connection, Head, List, Listener, Note, Socket};

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
    let reasons = [NotAccepted, Orphan, TimeWait, NotFound].map(|why| why.reason().name());
    assert_eq!(listed("/$defs/socket/properties/reason/enum"), reasons);
    let selections = [Selection::Connected, Selection::Listening, Selection::All].map(Selection::name);
    assert_eq!(listed("/$defs/list/properties/selection/enum"), selections);
}

/// `CONN_BLESS=1` writes the file.
#[test]
fn the_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sockets/schema.json");
    compare_file(path, &wire::schema::text(&list()));
}

fn list() -> Value {
    let mut generator = wire::schema::generator();
    let _ = (
        generator.subschema_for::<Head<'static>>(),
        generator.subschema_for::<List<'static>>(),
        generator.subschema_for::<Note<'static>>(),
        generator.subschema_for::<Socket<'static>>(),
        generator.subschema_for::<Connection<'static>>(),
        generator.subschema_for::<Listener<'static>>(),
    );
    let mut defs = wire::schema::definitions(&mut generator);
    for name in ["list", "note", "connection", "listener"] {
        wire::schema::take_out(name, &["head", "socket"], &mut defs);
    }
    defs["socket"]["allOf"] = json!([{
        "if": {"properties": {"method": {"const": "unknown"}}},
        "then": {"required": ["reason"]},
    }]);
    let kinds =
        ["list", "note", "connection", "listener"].map(|name| json!({"$ref": format!("#/$defs/{name}")}));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:conn:list:{SCHEMA_VERSION}"),
        "title": format!("conn list, schema version {SCHEMA_VERSION}"),
        "description": "One line of `conn list --json`. A key is absent where it does not apply, and null where it \
                        applies and is not known. Readers must accept keys and kinds of lines that they do not know.",
        "oneOf": kinds,
        "$defs": defs,
    })
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
