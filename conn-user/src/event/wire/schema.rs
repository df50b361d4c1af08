//! The JSON Schema of the shapes, and which of a line's keys an event of each kind has.

mod parts;
mod types;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

pub(crate) use self::parts::events;
pub(super) use self::types::{AlertId, ConnectionId, Hook, Method, Object, ProcessId, ProcessOrId};
pub(crate) use self::types::{CommunityId, Name, Time, True, Version};

/// Whether a line has a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Always, with a value.
    Always,
    /// Always; `null` where the value is not known.
    Known,
    /// Where it applies, with a value.
    Where,
    /// Where it applies; `null` where the value is not known.
    WhereKnown,
}

/// A key of a part of a line.
struct Key {
    name: &'static str,
    presence: Presence,
    /// What it means here, where that is not what it means elsewhere.
    means: Option<&'static str>,
    /// The only value that it has here.
    only: Option<&'static str>,
}

/// What a line of a kind has, or what lines of several kinds do.
struct Part {
    name: &'static str,
    description: &'static str,
    /// The parts that it has whole.
    of: &'static [&'static str],
    keys: Vec<Key>,
    /// What else must hold.
    rules: Value,
}

/// The settings of all schemas: the form is that of what is written.
pub(crate) fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.meta_schema = None;
    });
    settings.into_generator()
}

/// The definitions that a generator has collected, in the form that we write.
pub(crate) fn definitions(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut all = generator.take_definitions(true);
    for (_, definition) in &mut all {
        *definition = object(definition.take());
    }
    all
}

/// An object's schema in the form that we write: description first, and a key that may be absent is `null` only where
/// that is said.
pub(crate) fn object(definition: Value) -> Value {
    let Value::Object(mut from) = definition else { return definition };
    let required = from.remove("required").unwrap_or_else(|| json!([]));
    let mut properties = Map::new();
    for (key, node) in from.remove("properties").and_then(|all| all.as_object().cloned()).unwrap_or_default()
    {
        let is_required = required.as_array().is_some_and(|all| all.contains(&key.as_str().into()));
        let mut node = leaf(node);
        let is_nullable = node.as_object_mut().and_then(|node| node.remove("nullable")).is_some();
        properties.insert(key, if is_required || is_nullable { node } else { without_null(node) });
    }
    let mut to = Map::new();
    to.insert("description".into(), one_line(&from.remove("description").unwrap_or_default()));
    to.insert("type".into(), "object".into());
    to.insert("properties".into(), properties.into());
    to.insert("required".into(), required);
    to.extend(from.into_iter().filter(|(key, _)| matches!(key.as_str(), "allOf" | "oneOf")));
    to.into()
}

/// The schema of a value in the form that we write.
fn leaf(node: Value) -> Value {
    let Value::Object(mut from) = node else { return node };
    from.remove("format");
    from.remove("title");
    from.remove("default");
    let mut to = Map::new();
    if let Some(description) = from.remove("description") {
        to.insert("description".into(), one_line(&description));
    }
    for (key, value) in from {
        let value = match key.as_str() {
            "items" => leaf(value),
            "anyOf" => value.as_array().into_iter().flatten().cloned().map(leaf).collect(),
            _ => value,
        };
        to.insert(key, value);
    }
    to.into()
}

/// The same without `null` among its values.
fn without_null(node: Value) -> Value {
    let Value::Object(mut node) = node else { return node };
    let is_null = |value: &Value| value.is_null() || value == "null" || *value == json!({"type": "null"});
    for key in ["type", "enum", "anyOf"] {
        if let Some(Value::Array(all)) = node.get_mut(key) {
            all.retain(|value| !is_null(value));
            if let [one] = &all[..]
                && key != "enum"
            {
                let one = one.clone();
                if key == "type" {
                    node.insert(key.into(), one);
                } else {
                    node.shift_remove(key);
                    node.extend(one.as_object().cloned().unwrap_or_default());
                }
            }
        }
    }
    node.into()
}

/// The same, or `null`.
fn with_null(node: Value) -> Value {
    let Value::Object(mut node) = node else { return node };
    let null = Value::from("null");
    if let Some(Value::Array(any)) = node.get_mut("anyOf") {
        any.push(json!({"type": "null"}));
    } else if let Some(reference) = node.shift_remove("$ref") {
        node.insert("anyOf".into(), json!([{"$ref": reference}, {"type": "null"}]));
    } else if let Some(Value::Array(all)) = node.get_mut("type") {
        if !all.contains(&null) {
            all.push(null);
        }
    } else if let Some(of) = node.get("type").filter(|of| **of != "null").cloned() {
        node.insert("type".into(), Value::Array(vec![of, null]));
    }
    if let Some(Value::Array(all)) = node.get_mut("enum")
        && !all.contains(&Value::Null)
    {
        all.push(Value::Null);
    }
    node.into()
}

/// A text whose lines were wrapped.
fn one_line(text: &Value) -> Value {
    text.as_str().map_or_else(|| text.clone(), |text| text.replace('\n', " ").into())
}

/// Takes the keys of whole parts out of a definition, which then refers to those parts: what `flatten` put together.
pub(crate) fn take_out(name: &str, parts: &[&str], defs: &mut Map<String, Value>) {
    let keys = |part: &str| defs[part]["properties"].as_object().cloned().unwrap_or_default();
    let of: Vec<(String, Map<String, Value>)> =
        parts.iter().map(|part| ((*part).to_owned(), keys(part))).collect();
    let definition = &mut defs[name];
    let mut all = Vec::new();
    for (part, keys) in of {
        let properties = definition["properties"].as_object_mut().expect("an object");
        if keys.keys().all(|key| properties.contains_key(key)) {
            keys.keys().for_each(|key| _ = properties.shift_remove(key));
            definition["required"]
                .as_array_mut()
                .expect("a list")
                .retain(|key| key.as_str().is_none_or(|key| !keys.contains_key(key)));
            all.push(json!({ "$ref": format!("#/$defs/{part}") }));
        }
    }
    definition["allOf"] = all.into();
}

/// Adds a definition of the events' schema, and those that it needs.
pub(crate) fn add_needed(name: &str, defs: &mut Map<String, Value>) {
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
    let events = events();
    let mut open = vec![name];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            let definition = &events["$defs"][name];
            let mut found = Vec::new();
            references(definition, &mut found);
            open.extend(found.into_iter().map(|reference| reference.trim_start_matches("#/$defs/")));
            defs.entry(name).or_insert_with(|| definition.clone());
        }
    }
}

/// The text of a schema, as its file has it.
pub(crate) fn text(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).expect("JSON") + "\n"
}
