//! What: the connection and listener tables and their life cycles.

mod actors;
pub mod born;
mod connection_records;
mod connection_table;
pub mod coverage;
mod devices;
mod emitter;
mod ending;
mod ends;
mod how;
pub mod limits;
mod listener_records;
mod listener_table;
mod listeners;
mod lookups;
pub mod merge;
pub mod model;
pub mod resolve;
pub mod sample;
pub mod snapshot;
pub mod stdio;
mod store;
pub mod table;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
pub(crate) mod testing;

pub use limits::{FlowLimits, FlowStats};
pub use table::FlowTable;
