//! The exit codes of the program.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Success; also when the reader of the output has gone away.
    Done = 0,
    /// Any other error.
    Error = 1,
    /// An invalid option, filter or rule. clap exits with the same number.
    Usage = 2,
    /// A capability is missing.
    NotPermitted = 3,
    /// The kernel is not supported, or a hook delivers nothing in the self-test.
    Unsupported = 4,
    /// The lists differ (`conn diff --exit-code`).
    Differs = 5,
    /// An alert was shown (`--exit-code`).
    Alerts = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
