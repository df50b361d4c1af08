//! Lists of sockets: a snapshot with its processes, as text and JSON, saved lists and their difference.

pub mod diff;
pub mod json;
pub mod model;
pub mod read;
pub mod report;
pub mod restart;
pub mod saved;
pub mod schema;
pub mod sort;
pub(crate) mod table;
pub mod text;
mod wire;

#[cfg(test)]
mod filter_tests;
#[cfg(test)]
pub(crate) mod samples;

pub use model::{HeldBy, Listed, Listing, Selection};
