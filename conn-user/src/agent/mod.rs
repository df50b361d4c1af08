//! The agent's loop: from the bytes of the ring buffer to events, in one place and one thread.

mod backlog;
mod degraded;
mod existing;
pub mod health;
mod listener_units;
mod pipeline;
mod resync;
mod run;
mod source;
mod start;
pub mod state;

pub use pipeline::{OnFork, Pipeline, PipelineStats, RecordCount};
pub use resync::ResyncStats;
pub use run::{Consumer, Limits, View, run};
pub use start::{Agent, AgentOptions, AtStart, StartError, start};
