//! Arguments of `conn explain`.

use std::path::PathBuf;

use clap::Args;

use super::{EXIT_CODES, RuleChoice};
use crate::replay::search::Ask;

/// Arguments of `conn explain`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// Recordings, as `conn tail --record` writes them, in the order of their time, or alerts as JSON lines; -: standard input
    ///
    /// Without one the alert is asked for from the running agent, with its rules: `conn explain a7`.
    #[arg(value_name = "FILE|ID")]
    pub files: Vec<PathBuf>,

    /// Explain this alert: a7, its id in JSON, or the number (seq) of its line; not needed if there is one only
    #[arg(long, value_name = "ID", conflicts_with = "event")]
    pub alert: Option<String>,

    /// Explain what each rule decided about the event with this number (seq)
    #[arg(long, value_name = "SEQ")]
    pub event: Option<u64>,

    /// With --event: explain this rule's decision in full
    #[arg(long, value_name = "ID", requires = "event", conflicts_with = "alert")]
    pub rule: Option<String>,

    /// Use the rules of this folder instead of the default rules; may be repeated
    #[arg(long = "rules", value_name = "DIR")]
    pub rules: Vec<PathBuf>,

    /// Write one JSON object (see docs/explain.md)
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    /// The alert that the running agent is to be asked for; `None`: there are files.
    pub fn of_agent(&self) -> Option<&str> {
        match self.files.as_slice() {
            [] => self.alert.as_deref(),
            [one] if self.alert.is_none() && self.event.is_none() && !one.exists() => {
                one.to_str().filter(|id| matches!(Ask::read(id), Some(Ask::Id(_) | Ask::Name(_))))
            }
            _ => None,
        }
    }

    /// Which rules judge.
    pub fn choice(&self) -> RuleChoice {
        RuleChoice::of(&self.rules)
    }
}
