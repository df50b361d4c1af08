//! What the scenario tests share: the ground truth that the workload prints, the agent's events, and the comparison.
//!
//! * [`truth`]: what `conn-scenario` says it did;
//! * [`event`]: what `conn tail --json` says it saw;
//! * [`expect`]: what each backend can know, in one table;
//! * [`compare`]: none missing, none invented, each right;
//! * [`against_ss`]: `conn list` against ss;
//! * [`module`]: kernel modules of the test machines;
//! * [`skip`]: what this kernel cannot do, shown and counted;
//! * [`kernel_sockets`]: what ss shows, where there is no ss;
//! * [`open`]: what is open by the events and by the kernel;
//! * [`own_name`]: names that say whose something is, after a kill;
//! * [`fake`]: an agent that knows everything, to test the comparison itself.

pub mod against_ss;
pub mod clock;
pub mod compare;
pub mod event;
pub mod expect;
pub mod fake;
pub mod kernel_sockets;
pub mod module;
pub mod open;
pub mod own_name;
pub mod skip;
pub mod truth;
