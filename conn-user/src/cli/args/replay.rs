//! Arguments of `conn replay`.

use std::path::PathBuf;

use clap::Args;

use super::{ColorChoice, EXIT_CODES, Environment, Format, RuleChoice};

/// Arguments of `conn replay`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct ReplayArgs {
    /// Recordings, as `conn tail --record` writes them, in the order of their time, or logs of Zeek (conn.log); -: standard
    /// input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Write one JSON object a line (`conn schema` describes it)
    #[arg(long)]
    pub json: bool,

    /// Use the rules of this folder instead of the default rules; may be repeated
    #[arg(long = "rules", value_name = "DIR")]
    pub rules: Vec<PathBuf>,

    /// Exit with code 6 if there was an alert
    #[arg(long)]
    pub exit_code: bool,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set or CLICOLOR_FORCE forces them
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
}

impl ReplayArgs {
    /// How alerts are written.
    pub const fn format(&self, environment: Environment) -> Format {
        if self.json {
            Format::Json { compact: false }
        } else {
            Format::Text { color: environment.color(self.color), terminal: environment.terminal }
        }
    }

    /// Which rules judge.
    pub fn choice(&self) -> RuleChoice {
        RuleChoice::of(&self.rules)
    }
}
