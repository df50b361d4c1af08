//! The kernel's side: offsets, what this kernel offers, the attach plan, loading, and the ring reader.

pub mod btf;
pub mod facts;
pub mod gap;
mod info;
pub mod load;
mod object;
pub mod offsets;
pub mod plan;
pub mod ring;
pub mod selftest;
pub mod tracefs;
