//! The public event model and its encodings.

pub mod model;
