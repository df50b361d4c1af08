//! `conn test`: runs the tests that stand beside rules.

use anyhow::Context as _;

use super::args::{Exit, TestArgs};
use super::emit;
use crate::output::junit;
use crate::prove::{self, report};
use crate::rules::file::{self, Checked};
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults};

/// Runs `conn test`. This needs no privileges, and the zones of this host are empty: a test gives the same everywhere.
///
/// # Errors
/// When the output or the report cannot be written.
pub fn run(args: &TestArgs) -> anyhow::Result<Exit> {
    let checked =
        if args.defaults { defaults::with_tests() } else { file::check(&args.paths, &Host::default()) };
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    match &checked.rules {
        Ok(rules) => prove(args, &checked, rules),
        Err(errors) => {
            eprintln!("{errors}");
            Ok(Exit::Usage)
        }
    }
}

fn prove(args: &TestArgs, checked: &Checked, rules: &RuleSet) -> anyhow::Result<Exit> {
    let is_wanted = |name: &str| args.filter.as_deref().is_none_or(|text| name.contains(text));
    let proved = prove::prove(checked, rules, |case| is_wanted(&case.name));
    if let Some(path) = &args.junit {
        junit::write(path, "conn test", &report::junit(&proved))
            .with_context(|| format!("writing the report {}", file::shown(path)))?;
    }
    let counts = report::counts(&proved, checked.cases.len());
    let report = if args.json { report::json(&proved, counts) } else { report::text(&proved, counts) };
    let printed = super::print(report.as_bytes())?;
    // What tests nothing must not look like success.
    if proved.is_empty() {
        match checked.cases.len() {
            0 => emit("there is no test: write one as [[test]] into a rule file (docs/tests.md)"),
            tests => emit(format_args!("none of {tests} tests has a name with the text of --filter")),
        }
        return Ok(Exit::Error);
    }
    Ok(if counts.failed > 0 { Exit::Error } else { printed })
}
