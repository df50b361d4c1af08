//! Everything that listens or is connected at an instant, in every network namespace.

pub mod model;
