//! The kernel's side: offsets, what this kernel offers, the attach plan, loading, the ring reader, and what the kernel
//! reports the sockets there are.

pub mod btf;
pub mod compat;
pub mod conntrack;
pub mod counters;
pub mod execs;
pub mod exhausted;
pub mod facts;
pub mod gap;
mod info;
pub mod interfaces;
pub mod load;
mod mapping;
pub mod mounts;
pub mod netlink;
pub mod netns;
mod object;
pub mod offsets;
pub mod plan;
pub mod ring;
pub mod selftest;
pub mod skipped;
pub mod sockdiag;
pub mod tcp_file;
pub mod tracefs;
pub mod unixdiag;
