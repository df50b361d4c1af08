//! Compares `conn list` with ss on this machine as it is; see `tests/real-servers.sh`.
//!
//! ```text
//! conn-against-ss ports N                                  N free ports on loopback, one a line
//! conn-against-ss compare CONN LEAST SS-OPTIONS [CONN-OPTIONS...]
//! ```
//!
//! `compare` prints how many sockets are the same, changed while both looked, lived too briefly for ss, and are wrong; what
//! is wrong follows on standard error. It fails if anything is wrong, or fewer than LEAST sockets are the same.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use conn_tests::against_ss::against_ss;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["ports", count] => ports(count.parse().context("N is a number")?),
        ["compare", conn, least, ss, ref options @ ..] => {
            compare(Path::new(conn), least.parse().context("LEAST is a number")?, ss, options)
        }
        _ => bail!("see the beginning of {}", file!()),
    }
}

/// All are taken before the first is given back, so they differ.
fn ports(count: usize) -> Result<ExitCode> {
    let taken: std::io::Result<Vec<_>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    for listener in taken? {
        println!("{}", listener.local_addr()?.port());
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(conn: &Path, least: usize, ss: &str, options: &[&str]) -> Result<ExitCode> {
    let report = against_ss(conn, ss, options, |_| true)?;
    println!("{:>6} {:>9} {:>6} {:>6}", report.same, report.changing, report.brief, report.wrong.len());
    for wrong in &report.wrong {
        eprintln!("  {:?}\n    ss:   {:?}\n    conn: {:?}", wrong.ends, wrong.ss, wrong.conn);
    }
    if report.same < least {
        eprintln!("  only {} sockets are the same, and at least {least} must be", report.same);
    }
    let good = report.wrong.is_empty() && report.same >= least;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
