//! Parts of the events' schema that other schemas have too.

use std::collections::BTreeSet;

use serde_json::Value;

use super::SCHEMA;

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

/// The text of a schema with these parts, and all that they need, as the events' schema has them. It must have a part `process`.
pub(crate) fn with_parts(text: &str, names: &[&str]) -> String {
    let events: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut shared = BTreeSet::new();
    for name in names {
        needed(&events, name, &mut shared);
    }
    let mut text = text.to_owned();
    for name in shared {
        let theirs = block(SCHEMA, name).unwrap_or_else(|| panic!("no part {name}"));
        if let Some(ours) = block(&text, name).map(str::to_owned) {
            text = text.replace(&ours, theirs);
        } else {
            let before = block(&text, "process").expect("the part of a process").to_owned();
            text = text.replace(&before, &format!("{before},\n{theirs}"));
        }
    }
    text
}
