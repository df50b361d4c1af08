//! What the report says against what its schema says, and the page of the documentation made from the schema.

use serde_json::Value;

use super::*;
use crate::event::names;
use crate::event::samples::{compare_file, identity};
use crate::event::schema::page::{Parts, table};
use crate::event::schema::shared::with_parts;
use crate::event::schema::validator::{Validator, names_at};
use crate::flow::model::Direction;
use crate::run::json::{self, SCHEMA_VERSION};
use crate::run::report::Verdict;
use crate::run::samples;
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
    assert_eq!(names_at(&schema, "/$defs/connections/properties/dir/enum"), names::all::<Direction>());
    let verdicts = [Verdict::Passed, Verdict::Failed, Verdict::Inconclusive, Verdict::NotJudged];
    let verdicts: Vec<Value> = verdicts.into_iter().map(|verdict| verdict.name().into()).collect();
    assert_eq!(schema["$defs"]["run"]["properties"]["verdict"]["enum"], Value::Array(verdicts));
    assert_eq!(schema["$defs"]["run"]["properties"]["schema"]["const"], SCHEMA_VERSION);
}

/// Alerts and processes look the same in reports and in events; `CONN_BLESS=1` copies them from the events' schema.
#[test]
fn alerts_are_those_of_events() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/run/schema.json");
    compare_file(path, &with_parts(SCHEMA, &["process", "alert"]));
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
