//! What can be said on the command line, and what it means.
//!
//! Two stages: clap reads the words ([`Cli::read`]), then [`TailArgs::resolve`] makes of them what the program does, given
//! the [`Environment`]. Neither has side effects.

mod check;
mod explain;
mod hints;
mod learn;
mod list;
mod query;
mod replay;
mod run;
mod test;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub use self::check::CheckArgs;
pub use self::explain::ExplainArgs;
pub use self::learn::{LearnArgs, LearnFrom};
pub use self::list::{DiffArgs, ListArgs, ListOptions, SchemaArgs, SchemaOf};
pub use self::query::QueryArgs;
pub use self::replay::ReplayArgs;
pub use self::run::RunArgs;
pub use self::test::TestArgs;
pub use super::exit::Exit;
use super::rules;
pub use super::rules::RuleChoice;
pub use crate::event::kinds::KindSet;
use crate::event::model::{Event, EventKind};
use crate::event::names;
use crate::filter::{Filter, FilterError, amount};
use crate::kernel::plan::BackendChoice;
use crate::priority::Priority;
use crate::process::files;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when the reader of the output went away
  1  any other error; a rule test failed (conn test)
  2  wrong usage: an invalid option, filter or rule
  3  not permitted: a capability is missing
  4  unsupported kernel, or a hook that delivers nothing in the self-test
  5  the lists differ (conn diff --exit-code)
  6  an alert was shown (--exit-code), or something was
     unexpected or missing (conn run)
conn run ends with the code of its command if that is not 0:
128 + N after signal N, 127 if it is not found, 126 if it
cannot be executed. With 3 and 4 the command was not run.";

/// Traces TCP connections and their processes with eBPF, and raises alerts on anomalies.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "conn",
    version,
    after_long_help = EXIT_CODES,
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Trace connections live
    Tail(TailArgs),
    /// Run as a daemon: write alerts to a file and to syslog
    Agent(AgentArgs),
    /// Show how the running agent is: rates, losses, rules, open alerts, clients
    Status(StatusArgs),
    /// Check what this kernel and these privileges allow, and what is missing
    Doctor(DoctorArgs),
    /// List TCP sockets and their processes
    List(ListArgs),
    /// Query the history of connections, listeners and alerts
    Query(QueryArgs),
    /// Compare two saved lists
    Diff(DiffArgs),
    /// Validate rule files, or print the default rules
    Check(CheckArgs),
    /// Run the tests in rule files
    Test(TestArgs),
    /// Generate a baseline from observed traffic, or rules from systemd units
    Learn(LearnArgs),
    /// Apply rules to a recording
    Replay(ReplayArgs),
    /// Run a command, and compare its connections with what is expected
    Run(RunArgs),
    /// Explain why a rule did or did not match, and which exception suppresses it
    Explain(ExplainArgs),
    /// Print the JSON Schema of `conn tail --json`, `conn list --json` or `conn run --json`
    Schema(SchemaArgs),
    /// Print the help of a command, or of a topic: filter, rules
    Help(HelpArgs),
    /// Open and read files for another conn, which starts this itself
    #[command(name = files::SUBCOMMAND, hide = true)]
    FileWorkers,
}

/// Arguments of `conn tail`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct TailArgs {
    /// Write one JSON object a line (`conn schema` describes it)
    #[arg(long)]
    pub json: bool,

    /// Trace here, and not by the agent that runs
    ///
    /// Without it the events are those of the running agent, where there is one. What only an own trace has implies it: --backend,
    /// --priority, --ring-size, --bpf-log, --no-self-test, --rules, --no-rules, --record.
    #[arg(long)]
    pub direct: bool,

    /// Write JSON in which each process is written out once, and then referred to by its id
    ///
    /// For files that are read from their beginning, such as recordings: less than half the size where processes have
    /// many connections.
    #[arg(long)]
    pub compact: bool,

    /// Choose the kernel hooks; auto takes the first backend that works
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "BACKEND")]
    pub backend: BackendChoice,

    /// Show only these kinds of events; gaps (lost records) are always shown
    ///
    /// Without it: all but exec and exit.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', ignore_case = true, value_parser = kind_parser())]
    pub kinds: Vec<EventKind>,

    /// Show every kind of event, exec and exit too
    #[arg(long, conflicts_with = "kinds")]
    pub all: bool,

    /// Show one line a connection, when it ends: who, to where, how long, how much; and listeners and alerts
    ///
    /// What is still open does not show: `conn list` has it.
    #[arg(long, conflicts_with_all = ["kinds", "all", "alerts", "record"])]
    pub summary: bool,

    /// Show the past too, from this time on, e.g. 10m, 1h, "yesterday 03:00"; what comes then follows without a hole
    ///
    /// Takes a running agent that keeps a history. exec and exit events are not kept.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["record", "direct", "rules", "no_rules"])]
    pub since: Option<String>,

    /// Show the last N events first; with --since the last N since then
    #[arg(long = "last", short = 'n', value_name = "N", conflicts_with_all = ["record", "direct", "rules", "no_rules"])]
    pub last: Option<u64>,

    /// End after this many events; gaps (lost records) count only where they are asked for
    #[arg(long, value_name = "N")]
    pub count: Option<NonZeroU64>,

    /// End after this time, e.g. 10s, 2m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set or CLICOLOR_FORCE forces them
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Set the priority of the reader; real-time, within a budget, keeps busy processes from blinding it
    ///
    /// auto: only while they do. Where it is refused, the next lower one is taken. The kernel may skip more programs with
    /// it, which is counted.
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "PRIORITY")]
    pub priority: Priority,

    /// Skip the loopback connection that proves at the start that every hook delivers
    #[arg(long = "no-self-test", action = ArgAction::SetFalse)]
    pub self_test: bool,

    /// Print events by kind and records by hook at the end
    #[arg(long, short)]
    pub verbose: bool,

    /// Show the diagnostics of the BPF programs on standard error
    #[arg(long)]
    pub bpf_log: bool,

    /// Set the size of the ring buffer between kernel and agent: a power of two from 64K to 1G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_ring_size)]
    pub ring_size: u32,

    /// Use the rules of this folder instead of the default rules; may be repeated
    #[arg(long = "rules", value_name = "DIR", conflicts_with = "no_rules")]
    pub rules: Vec<PathBuf>,

    /// Disable all rules
    #[arg(long)]
    pub no_rules: bool,

    /// Show only alerts
    #[arg(long, conflicts_with_all = ["kinds", "all", "no_rules"])]
    pub alerts: bool,

    /// Exit with code 6 if an alert was shown
    #[arg(long, conflicts_with = "no_rules")]
    pub exit_code: bool,

    /// Write a recording for `conn replay`: existing connections, then every event, as JSON lines
    #[arg(long, conflicts_with_all = ["kinds", "alerts", "filter"])]
    pub record: bool,

    /// Show only what matches these terms, e.g. port:443 proc:nginx -dst:10.0.0.0/8 (see `conn help filter`)
    ///
    /// All terms must match, a comma is OR, a leading - negates.
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// Arguments of `conn agent`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct AgentArgs {
    /// Read the configuration from this file; default: the default rules, alerts to standard output and /dev/log
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `conn status`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct StatusArgs {
    /// Write one JSON object (see docs/socket.md)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `conn doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct DoctorArgs {
    /// Write one JSON object
    #[arg(long)]
    pub json: bool,

    /// List the hooks of the chosen backend too
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `conn help`.
#[derive(Clone, Debug, Args)]
pub struct HelpArgs {
    /// Print the help of this command, or filter or rules
    #[arg(value_name = "COMMAND|TOPIC")]
    pub of: Option<String>,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless the environment says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What of the surroundings decides how things are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// `NO_COLOR` is set and not empty (no-color.org).
    pub no_color: bool,
    /// `CLICOLOR_FORCE` is set, not empty and not 0 (bixense.com/clicolors).
    pub force_color: bool,
    /// `TERM` is `dumb`: it has no colours.
    pub dumb: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            terminal: io::stdout().is_terminal(),
            no_color: set("NO_COLOR"),
            force_color: set("CLICOLOR_FORCE")
                && env::var_os("CLICOLOR_FORCE").as_deref() != Some(OsStr::new("0")),
            dumb: env::var_os("TERM").as_deref() == Some(OsStr::new("dumb")),
        }
    }

    /// Whether to use colour.
    pub const fn color(self, choice: ColorChoice) -> bool {
        match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !self.no_color && (self.force_color || (self.terminal && !self.dumb)),
        }
    }
}

/// What `conn tail` does.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// How events are written.
    pub format: Format,
    /// How to hook into the kernel.
    pub backend: BackendChoice,
    /// Kinds that are shown, gaps apart.
    pub kinds: KindSet,
    /// Kinds that were named one by one.
    pub named_kinds: KindSet,
    /// End after so many events.
    pub count: Option<NonZeroU64>,
    /// End after this time.
    pub duration: Option<Duration>,
    /// Priority of the thread that reads.
    pub priority: Priority,
    /// Prove at start that every hook delivers.
    pub self_test: bool,
    /// Print the totals in full.
    pub verbose: bool,
    /// Show the diagnostics of the BPF programs.
    pub bpf_log: bool,
    /// Size of the ring buffer in bytes, a power of two.
    pub ring_size: u32,
    /// What to show.
    pub filter: Filter,
    /// Which rules judge.
    pub rules: RuleChoice,
    /// Say by the exit code whether an alert was shown.
    pub exit_code: bool,
    /// Begin with what was there before.
    pub record: bool,
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON lines.
    Json {
        /// With each process written out once, and then as a reference.
        compact: bool,
    },
    /// Lines for people.
    Text {
        /// With colour.
        color: bool,
        /// Standard output is a terminal, so a line may be cut at its width.
        terminal: bool,
    },
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// A negated word of a filter (`-proc:sshd`) looks like a flag; clap either refuses it or takes the flags after it
    /// for filters too. No flag has a colon, so these words go to the end, behind `--`. Their order means nothing.
    ///
    /// # Errors
    /// As clap has them, `--help` and `--version` included: `error.exit()` shows them and ends with the right code.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let (mut ordinary, mut negated, mut only_words) = (Vec::new(), Vec::new(), false);
        for (at, word) in words.into_iter().enumerate() {
            // The words of a command that is run are not ours.
            only_words |= word == "--" || at == 1 && word == "run";
            if !only_words && is_negated(&word) { &mut negated } else { &mut ordinary }.push(word);
        }
        if !only_words && !negated.is_empty() {
            ordinary.push("--".into());
        }
        let words: Vec<OsString> = ordinary.into_iter().chain(negated).collect();
        Self::try_parse_from(&words).map_err(|error| hints::add(error, &words))
    }
}

/// Whether a word is `-key:…`.
fn is_negated(word: &OsStr) -> bool {
    let Some(rest) = word.as_encoded_bytes().strip_prefix(b"-") else { return false };
    let key = rest.iter().take_while(|byte| **byte != b':').count();
    key < rest.len() && rest[0] != b'-'
}

impl TailArgs {
    /// Whether what was asked for is only in a trace of its own.
    pub fn is_direct(&self) -> bool {
        self.direct
            || self.backend != BackendChoice::default()
            || self.priority != Priority::default()
            || self.ring_size != RING_DEFAULT
            || self.bpf_log
            || !self.self_test
            || !self.rules.is_empty()
            || self.no_rules
            || self.record
    }

    /// The kinds of events that were asked for; `None`: those that a filter makes of the default.
    pub fn asked_kinds(&self, options: &TailOptions) -> Option<KindSet> {
        (self.alerts || self.all || self.summary || !self.kinds.is_empty()).then_some(options.kinds)
    }

    /// What these arguments mean here.
    ///
    /// # Errors
    /// A filter that does not exist: [`Exit::Usage`].
    pub fn resolve(&self, environment: Environment) -> Result<TailOptions, FilterError> {
        let rules = match &self.rules {
            _ if self.no_rules => RuleChoice::None,
            folders => RuleChoice::of(folders),
        };
        let words = self.filter.join(" ");
        let filter = rules::filter(&rules, |names| Filter::with_names(&words, names))?;
        let kinds = if self.alerts {
            [EventKind::Alert].into_iter().collect()
        } else if self.all || self.record {
            KindSet::of_stream(self.record)
        } else if self.summary {
            KindSet::SUMMARY
        } else if self.kinds.is_empty() {
            KindSet::DEFAULT
                .and([EventKind::Exec, EventKind::Exit].into_iter().filter(|kind| filter.asks_for(*kind)))
        } else {
            self.kinds.iter().copied().collect()
        };
        let text = Format::Text { color: environment.color(self.color), terminal: environment.terminal };
        Ok(TailOptions {
            format: if self.json || self.record || self.compact {
                Format::Json { compact: self.compact }
            } else {
                text
            },
            backend: self.backend,
            kinds,
            named_kinds: self.kinds.iter().copied().collect(),
            count: self.count,
            duration: self.duration,
            priority: self.priority,
            self_test: self.self_test,
            verbose: self.verbose,
            bpf_log: self.bpf_log,
            ring_size: self.ring_size,
            filter,
            rules,
            exit_code: self.exit_code,
            record: self.record,
        })
    }
}

impl TailOptions {
    /// Whether an event that is shown was asked for, and is not one that is shown always.
    pub fn asks_for(&self, event: &Event) -> bool {
        self.named_kinds.contains(event.body.kind()) || !self.filter.is_shown_unasked(event)
    }

    /// Whether an event is shown: its kind is asked for or always shown, and the filter lets it pass.
    pub fn shows(&self, event: &Event) -> bool {
        let kind = event.body.kind();
        (kind.is_always_shown() || self.kinds.contains(kind)) && self.filter.passes(event)
    }
}

fn kind_parser() -> impl TypedValueParser<Value = EventKind> {
    PossibleValuesParser::new(names::all::<EventKind>())
        .try_map(|name| names::from_name(&name.to_ascii_lowercase()).ok_or("not a kind of event"))
}

/// Reads a duration such as `10s`, `2m`, `1h30m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 10s, 2m, 1h30m or 36h".to_owned();
    let duration =
        amount::duration(text).map(|duration| Duration::from_nanos(duration.0)).ok_or_else(wrong)?;
    if duration.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(duration) }
}

/// `8M`, the default of `--ring-size`.
const RING_DEFAULT: u32 = 8 << 20;
const SMALLEST_RING: u64 = 64 << 10;
const LARGEST_RING: u64 = 1 << 30;

/// Reads a size such as `8M`, `512KiB`, `1048576`.
pub(super) fn parse_ring_size(text: &str) -> Result<u32, String> {
    let wrong = || "write a size such as 512K, 8M or 1G".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let size = number.saturating_mul(1 << shift);
    if !(SMALLEST_RING..=LARGEST_RING).contains(&size) {
        return Err("it must be between 64K and 1G".to_owned());
    }
    if !size.is_power_of_two() {
        let above = size.next_power_of_two();
        let shown =
            |size: u64| if size < 1 << 20 { format!("{}K", size >> 10) } else { format!("{}M", size >> 20) };
        return Err(format!("the kernel wants a power of two: {} or {}", shown(above / 2), shown(above)));
    }
    u32::try_from(size).map_err(|_| wrong())
}
