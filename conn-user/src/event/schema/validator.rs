//! A validator for the keywords that our schemas use.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use regex::Regex;
use serde_json::Value;

/// The keywords that our schema uses, strictly: a keyword or a key of an event that is not known is an error.
pub(crate) struct Validator {
    pub(crate) root: Value,
}

/// The list of names at this place of a schema.
pub(crate) fn names_at(schema: &Value, pointer: &str) -> Vec<String> {
    let list = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
    serde_json::from_value(list.clone()).expect("a list of names")
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
        for keyword in ["allOf", "anyOf"] {
            node[keyword].as_array().into_iter().flatten().for_each(|part| self.known(part, keys));
        }
    }

    /// `whole`: the node describes the whole object, so every key must be known.
    pub(crate) fn check(&self, value: &Value, node: &Value, whole: bool) -> Result<(), String> {
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
