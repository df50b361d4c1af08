//! The BPF programs: offsets, what this kernel offers, the attach plan, loading, the ring reader, and what
//! was lost.

pub mod btf;
pub mod compat;
pub mod counters;
pub mod execs;
pub mod exhausted;
pub mod facts;
pub mod gap;
mod info;
pub mod load;
mod mapping;
mod object;
pub mod offsets;
pub mod plan;
pub mod ring;
pub mod selftest;
pub mod skipped;
pub mod tracefs;
