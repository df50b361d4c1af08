//! What is wrong with tests is reported with its place, and `docs/tests.md` has what the code knows.

use super::process::PROCESS_KEYS;
use super::*;
use crate::event::samples;
use crate::rule_test::{expect, script, suite};
use crate::rules::file;
use crate::rules::host::Host;

/// The page is written by hand; what the code knows must be on it.
#[test]
fn the_page_of_tests_has_every_key_and_line() {
    let page = include_str!("../../../../docs/tests.md");
    for About { name, takes, meaning } in KEYS.iter().chain(&PROCESS_KEYS) {
        let row = format!("| `{name}` | {takes} | {meaning} |");
        assert!(page.contains(&row), "{row}");
    }
    for (_, form) in script::VERBS {
        let row = format!("| `{}` |", form.replace('|', "\\|"));
        assert!(page.contains(&row), "{row}");
    }
    assert!(page.contains(expect::FORM));
}

const WRONG: (&str, &str) = ("rules.d/wrong.toml", include_str!("wrong.toml"));

#[test]
fn wrong_tests_are_reported_with_their_places() {
    let suite = suite(file::compile_texts(&[WRONG], &Host::default(), false));
    let errors = suite.checked.rules.map(|_| ()).expect_err("something is wrong");
    samples::compare_file(
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/rule_test/read/errors.txt"),
        &format!("{errors}\n"),
    );
}

/// Errors of rules and of tests are one list, in the order of their places.
#[test]
fn errors_of_tests_stand_among_those_of_rules() {
    let rule = |id: &str| format!("[[rule]]\nid = '{id}'\nkind = 'paht'\nmatch = ''\n");
    let text = format!("{}[[test]]\nname = 1\nexpect = []\nevents = []\n{}", rule("a"), rule("b"));
    let errors = super::super::check_text(&text, &Host::default()).checked.rules.expect_err("wrong");
    let lines: Vec<usize> =
        errors.errors.iter().filter_map(|error| Some(error.place.as_ref()?.line)).collect();
    assert_eq!(lines, [3, 6, 11]);
}

#[test]
fn who_does_not_ask_for_tests_is_not_reported_of_them() {
    let checked = file::compile_texts(&[WRONG], &Host::default(), false).finish();
    assert!(checked.rules.is_ok());
}
