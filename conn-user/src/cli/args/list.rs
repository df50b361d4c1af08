//! Arguments of the commands about lists of sockets.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::{ColorChoice, EXIT_CODES, Environment, RuleChoice, rules};
use crate::filter::key::Key;
use crate::filter::{Filter, FilterError};
use crate::sockets::Selection;
use crate::sockets::json::Asked;
use crate::sockets::sort::Sort;

/// Arguments of `conn list`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct ListArgs {
    /// Show listeners only
    #[arg(short, long)]
    pub listening: bool,

    /// Show everything: connections, listeners, and TIME_WAIT
    #[arg(short, long)]
    pub all: bool,

    /// Accept the flags of ss for what conn always does: TCP, numeric addresses, processes
    #[arg(short = 't', short_aliases = ['n', 'p'], action = ArgAction::Count, hide = true)]
    pub as_ss: u8,

    /// Accept the flag of ss for UDP sockets, which conn does not list
    #[arg(short = 'u', hide = true)]
    pub udp: bool,

    /// List here, and not by the agent that runs, which knows exact ages
    #[arg(long)]
    pub direct: bool,

    /// Write one JSON object a line (`conn schema list` describes it)
    #[arg(long)]
    pub json: bool,

    /// Sort by age, bytes, pid, proc, local or remote; -KEY reverses the order
    ///
    /// Without it: by address, listeners first.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub sort: Option<Sort>,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set or CLICOLOR_FORCE forces them
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Show only what matches these terms, e.g. dport:443 proc:nginx -dst:10.0.0.0/8 (see `conn help filter`)
    ///
    /// All terms must match, a comma is OR, a leading - negates.
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// What `conn list` does.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// What was asked for, as a saved list reports it.
    pub asked: Asked,
    /// What to show.
    pub filter: Filter,
    /// In which order.
    pub sort: Option<Sort>,
    /// As JSON.
    pub json: bool,
    /// With colour.
    pub color: bool,
}

impl ListArgs {
    /// What these arguments mean here.
    ///
    /// # Errors
    /// A filter that does not exist, or is about events: [`super::Exit::Usage`].
    pub fn resolve(&self, environment: Environment) -> Result<ListOptions, FilterError> {
        let words = self.filter.join(" ");
        let filter = rules::filter(&RuleChoice::Default, |names| Filter::for_sockets(&words, names))?;
        // A filter that names states, or what only listeners have, says itself which sockets are meant.
        let names = |key| filter.keys().any(|word| word == (key, false));
        let selection = match (self.all, self.listening) {
            (true, _) => Selection::All,
            (false, true) => Selection::Listening,
            (false, false) if names(Key::State) => Selection::All,
            (false, false) if names(Key::SocketUnit) => Selection::Listening,
            (false, false) => Selection::Connected,
        };
        Ok(ListOptions {
            asked: Asked { selection, filter: filter.to_string() },
            filter,
            sort: self.sort,
            json: self.json,
            color: environment.color(self.color),
        })
    }
}

/// Arguments of `conn diff`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct DiffArgs {
    /// The older list, saved with `conn list --json`; - is standard input
    pub old: PathBuf,

    /// The newer list
    pub new: PathBuf,

    /// Write one JSON object a line (see docs/list.md)
    #[arg(long)]
    pub json: bool,

    /// Exit with code 5 if the lists differ
    #[arg(long)]
    pub exit_code: bool,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set or CLICOLOR_FORCE forces them
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
}

/// Arguments of `conn schema`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SchemaArgs {
    /// Print the schema of this output
    #[arg(value_enum, ignore_case = true, default_value_t)]
    pub of: SchemaOf,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum SchemaOf {
    /// `conn tail --json`.
    #[default]
    Events,
    /// `conn list --json`.
    List,
    /// `conn run --json`.
    Run,
}
