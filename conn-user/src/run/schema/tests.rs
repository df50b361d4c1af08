//! What the report says against what its schema says, and the page of the documentation made from the schema.

use serde_json::{Value, json};

use super::*;
use crate::event::samples::{compare_file, identity};
use crate::event::schema::page::{Parts, table};
use crate::event::schema::validator::Validator;
use crate::event::wire;
use crate::run::json::{self, SCHEMA_VERSION};
use crate::run::report::Verdict;
use crate::run::samples;
use crate::run::wire::Run;
use crate::units::WallNs;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

#[test]
fn reports_keep_to_the_schema() {
    let validator = Validator { root: schema() };
    for report in [samples::failed(), samples::passed(0), samples::passed(3)] {
        let mut line = Vec::new();
        json::write(&report, &identity(), WallNs(1), &mut line);
        let line: Value = serde_json::from_slice(&line).expect("JSON");
        validator.check(&line, &validator.root, true).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn lists_of_names_are_those_of_the_code() {
    let schema = schema();
    let verdicts = [Verdict::Passed, Verdict::Failed, Verdict::Inconclusive, Verdict::NotJudged];
    let verdicts: Vec<Value> = verdicts.into_iter().map(|verdict| verdict.name().into()).collect();
    assert_eq!(schema["$defs"]["run"]["properties"]["verdict"]["enum"], Value::Array(verdicts));
}

/// `CONN_BLESS=1` writes the file.
#[test]
fn the_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/run/schema.json");
    compare_file(path, &wire::schema::text(&run()));
}

fn run() -> Value {
    let mut generator = wire::schema::generator();
    let _ = generator.subschema_for::<Run<'static>>();
    let mut defs = wire::schema::definitions(&mut generator);
    wire::schema::add_needed("alert", &mut defs);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:conn:run:{SCHEMA_VERSION}"),
        "title": format!("conn run, schema version {SCHEMA_VERSION}"),
        "description": "The report that `conn run --json FILE` writes. A key is null where it applies and is not \
                        known. Readers must accept keys that they do not know.",
        "$ref": "#/$defs/run",
        "$defs": defs,
    })
}

#[test]
fn the_page_of_the_documentation_is_made_from_the_schema() {
    let parts: Parts =
        serde_json::from_str(SCHEMA).expect("every part has a description, properties and required keys");
    let mut page = include_str!("../page.md").to_owned();
    for name in ["run", "connections", "listeners", "expected"] {
        table(name, &parts.parts[name], &mut page);
    }
    page.push_str("\nProcesses and alerts are as in events: see [events.md](events.md#process).\n");
    compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/run.md"), &page);
}
