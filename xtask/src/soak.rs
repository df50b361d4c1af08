//! `cargo xtask soak`: the agent under mixed load, for long.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::command::run;
use crate::{agent, workspace};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// For how long, e.g. 90s, 10m, 1h.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse)]
    time: Duration,
}

fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 90s, 10m or 1h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

/// Builds the agent and the workload, with optimisations, and runs it.
///
/// # Errors
/// When something does not build, or the agent fails.
pub(crate) fn soak(options: &Options) -> Result<()> {
    let conn = agent::build(true)?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "-p", "conn-tests", "--bin", "conn-soak", "--bin", "conn-scenario"]);
    run(&mut cargo).context("building the load")?;
    let mut soak = std::process::Command::new(conn.with_file_name("conn-soak"));
    soak.arg(&conn).arg(conn.with_file_name("conn-scenario")).arg(options.time.as_secs().to_string());
    run(&mut soak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h"), Ok(Duration::from_hours(1)));
        for wrong in ["", "h", "5", "5d", "-1s", "µ"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
