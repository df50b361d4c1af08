//! The schema of the report of `conn run --json`, for `conn schema run`, tools and the documentation.

#[cfg(test)]
mod tests;

/// JSON Schema (draft 2020-12) of [`super::json::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");

/// An alert among what a run did not expect: an event.
#[cfg(test)]
pub(super) struct AlertEvent;

#[cfg(test)]
impl schemars::JsonSchema for AlertEvent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "alert".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"$ref": "#/$defs/alert"})
    }
}
