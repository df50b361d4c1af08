//! The schema of the JSON lines, for `conn schema`, tools and the documentation.

#[cfg(test)]
mod tests;

/// JSON Schema (draft 2020-12) of [`super::model::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");
