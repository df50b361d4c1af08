//! Arguments of `conn explain`.

use std::path::PathBuf;

use clap::Args;

use super::{EXIT_CODES, RuleChoice};

/// Arguments of `conn explain`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// Recordings, as `conn tail --record` writes them, in the order of their time, or alerts as JSON lines; -: standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Explain this alert: a7, its id in JSON, or the number (seq) of its line; not needed if there is one only
    #[arg(long, value_name = "ID", conflicts_with = "event")]
    pub alert: Option<String>,

    /// Explain what the rules made of the event of this number (seq), and why nothing was reported
    #[arg(long, value_name = "SEQ")]
    pub event: Option<u64>,

    /// With --event: what this rule made of it, in full
    #[arg(long, value_name = "ID", requires = "event", conflicts_with = "alert")]
    pub rule: Option<String>,

    /// Use the rules of this folder (may be given several times) in the place of the built-in ones
    #[arg(long = "rules", value_name = "DIR")]
    pub rules: Vec<PathBuf>,

    /// Write one JSON object (see docs/explain.md)
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    /// Which rules judge.
    pub fn choice(&self) -> RuleChoice {
        RuleChoice::of(&self.rules)
    }
}
