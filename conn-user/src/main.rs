//! The binary `conn`.
fn main() {}
