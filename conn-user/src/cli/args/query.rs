//! Arguments of `conn query`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use jiff::ZonedDateTime;

use super::{ColorChoice, EXIT_CODES, RuleChoice, rules};
use crate::event::when::{self, WhenError};
use crate::filter::{Filter, FilterError};
use crate::history::read::Span;
use crate::history::read::keys::{GroupKey, Sort};

/// Arguments of `conn query`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct QueryArgs {
    /// Show what was there at this time or later, e.g. 1h, "10 min ago", 03:00, "yesterday 03:00", 2026-12-01
    ///
    /// A duration is so long ago; a time of day is the last such time, in the time zone of this machine. Also RFC 3339, and @ with
    /// seconds since 1970.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Show what was there at this time or before
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,

    /// Show alerts
    #[arg(long, conflicts_with_all = ["listeners", "by", "sql"])]
    pub alerts: bool,

    /// Show listeners
    #[arg(long, conflicts_with_all = ["by", "sql"])]
    pub listeners: bool,

    /// Count connections by these keys, e.g. raddr,dport: how many, bytes, when first and last seen
    ///
    /// raddr, rport, laddr, lport, src, dst, sport, dport (port), dir, proto, netns, end, kind, comm (proc), exe, sha256, unit,
    /// container, user, uid, pid, host, run.
    #[arg(long, value_name = "KEY,...", value_delimiter = ',', conflicts_with = "sql")]
    pub by: Vec<GroupKey>,

    /// Sort by time, duration, bytes, bytes_in, bytes_out or count; -KEY: the largest first
    ///
    /// Without it: the oldest first; of --by: the most frequent first.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true, conflicts_with = "sql")]
    pub sort: Option<Sort>,

    /// Show at most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,

    /// Run this SQL statement over the tables of the history, read-only (see docs/history.md)
    #[arg(long, value_name = "SELECT", conflicts_with_all = ["filter", "limit"])]
    pub sql: Option<String>,

    /// Write one JSON object a line, as `conn tail --json` does
    #[arg(long)]
    pub json: bool,

    /// Read the history in this directory; default: that of the running agent, else /var/lib/conn
    #[arg(long, value_name = "DIR")]
    pub history: Option<PathBuf>,

    /// Read this recording of `conn tail --record` or --json instead, also a compressed one; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "history")]
    pub from: Vec<PathBuf>,

    /// Take lists and zones of filters from the rules in this folder; may be repeated
    #[arg(long = "rules", value_name = "DIR")]
    pub rules: Vec<PathBuf>,

    /// Write to the terminal without a pager
    #[arg(long)]
    pub no_pager: bool,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set or CLICOLOR_FORCE forces them
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Show only what matches these terms, e.g. dport:443 proc:nginx -dst:10.0.0.0/8 (see `conn help filter`)
    ///
    /// All terms must match, a comma is OR, a leading - negates. A connection matches if one of its events does.
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
}

impl QueryArgs {
    /// What to show.
    ///
    /// # Errors
    /// A filter that does not exist: [`super::Exit::Usage`].
    pub fn filter(&self) -> Result<Filter, FilterError> {
        let words = self.filter.join(" ");
        rules::filter(&RuleChoice::of(&self.rules), |names| Filter::with_names(&words, names))
    }

    /// The time that is asked for.
    ///
    /// # Errors
    /// A text that is no time: [`super::Exit::Usage`].
    pub fn span(&self, now: &ZonedDateTime) -> Result<Span, WhenError> {
        let read = |text: &Option<String>, else_at| {
            text.as_deref().map_or(Ok(else_at), |text| when::parse(text, now))
        };
        Ok(Span { since: read(&self.since, Span::ALL.since)?, until: read(&self.until, Span::ALL.until)? })
    }
}
