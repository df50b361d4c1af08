//! Arguments of `conn test`.

use std::path::PathBuf;

use clap::Args;

use super::EXIT_CODES;

/// Arguments of `conn test`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct TestArgs {
    /// Folders with rule files (*.toml), or single files; their tests are the tables [[test]]
    #[arg(value_name = "DIR", required_unless_present = "defaults")]
    pub paths: Vec<PathBuf>,

    /// Test the default rules
    #[arg(long, conflicts_with = "paths")]
    pub defaults: bool,

    /// Run only tests whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Write one JSON object (see docs/tests.md)
    #[arg(long)]
    pub json: bool,

    /// Write a JUnit report to this file too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}
