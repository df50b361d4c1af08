//! Arguments of `conn learn`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{BackendChoice, EXIT_CODES, parse_duration, parse_ring_size};

/// Arguments of `conn learn`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct LearnArgs {
    /// Learn what is normal from recordings (`conn tail --record`); -: standard input. With --diff also a baseline (*.toml)
    #[arg(value_name = "FILE", conflicts_with_all = ["from_units", "duration", "accept"])]
    pub files: Vec<PathBuf>,

    /// Learn what is normal by watching this machine for so long, e.g. 24h; Ctrl-C ends it early
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["from_units", "accept"])]
    pub duration: Option<Duration>,

    /// Generate rules from systemd's unit files: in these folders, the first taking precedence, or where systemd looks
    ///
    /// PrivateNetwork=, RestrictAddressFamilies=, IPAddressAllow=, IPAddressDeny=, SocketBindAllow= and SocketBindDeny= become
    /// rules, and ListenStream= of what starts with the machine is expected to listen (see docs/learn.md).
    #[arg(long, value_name = "DIR", num_args = 0.., conflicts_with_all = ["diff", "accept"])]
    pub from_units: Option<Vec<PathBuf>>,

    /// Print what is new and what is gone compared with this baseline
    #[arg(long, value_name = "OLD", conflicts_with = "accept")]
    pub diff: Option<PathBuf>,

    /// Add what these alerts (JSON lines; -: standard input) report to the baseline of -o
    #[arg(long, value_name = "ALERTS", requires = "output")]
    pub accept: Option<PathBuf>,

    /// Write the rule file here, replacing it; default: standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write the difference as JSON lines
    #[arg(long, requires = "diff", conflicts_with_all = ["from_units", "accept"])]
    pub json: bool,

    /// Exit with code 5 if there is a difference
    #[arg(long, requires = "diff", conflicts_with_all = ["from_units", "accept"])]
    pub exit_code: bool,

    /// Choose the kernel hooks; auto takes the first backend that works
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "BACKEND", conflicts_with_all = ["files", "from_units", "accept"])]
    pub backend: BackendChoice,

    /// Set the size of the ring buffer between kernel and agent: a power of two from 64K to 1G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_ring_size, conflicts_with_all = ["files", "from_units", "accept"])]
    pub ring_size: u32,
}

/// What to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnFrom<'a> {
    /// Unit files in these folders; of none: where systemd looks.
    Units(&'a [PathBuf]),
    /// This machine, for so long.
    Live(Duration),
    /// Recordings.
    Recordings(&'a [PathBuf]),
    /// A baseline that is there already.
    Baseline(&'a Path),
    /// Alerts.
    Alerts(&'a Path),
}

impl LearnArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// What is missing: wrong usage.
    pub fn source(&self) -> Result<LearnFrom<'_>, &'static str> {
        let is_toml = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "toml");
        match (&self.from_units, self.duration, &self.accept, self.files.as_slice()) {
            (Some(folders), ..) => Ok(LearnFrom::Units(folders)),
            (_, Some(duration), ..) => Ok(LearnFrom::Live(duration)),
            (_, _, Some(alerts), _) => Ok(LearnFrom::Alerts(alerts)),
            (.., [file]) if is_toml(file) && self.diff.is_some() => match &self.output {
                None => Ok(LearnFrom::Baseline(file)),
                Some(_) => Err(
                    "two baselines that are there are compared: nothing is learnt that --output could keep",
                ),
            },
            (.., files) if files.iter().any(is_toml) => {
                Err("a rule file is no recording: name one alone, with --diff OLD, to compare the two")
            }
            (.., []) => Err("say from what to learn: --for 24h (this machine as it runs), recordings of \
                             `conn tail --record`, or --from-units"),
            (.., files) => Ok(LearnFrom::Recordings(files)),
        }
    }
}
