//! Who: the process table, from exec, fork and exit records and a scan of /proc at start.

pub mod info;
