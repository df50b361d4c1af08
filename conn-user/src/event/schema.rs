//! The schema of the JSON lines, for `conn schema`, tools and the documentation.

#[cfg(test)]
pub(crate) mod page;
#[cfg(test)]
pub(crate) mod shared;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod validator;

/// JSON Schema (draft 2020-12) of [`super::model::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");
