//! The schema of the JSON lines, for `conn schema`, tools and the documentation.

#[cfg(test)]
pub(crate) mod page;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod validator;

/// JSON Schema (draft 2020-12), made from [`super::wire`], of [`super::model::SCHEMA_VERSION`].
pub const SCHEMA: &str = include_str!("schema.json");
