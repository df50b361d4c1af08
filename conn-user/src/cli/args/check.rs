//! Arguments of `conn check`.

use std::path::PathBuf;

use clap::Args;

use super::EXIT_CODES;

/// Arguments of `conn check`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct CheckArgs {
    /// Folders with rule files (*.toml), or single files
    #[arg(value_name = "DIR", required_unless_present = "defaults")]
    pub paths: Vec<PathBuf>,

    /// Write one JSON object (see docs/rules.md)
    #[arg(long)]
    pub json: bool,

    /// Print the default rules as a rule file, and validate nothing
    #[arg(long, conflicts_with_all = ["paths", "json"])]
    pub defaults: bool,
}
