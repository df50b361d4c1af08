//! Where events go, and what is said at the end.

pub mod file;
pub mod junit;
pub mod pipe;
pub mod syslog;
pub mod totals;
pub mod writer;
