//! Everything that listens or is connected at an instant, in every network namespace.

mod age;
mod ask;
mod convert;
mod direction;
pub mod model;
mod take;
#[cfg(test)]
pub(crate) mod testing;

pub(super) use age::TICK;
pub(super) use convert::traffic;
pub use take::{SnapshotError, SnapshotOptions, take};
