//! The public event model and its encodings.

pub mod address;
pub mod age;
pub mod alert;
pub mod community;
pub mod degraded;
pub mod errno;
pub mod escape;
pub(crate) mod fold;
pub mod heartbeat;
pub mod human;
pub mod json;
pub mod kinds;
pub mod model;
pub mod names;
pub mod read;
pub mod schema;
mod services;
pub mod text;
pub mod time;
pub mod when;
pub(crate) mod wire;
pub(crate) mod words;

#[cfg(test)]
pub(crate) mod samples;
