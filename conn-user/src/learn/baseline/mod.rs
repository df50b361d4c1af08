//! What a machine does, as a baseline: `conn learn --for 24h`, or from recordings. Reference: `docs/learn.md`.
//!
//! [`Learner`] takes events and keeps what is normal, generalised as it grows: [`name`] of executables and units, [`places`] of
//! addresses and ports. The order of events changes nothing, and what was learnt always covers what it was learnt from.
//! [`text`] is the file, [`diff`] what two of them have not in common ([`compare`]).

pub mod accept;
mod compare;
pub mod diff;
mod learner;
mod name;
mod places;
pub mod screen;
#[cfg(test)]
mod tests;
pub mod text;

pub use learner::{Learner, Learnt, Suspicious};
