//! The kernel's side: offsets, what this kernel offers, the attach plan, loading, and the ring reader.

pub mod btf;
pub mod facts;
pub mod gap;
pub mod offsets;
pub mod plan;
