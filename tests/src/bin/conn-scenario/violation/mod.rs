//! Violations of rules, each beside its benign twin: what an alert must be raised for, and what not.
//!
//! Each has the rules that it violates, and reports which alerts they must give. Everything stays on this machine: 127.1.0.0/16
//! plays the inside (zone `inner`), 127.2.0.0/16 the outside (zone `outer`).

mod act;
mod actor;
mod before;
mod long;
mod path;
mod process;
mod server;

use anyhow::{Result, bail};
use conn_tests::truth::Line;

use crate::facts::{emit, emit_me};

pub(crate) use actor::{ACTOR, actor};

/// What the rules of all name.
const ZONES: &str = "[zones]\ninner = [\"127.1.0.0/16\"]\nouter = [\"127.2.0.0/16\"]\n";

/// One of them.
struct Violation {
    name: &'static str,
    about: &'static str,
    /// In the form of a rule file. They look only at what this violation does.
    rules: &'static str,
    run: fn() -> Result<()>,
}

const ALL: &[Violation] = &[
    path::FORBIDDEN,
    path::FIRST_SEEN,
    path::PIVOT,
    path::FAN_OUT,
    path::BEACON,
    process::NETWORK,
    process::STDIO,
    process::REPLACED,
    server::LISTENER,
    server::TAKEOVER,
    server::JOIN,
    server::WIDENED,
    server::ACCEPT,
    long::EACH,
    long::SUM,
    before::BEFORE,
];

/// Runs one, or lists them and their rules.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some(name) = args.first() else {
        emit(&Line::Rules { toml: ZONES.to_owned() })?;
        for violation in ALL {
            emit(&Line::Rules { toml: violation.rules.to_owned() })?;
            let (name, about) = (violation.name.to_owned(), violation.about.to_owned());
            emit(&Line::Scenario { name, about, skip: None })?;
        }
        return Ok(());
    };
    let Some(found) = ALL.iter().find(|violation| violation.name == name) else {
        bail!("no such violation; `conn-scenario violation` lists them")
    };
    emit_me()?;
    (found.run)()
}
