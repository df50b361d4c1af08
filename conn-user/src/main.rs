//! The binary `conn`.

// What is shipped fails with an error and not with a panic (`unwrap` is a warning in the whole workspace).
#![cfg_attr(not(test), deny(clippy::expect_used))]

use std::process::ExitCode;

fn main() -> ExitCode {
    conn_user::cli::main(std::env::args_os())
}
