//! The commands of the binary `conn`.

pub mod agent;
pub mod args;
pub mod check;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod explain;
mod heap;
pub mod learn;
mod lines;
pub mod list;
mod log;
mod machine;
mod needs;
mod reload;
pub mod replay;
pub mod rules;
pub mod run;
mod signals;
pub mod tail;
pub mod test;

use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use args::{Cli, Command, Exit, SchemaOf};

/// Reads the command line, does what it says and tells how it ended.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    heap::give_back();
    let cli = match Cli::read(words) {
        Ok(cli) => cli,
        // Help and version, too, come as errors; clap knows which stream and which code.
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        // Its exit code is the command's.
        Command::Run(args) => {
            return run::run(&args).unwrap_or_else(|error| {
                eprintln!("conn: {error:#}");
                Exit::Error.into()
            });
        }
        Command::Tail(args) => tail::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Doctor(args) => doctor::run(args.json),
        Command::List(args) => list::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Schema(args) => print(match args.of {
            SchemaOf::Events => crate::event::schema::SCHEMA.as_bytes(),
            SchemaOf::List => crate::listing::schema::SCHEMA.as_bytes(),
            SchemaOf::Run => crate::run::schema::SCHEMA.as_bytes(),
        }),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("conn: {error:#}");
            Exit::Error.into()
        }
    }
}

/// Writes a text to standard output; a reader that went away is no error.
fn print(text: &[u8]) -> anyhow::Result<Exit> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

/// Tells people something on standard error, in one write: whoever waits for a line must not see half of it. Where that cannot
/// be written, as on a full disk, there is nobody to tell; a daemon goes on.
fn tell(text: impl fmt::Display) {
    let _ = std::io::stderr().write_all(format!("conn: {text}\n").as_bytes());
}
