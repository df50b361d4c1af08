//! The records that cross the ring buffer, and the configuration that the agent hands to the BPF programs.
//!
//! Rules of this interface:
//! * every struct is `#[repr(C)]`, has no implicit padding and asserts its size and offsets at compile time, on both sides;
//! * kinds and hooks are explicit numbers that are never used again for something else;
//! * every record begins with a [`record::RecordHeader`]; a reader skips a kind that it does not know by `len`;
//! * integers are in the byte order of the machine; addresses are in network order, ports in host order.

#![cfg_attr(not(any(feature = "user", test)), no_std)]
// What is shipped fails with an error and not with a panic (`unwrap` is a warning in the whole workspace).
#![cfg_attr(not(test), deny(clippy::expect_used))]

pub mod config;
pub mod hook;
pub mod record;

#[cfg(feature = "user")]
pub mod decode;
