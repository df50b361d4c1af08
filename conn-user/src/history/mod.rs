//! What happened, kept: one SQLite file a day, which everybody who may can ask. Reference: `docs/history.md`.
//!
//! [`store`] writes rows to the file of a day, behind the queue of [`writer`]; [`read`] makes events of the rows again.

pub mod days;
pub mod error;
pub mod read;
pub mod retention;
pub mod schema;
pub mod store;
pub mod writer;

mod collapse;
mod intern;
mod more;
mod row;
mod words;

#[cfg(test)]
mod tests;

pub use self::error::HistoryError;
