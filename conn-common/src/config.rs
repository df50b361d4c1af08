//! What the agent tells the BPF programs before they are loaded, as read-only globals.
//!
//! Each member offset is a global of its own, named `OFF_…`: the verifier then sees a constant, which is what lets a
//! program load through a BTF pointer at that offset, and what removes the branches of members that a kernel lacks.

/// An offset that this kernel does not have.
pub const OFFSET_NONE: u32 = u32::MAX;
