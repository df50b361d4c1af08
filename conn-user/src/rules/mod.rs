//! What is anomalous: the rules, the five kinds of detectors, and the alerts they raise.
//!
//! A rule is a filter and a question ([`model`]). The [`engine`] finds by an [`index`] which rules an event may concern,
//! asks their filters, and hands the event to the rule's [`detector`], one a rule, in the folder of its kind. Time is that
//! of the events and of the [`timers`]: a recorded stream gives the alerts that the live one gave.

mod about;
pub mod alerts;
pub mod baseline;
#[cfg(test)]
mod bounded_tests;
pub mod defaults;
pub mod detector;
mod detectors;
pub mod dry_run;
pub mod engine;
mod exits;
pub mod explain;
pub mod file;
pub mod host;
mod index;
pub mod long;
mod lru;
pub mod missing;
pub mod model;
pub mod path;
pub mod path_memory;
pub mod process;
mod program;
mod reach;
mod rule_run;
pub mod server;
pub mod set;
mod spans;
pub mod stage;
pub(crate) mod suppression;
#[cfg(test)]
pub(crate) mod testing;
pub mod timers;
pub mod trace;
mod work;

pub use engine::Engine;
pub use set::RuleSet;
pub use stage::{Layout, Staged};
