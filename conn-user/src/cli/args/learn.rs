//! Arguments of `conn learn`.

use std::path::PathBuf;

use clap::Args;

use super::EXIT_CODES;

/// Arguments of `conn learn`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct LearnArgs {
    /// From the unit files of systemd: in these folders, the first of which counts most, or where systemd looks for them
    ///
    /// PrivateNetwork=, RestrictAddressFamilies=, IPAddressAllow=, IPAddressDeny=, SocketBindAllow= and SocketBindDeny= become
    /// rules, and ListenStream= of what starts with the machine is expected to listen (see docs/learn.md).
    #[arg(long, value_name = "DIR", num_args = 0.., required = true)]
    pub from_units: Option<Vec<PathBuf>>,

    /// Write the rule file here, over what is there; without it to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
