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

    /// Test the built-in rules
    #[arg(long, conflicts_with = "paths")]
    pub defaults: bool,

    /// Run only tests whose name has this text in it
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Write one JSON object (see docs/tests.md)
    #[arg(long)]
    pub json: bool,

    /// Write a report in the XML of JUnit to this file too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}
