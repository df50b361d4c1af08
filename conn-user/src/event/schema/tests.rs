//! What the encoder writes against what the schema says, and the page of the documentation made from the schema.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use proptest::prelude::*;
use regex::Regex;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use super::*;
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventKind, SCHEMA_VERSION};
use crate::event::names;
use crate::event::samples;
use crate::flow::model::{Direction, EndedHow, Source, Transport, UnknownReason};
use crate::process::info::ProcessSource;
use crate::process::placement::Runtime;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// The keywords that our schema uses, strictly: a keyword or a key of an event that is not known is an error.
struct Validator {
    root: Value,
}

impl Validator {
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        let Some(reference) = node.get("$ref").and_then(Value::as_str) else { return node };
        self.root.pointer(reference.trim_start_matches('#')).expect("a reference that exists")
    }

    /// The keys that a node and what it includes describe.
    fn known<'a>(&'a self, node: &'a Value, keys: &mut BTreeSet<&'a str>) {
        let node = self.resolve(node);
        keys.extend(node["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()));
        node["allOf"].as_array().into_iter().flatten().for_each(|part| self.known(part, keys));
    }

    /// `whole`: the node describes the whole object, so every key must be known.
    fn check(&self, value: &Value, node: &Value, whole: bool) -> Result<(), String> {
        let fail = |what: &str| Err(format!("{what}: {value} against {node}"));
        for (keyword, rule) in node.as_object().expect("a schema is an object") {
            let good = match keyword.as_str() {
                "description" | "then" | "title" | "$schema" | "$id" | "$defs" => true,
                "$ref" => return self.check(value, self.resolve(node), whole),
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|name| has_type(value, name)),
                    name => has_type(value, name),
                },
                "const" => value == rule,
                "enum" => rule.as_array().expect("a list").contains(value),
                "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().expect("a number")),
                "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().expect("a number")),
                "pattern" => {
                    let regex = Regex::new(rule.as_str().expect("a pattern")).expect("a regular expression");
                    value.as_str().is_none_or(|text| regex.is_match(text))
                }
                "items" => {
                    value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .try_for_each(|item| self.check(item, rule, true))?;
                    true
                }
                "required" => rule
                    .as_array()
                    .expect("a list")
                    .iter()
                    .all(|key| value.get(key.as_str().expect("a key")).is_some()),
                "properties" => {
                    for (key, rule) in rule.as_object().expect("an object") {
                        value.get(key).map_or(Ok(()), |value| self.check(value, rule, true))?;
                    }
                    true
                }
                "allOf" => {
                    rule.as_array()
                        .expect("a list")
                        .iter()
                        .try_for_each(|part| self.check(value, part, false))?;
                    true
                }
                "anyOf" => {
                    rule.as_array().expect("a list").iter().any(|part| self.check(value, part, whole).is_ok())
                }
                "oneOf" => {
                    let (mut good, mut errors) = (0, String::new());
                    for part in rule.as_array().expect("a list") {
                        let whole = part.get("$ref").is_some();
                        match self.check(value, part, whole) {
                            Ok(()) => good += 1,
                            Err(error) => _ = writeln!(errors, "{error}"),
                        }
                    }
                    if good != 1 {
                        return Err(format!("{good} alternatives fit: {errors}"));
                    }
                    true
                }
                "if" => {
                    self.check(value, rule, false).is_err() || self.check(value, &node["then"], false).is_ok()
                }
                other => panic!("the validator does not know {other}"),
            };
            if !good {
                return fail(keyword);
            }
        }
        if whole && value.is_object() && node.get("properties").is_some() {
            let mut known = BTreeSet::new();
            self.known(node, &mut known);
            if let Some(key) = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
                .find(|key| !known.contains(key.as_str()))
            {
                return fail(&format!("`{key}` is not documented"));
            }
        }
        Ok(())
    }
}

fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the validator does not know the type {other}"),
    }
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
    let listed = |pointer: &str| -> Vec<String> {
        let list = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        serde_json::from_value(list.clone()).expect("a list of names")
    };
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

/// A JSON object in its own order.
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct Part {
    description: String,
    properties: Ordered,
    required: Vec<String>,
}

#[derive(Deserialize)]
struct Parts {
    #[serde(rename = "$defs")]
    parts: std::collections::BTreeMap<String, Part>,
}

fn kind_of_value(node: &Value) -> String {
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        return reference.trim_start_matches("#/$defs/").to_owned();
    }
    if let Some(any) = node.get("anyOf").and_then(Value::as_array) {
        return any.iter().map(kind_of_value).collect::<Vec<_>>().join(" or ");
    }
    if let Some(constant) = node.get("const") {
        return format!("`{constant}`");
    }
    if let Some(names) = node.get("enum").and_then(Value::as_array) {
        return names
            .iter()
            .map(|name| name.as_str().map_or("null".to_owned(), |name| format!("`{name}`")))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match &node["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        name if name == "array" => match node["items"].get("$ref") {
            Some(_) => format!("list of {}", kind_of_value(&node["items"])),
            None => "list of strings".to_owned(),
        },
        name => name.as_str().unwrap_or_default().to_owned(),
    }
}

fn table(name: &str, part: &Part, page: &mut String) {
    let _ = writeln!(page, "\n### {name}\n\n{}\n", part.description);
    let rows = part.properties.0.iter().filter(|(key, node)| key != "kind" || node.get("enum").is_some());
    for (at, (key, node)) in rows.enumerate() {
        if at == 0 {
            let _ = writeln!(page, "| key | value | meaning |\n|---|---|---|");
        }
        let optional = if part.required.contains(key) { "" } else { " (optional)" };
        let meaning = node["description"].as_str().expect("every key is described");
        let _ = writeln!(page, "| `{key}`{optional} | {} | {meaning} |", kind_of_value(node));
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
    for name in
        ["head", "socket", "connection", "actor", "listener_owner", "process", "container", "ancestor"]
    {
        table(name, &parts.parts[name], &mut page);
    }
    let _ = writeln!(
        page,
        "\n## Kinds\n\n`connect`, `accept`, `established`, `failed` and `close` have head, socket, connection and the owner's\n\
         `actor` keys; `listen` and `unlisten` have head, socket and the owner's; `exec`, `exit` and `gap` have the head."
    );
    for kind in EventKind::ALL {
        table(kind.name(), &parts.parts[kind.name()], &mut page);
    }
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md"), &page);
}
