//! The commands of the binary `conn`.

pub mod doctor;
