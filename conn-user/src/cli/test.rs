//! `conn test`: runs the tests that stand beside rules.

use anyhow::Context as _;

use super::args::{Exit, TestArgs};
use super::emit;
use crate::event::escape;
use crate::output::junit;
use crate::rule_test::{self, Suite, report};
use crate::rules::RuleSet;
use crate::rules::host::Host;

/// Runs `conn test`. This needs no privileges, and the zones of this host are empty: a test gives the same everywhere.
///
/// # Errors
/// When the output or the report cannot be written.
pub fn run(args: &TestArgs) -> anyhow::Result<Exit> {
    let suite = if args.defaults {
        rule_test::of_defaults()
    } else {
        rule_test::check(&args.paths, &Host::default())
    };
    for warning in &suite.checked.warnings {
        eprintln!("warning: {warning}");
    }
    match &suite.checked.rules {
        Ok(rules) => run_suite(args, &suite, rules),
        Err(errors) => {
            eprintln!("{errors}");
            Ok(Exit::Usage)
        }
    }
}

fn run_suite(args: &TestArgs, suite: &Suite, rules: &RuleSet) -> anyhow::Result<Exit> {
    let is_wanted = |name: &str| args.filter.as_deref().is_none_or(|text| name.contains(text));
    let outcomes = suite.run(rules, |test| is_wanted(&test.name));
    if let Some(path) = &args.junit {
        junit::write(path, "conn test", &report::junit(&outcomes))
            .with_context(|| format!("writing the report {}", escape::path(path)))?;
    }
    let counts = report::counts(&outcomes, suite.tests.len());
    let report = if args.json { report::json(&outcomes, counts) } else { report::text(&outcomes, counts) };
    let printed = super::print(report.as_bytes())?;
    // What tests nothing must not look like success.
    if outcomes.is_empty() {
        match suite.tests.len() {
            0 => emit("there is no test: write one as [[test]] into a rule file (docs/tests.md)"),
            tests => emit(format_args!("none of {tests} tests has a name with the text of --filter")),
        }
        return Ok(Exit::Error);
    }
    Ok(if counts.failed > 0 { Exit::Error } else { printed })
}
