//! What: the connection and listener tables and their life cycles.

pub mod born;
pub mod coverage;
mod devices;
mod ends;
mod hold;
mod how;
mod life;
mod listen;
mod listeners;
pub mod merge;
pub mod model;
mod pending;
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
mod scenarios_partial;
#[cfg(test)]
pub(crate) mod testing;

pub use table::{FlowLimits, FlowStats, FlowTable};
