//! Arguments of `conn run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{EXIT_CODES, parse_duration, parse_ring_size};
use crate::kernel::plan::BackendChoice;

/// Arguments of `conn run`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct RunArgs {
    /// Expect what the rules of this folder or file say; may be repeated
    ///
    /// What they find is unexpected; what rules of kind `missing` name must happen (see docs/run.md). Without it nothing is
    /// expected, and the exit code is the command's.
    #[arg(long = "rules", value_name = "DIR", conflicts_with = "learn")]
    pub rules: Vec<PathBuf>,

    /// Write what the command did as rules for --rules, if it exits with 0
    #[arg(long, value_name = "FILE")]
    pub learn: Option<PathBuf>,

    /// Write the report to this file instead of standard error
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write a JUnit report: one case for the command, and one for each rule
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Write the report as a JSON object (`conn schema run` describes it)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Pass a run of which records were lost, although something may have been missed
    #[arg(long)]
    pub allow_loss: bool,

    /// Exit with this code if the command exits with 0 and anything is unexpected or missing
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub exit_code: u8,

    /// Wait this long after the command's end for the processes that it started
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wait_tree: Option<Duration>,

    /// Choose the kernel hooks; auto takes the first backend that works
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "BACKEND")]
    pub backend: BackendChoice,

    /// Set the size of the ring buffer between kernel and agent: a power of two from 64K to 1G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_ring_size)]
    pub ring_size: u32,

    /// The command and its arguments, behind `--`; no shell is between
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
