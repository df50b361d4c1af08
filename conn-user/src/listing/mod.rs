//! Lists of sockets: a snapshot with its processes, as text and JSON, saved lists and their difference.

pub mod json;
pub mod model;
pub mod schema;
pub mod sort;
mod table;
pub mod text;

#[cfg(test)]
pub(crate) mod samples;

pub use model::{HeldBy, Listed, Listing, Selection};
