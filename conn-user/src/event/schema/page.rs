//! The pages of the documentation that are made from schemas.

use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// A JSON object in its own order.
pub(crate) struct Ordered(Vec<(String, Value)>);

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
pub(crate) struct Part {
    description: String,
    properties: Ordered,
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
