//! The commands of the binary `conn`.

pub mod agent;
pub mod args;
pub mod check;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod exit;
pub mod explain;
mod follow;
mod heap;
mod help;
mod history;
pub mod learn;
mod lines;
pub mod list;
mod log;
mod machine;
mod messages;
mod needs;
pub mod query;
mod reload;
pub mod replay;
pub mod rules;
pub mod run;
mod signals;
mod socket;
pub mod status;
pub mod tail;
pub mod test;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use args::{Cli, Command, Exit, SchemaOf};
use messages::{emit, note};

use crate::filter::error::lines;
use crate::process::files;

/// Reads the command line, does what it says and reports how it ended.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    heap::give_back();
    survive_large_files();
    let cli = match Cli::read(words) {
        Ok(cli) => cli,
        // Help and version, too, come as errors; clap knows which stream and which code.
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        // Its exit code is the command's.
        Command::Run(args) => {
            return run::run(&args).unwrap_or_else(|error| {
                emit(lines(&format!("{error:#}")));
                Exit::Error.into()
            });
        }
        Command::FileWorkers => {
            return files::supervise().unwrap_or_else(|error| {
                eprintln!("conn: {}: started by conn itself only: {error}", files::SUBCOMMAND);
                Exit::Usage.into()
            });
        }
        Command::Tail(args) => tail::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::List(args) => list::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Help(args) => help::run(&args),
        Command::Schema(args) => print(match args.of {
            SchemaOf::Events => crate::event::schema::SCHEMA.as_bytes(),
            SchemaOf::List => crate::sockets::schema::SCHEMA.as_bytes(),
            SchemaOf::Run => crate::run::schema::SCHEMA.as_bytes(),
        }),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            // It may have text of files.
            emit(lines(&format!("{error:#}")));
            Exit::Error.into()
        }
    }
}

/// Has a write beyond `RLIMIT_FSIZE` fail as one to a full disk does, instead of ending the process. The handler, unlike an
/// ignored signal, is not inherited by the command of `conn run`.
fn survive_large_files() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing. A failure leaves things as they are.
    unsafe { libc::signal(libc::SIGXFSZ, handler as libc::sighandler_t) };
}

/// Writes a text to standard output; a reader that went away is no error.
fn print(text: &[u8]) -> anyhow::Result<Exit> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

#[cfg(test)]
mod tests {
    /// The signal's default ends the process.
    #[test]
    fn a_file_that_may_not_grow_is_an_error_and_no_end() {
        super::survive_large_files();
        // SAFETY: passes no pointer.
        assert_eq!(unsafe { libc::raise(libc::SIGXFSZ) }, 0);
    }
}
