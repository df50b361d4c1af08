//! The schema of the lines of `conn list --json`, for `conn schema list`, tools and the documentation.

#[cfg(test)]
mod tests;

/// JSON Schema (draft 2020-12) of [`super::model::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");
