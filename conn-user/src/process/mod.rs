//! Who: the process table, from exec, fork and exit records and a scan of /proc at start.

pub mod fds;
pub mod hash;
mod image;
pub mod info;
pub mod procfs;
mod seen;
pub mod table;

#[cfg(test)]
pub(crate) mod testing;

pub use table::ProcessTable;
