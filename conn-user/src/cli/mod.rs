//! The commands of the binary `conn`.

pub mod args;
pub mod doctor;
mod log;
mod signals;
pub mod tail;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use args::{Cli, Command, Exit};

/// Reads the command line, does what it says and tells how it ended.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(words) {
        Ok(cli) => cli,
        // Help and version, too, come as errors; clap knows which stream and which code.
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Tail(args) => tail::run(&args),
        Command::Doctor(args) => doctor::run(args.json),
        Command::Schema => print(crate::event::schema::SCHEMA),
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
fn print(text: &str) -> anyhow::Result<Exit> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}
