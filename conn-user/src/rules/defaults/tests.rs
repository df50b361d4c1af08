//! That the default rules are right, documented, and what `docs/rules.md` shows.

use std::collections::HashSet;

use super::*;
use crate::event::alert::RuleKind;

#[test]
fn every_default_rule_compiles_and_has_its_own_id() {
    let set = set(&Host::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let ids: HashSet<&str> = set.rules.iter().map(|rule| &*rule.about.id).collect();
    assert_eq!(ids.len(), set.rules.len());
    for kind in [RuleKind::Path, RuleKind::Process, RuleKind::Server, RuleKind::Long] {
        assert!(set.rules.iter().any(|rule| rule.about.kind == kind), "{kind:?}");
    }
}

/// Rules of a text, by way of a file.
fn read(name: &str, text: &str) -> RuleSet {
    let path = std::env::temp_dir().join(format!("conn-defaults-{name}-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let set = file::load(std::slice::from_ref(&path), &Host::default());
    std::fs::remove_file(&path).expect("removed");
    set.unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn printed_and_read_again_they_are_the_same() {
    let (own, again) = (set(&Host::default()).expect("right"), read("printed", &text()));
    assert_eq!(format!("{:?}", own.rules), format!("{:?}", again.rules));
}

/// The examples of the rules without a default, read as rules.
#[test]
fn the_examples_of_missing_compile() {
    let (_, text) = FILES.iter().find(|(name, _)| *name == "missing.toml").expect("the file");
    let rules: String = text
        .lines()
        .skip(1)
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    assert_eq!(read("missing", &rules).rules.len(), 3);
}
