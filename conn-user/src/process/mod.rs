//! Who: the process table, from exec, fork and exit records and a scan of /proc at start.

mod about;
pub mod applet;
mod args;
pub mod cgroup;
pub mod channels;
pub mod digest;
mod entries;
mod entry;
mod exe;
pub mod fds;
mod file_stat;
pub mod files;
pub mod guarded;
pub mod hash;
mod host;
pub mod identity;
mod image;
pub mod info;
pub mod inspect;
pub mod lineage;
mod own;
pub mod placement;
pub mod procfs;
mod scan;
pub mod script;
mod seen;
pub mod socket_units;
pub mod table;
mod tools;
mod tty;
pub mod unit_files;
pub mod users;

#[cfg(test)]
pub(crate) use exe::tests::Sleeper;
#[cfg(test)]
pub(crate) mod testing;

pub use table::ProcessTable;
