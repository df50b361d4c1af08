//! The pages of the documentation that are made from schemas.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub(crate) struct Part {
    description: String,
    properties: Map<String, Value>,
    required: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Parts {
    #[serde(rename = "$defs")]
    pub(crate) parts: std::collections::BTreeMap<String, Part>,
}

fn kind_of_value(node: &Value) -> String {
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        return reference.trim_start_matches("#/$defs/").to_owned();
    }
    if let Some(any) = node.get("anyOf").and_then(Value::as_array) {
        let is_id = |node: &Value| node["type"] == "string" && node.get("pattern").is_some();
        let names = any.iter().map(|node| if is_id(node) { "id".to_owned() } else { kind_of_value(node) });
        return names.collect::<Vec<_>>().join(" or ");
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
        name if name == "array" => match kind_of_value(&node["items"]).as_str() {
            simple @ ("string" | "integer") => format!("list of {simple}s"),
            part => format!("list of {part}"),
        },
        name => name.as_str().unwrap_or_default().to_owned(),
    }
}

/// Appends a part of a schema as a section with a table.
pub(crate) fn table(name: &str, part: &Part, page: &mut String) {
    let _ = writeln!(page, "\n### {name}\n\n{}\n", part.description);
    let rows =
        part.properties.iter().filter(|(key, node)| key.as_str() != "kind" || node.get("enum").is_some());
    for (at, (key, node)) in rows.enumerate() {
        if at == 0 {
            let _ = writeln!(page, "| key | value | meaning |\n|---|---|---|");
        }
        let optional = if part.required.contains(key) { "" } else { " (optional)" };
        let meaning = node["description"].as_str().expect("every key is described");
        let _ = writeln!(page, "| `{key}`{optional} | {} | {meaning} |", kind_of_value(node));
    }
}
