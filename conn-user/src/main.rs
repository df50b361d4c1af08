//! The binary `conn`.

use std::process::ExitCode;

fn main() -> ExitCode {
    conn_user::cli::main(std::env::args_os())
}
