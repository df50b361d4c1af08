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
    /// What is expected: the rules of this folder or file (may be given several times)
    ///
    /// What they find is unexpected; what rules of kind `missing` name must happen (see docs/run.md). Without it nothing is
    /// expected, and the exit code is the command's.
    #[arg(long = "rules", value_name = "DIR", conflicts_with = "learn")]
    pub rules: Vec<PathBuf>,

    /// Write what the command did as rules, for --rules, if it exits with 0
    #[arg(long, value_name = "FILE")]
    pub learn: Option<PathBuf>,

    /// Write the report here in the place of standard error
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write a JUnit report: a case for the command, and one for each rule
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Write the report as a JSON object (`conn schema run` describes it)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Do not fail because records were lost, though something may have been missed
    #[arg(long)]
    pub allow_loss: bool,

    /// The exit code if the command exits with 0 and not all was as expected
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub exit_code: u8,

    /// Go on so long after the command's end, until all processes that it started have ended
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wait_tree: Option<Duration>,

    /// How to hook into the kernel; auto takes the first that works
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "BACKEND")]
    pub backend: BackendChoice,

    /// Size of the ring buffer between kernel and agent: a power of two from 64K to 1G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_ring_size)]
    pub ring_size: u32,

    /// The command and its arguments, behind `--`; no shell is between
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
