//! The records that cross the ring buffer, and the configuration that the agent hands to the BPF programs.
//!
//! Rules of this interface:
//! * every struct is `#[repr(C)]`, has no implicit padding and asserts its size and offsets at compile time, on both sides;
//! * kinds and hooks are explicit numbers that are never used again for something else;
//! * every record begins with a [`record::RecordHeader`], whose `len` is the length that the ring has for the record;
//! * a struct grows at its end only, and the arguments of an exec stay the last bytes of the record; a reader takes the
//!   part that it knows, and skips and counts what it cannot decode;
//! * integers are in the byte order of the machine; addresses are in network order, ports in host order.

#![cfg_attr(not(any(feature = "user", test)), no_std)]
// What is shipped fails with an error and not with a panic (`unwrap` is a warning in the whole workspace).
#![cfg_attr(not(test), deny(clippy::expect_used))]

pub mod config;
pub mod hook;
pub mod mark;
pub mod record;

#[cfg(any(feature = "user", test))]
pub mod decode;
