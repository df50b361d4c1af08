//! The schema of the report of `conn run --json`, for `conn schema run`, tools and the documentation.

#[cfg(test)]
mod tests;

/// JSON Schema (draft 2020-12) of [`super::json::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");
