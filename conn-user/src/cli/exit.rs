//! The exit codes of the program.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done; also when the reader of the output went away.
    Done = 0,
    /// Any other error.
    Error = 1,
    /// A flag, a filter or a rule that is none. clap exits with the same number.
    Usage = 2,
    /// A capability is missing.
    NotPermitted = 3,
    /// This kernel cannot do it, or a hook is silent in the self-test.
    Unsupported = 4,
    /// The lists differ, and that was asked for.
    Differs = 5,
    /// An alert was shown, and that was asked for.
    Alerts = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
