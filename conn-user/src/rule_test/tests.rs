//! That the default rules do what their tests say, and that failing tests say why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::event::alert::Phase;
use crate::rules::defaults;
use crate::rules::model::Rule;

/// Reads a text as a rule file with its tests.
fn read(text: &str) -> Suite {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("conn-rule-test-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let suite = check(std::slice::from_ref(&path), &Host::default());
    std::fs::remove_file(&path).expect("removed");
    suite
}

/// Runs the tests of a text and returns the failures, by the names of the tests.
fn failures(text: &str) -> Vec<(String, Failure)> {
    let suite = read(text);
    let rules = suite.checked.rules.as_ref().unwrap_or_else(|errors| panic!("{errors}"));
    let outcomes = suite.run(rules, |_| true);
    let failed = |outcome: Outcome<'_>| Some((outcome.test.name.clone(), outcome.failure?));
    outcomes.into_iter().filter_map(failed).collect()
}

fn only(text: &str) -> Failure {
    let mut failures = failures(text);
    assert_eq!(failures.len(), 1, "{failures:#?}");
    failures.remove(0).1
}

#[test]
fn every_default_rule_is_reported_in_a_test_and_silent_in_another_one() {
    let suite = of_defaults();
    let rules = suite.checked.rules.as_ref().unwrap_or_else(|errors| panic!("{errors}"));
    for outcome in suite.run(rules, |_| true) {
        assert_eq!(outcome.failure, None, "{}", outcome.test.name);
    }
    let (mut reported, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in &suite.tests {
        assert!(!test.rules.is_empty(), "{}: rules that come must not make it fail", test.name);
        for id in &test.rules {
            let of_rule =
                |phase| move |expected: &&model::Expected| expected.rule == *id && expected.phase == phase;
            match test.expect.iter().find(of_rule(Phase::Raised)) {
                Some(_) => reported.insert(id.as_str()),
                None => silent.insert(id.as_str()),
            };
        }
    }
    let all: BTreeSet<&str> =
        rules.rules.iter().chain(&suite.checked.off).map(|rule| &*rule.about.id).collect();
    assert_eq!(reported, all);
    assert_eq!(silent, all);
}

/// The tests of a rule fail without its match, and without its exceptions.
#[test]
fn the_tests_of_the_default_rules_fail_with_other_rules() {
    let suite = of_defaults();
    let rules = suite.checked.rules.as_ref().unwrap_or_else(|errors| panic!("{errors}"));
    let (mut without_match, mut without_except) = (Vec::new(), Vec::new());
    for rule in rules.rules.iter().chain(&suite.checked.off) {
        let fails = |rule: Rule| {
            let id = &*rule.about.id;
            let set = RuleSet { rules: vec![Arc::new(rule.clone())], ..rules.clone() };
            let mut tests = suite.tests.iter().filter(|test| test.rules.iter().any(|own| own == id));
            tests.any(|test| run_one(test, &set).is_some())
        };
        let nothing = crate::filter::Filter::new("proc:nobody").expect("a filter");
        assert!(fails(Rule { matches: nothing, ..Rule::clone(rule) }), "{}", rule.about.id);
        if !rule.matches.is_empty() {
            let all = crate::filter::Filter::new("").expect("a filter");
            if !fails(Rule { matches: all, ..Rule::clone(rule) }) {
                without_match.push(rule.about.id.to_string());
            }
        }
        if !rule.except.is_empty() && !fails(Rule { except: Box::default(), ..Rule::clone(rule) }) {
            without_except.push(rule.about.id.to_string());
        }
    }
    assert_eq!(without_match, Vec::<String>::new(), "what their match leaves out is not tested");
    assert_eq!(without_except, Vec::<String>::new(), "no exception is tested");
}

/// The commented examples of rules that are not active by default pass their tests.
#[test]
fn the_examples_of_missing_are_tested() {
    let (_, text) = defaults::FILES.iter().find(|(name, _)| *name == "missing.toml").expect("the file");
    let examples: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.strip_prefix('#')).map(str::trim_start).collect();
    let suite = read(&examples.join("\n"));
    let rules = suite.checked.rules.as_ref().unwrap_or_else(|errors| panic!("{errors}"));
    for rule in &rules.rules {
        let of_rule = |raised: bool| {
            suite.tests.iter().any(|test| {
                test.rules.iter().any(|id| **id == *rule.about.id) && test.expect.is_empty() != raised
            })
        };
        assert!(of_rule(true) && of_rule(false), "{}", rule.about.id);
    }
    assert_eq!(failures(&examples.join("\n")), []);
}

const SHELL: &str = r#"
[[rule]]
id = "shell"
kind = "process"
find = "network"
match = 'proc:bash dst:external'
except = ['user:ann', 'dport:53']

[[test]]
name = "a shell"
events = ["c1: open /usr/bin/bash -> 203.0.113.9:4444", "+10m", "close c1 in 300"]
expect = ["raised shell medium at 0s on c1", "resolved shell at 10m on /usr/bin/bash"]
"#;

#[test]
fn a_right_test_passes() {
    assert_eq!(failures(SHELL), []);
}

#[test]
fn a_changed_rule_fails_and_the_word_is_named() {
    let failure = only(&SHELL.replace("proc:bash dst:external", "proc:zsh dst:external"));
    assert_eq!(failure.message, "2 expected alerts not reported");
    for part in [
        "expected and not reported: raised shell medium at 0s on c1\n",
        "nothing was reported\n",
        "at 0s, connect (c1: open /usr/bin/bash -> 203.0.113.9:4444): its match does not hold\n",
        "no     proc:zsh      proc is bash\n",
        "holds  dst:external  dst is 203.0.113.9, in external\n",
        "the test ended at 10m\n",
    ] {
        assert!(failure.details.contains(part), "{part:?} in\n{}", failure.details);
    }
}

#[test]
fn a_new_exception_fails_and_is_named() {
    let failure = only(&SHELL.replace("'dport:53'", "'dport:53,4444'"));
    let part = "its match holds, and so does its exception 'dport:53,4444'\n";
    assert!(failure.details.contains(part), "{}", failure.details);
}

#[test]
fn what_differs_is_said() {
    let differs = |from: &str, to: &str| only(&SHELL.replace(from, to)).details;
    let details = differs("medium at 0s", "high at 1s");
    assert!(
        details
            .contains("reported instead (it is medium, it is reported at 0s): raised shell medium at 0s\n"),
        "{details}"
    );
    let details =
        differs("[\"raised shell medium at 0s on c1\", \"resolved shell at 10m on /usr/bin/bash\"]", "[]");
    assert!(details.contains("reported and not expected: raised shell medium at 0s\n"), "{details}");
    assert!(details.contains("reported and not expected: resolved shell medium at 10m\n"), "{details}");
    let swapped = SHELL.replace(
        "[\"raised shell medium at 0s on c1\", \"resolved shell at 10m on /usr/bin/bash\"]",
        "[\"resolved shell\", \"raised shell\"]",
    );
    assert!(only(&swapped).details.contains("reported in another order"), "{}", only(&swapped).details);
    let other = SHELL.replace("events = [", "events = [\"c0: open /usr/bin/curl -> 203.0.113.9:4444\", ");
    assert!(only(&other.replace("on c1", "on c0")).details.contains("it is about something else"));
}

#[test]
fn evidence_can_be_expected() {
    let text = r#"
[[rule]]
id = "scan"
kind = "path"
find = "fan-out"
match = ''
limit = 2
window = "1m"

[[test]]
name = "a scan"
events = [{ repeat = 3, events = ["connect /opt/worm -> 10.1.0.{n}:445", "failed ECONNREFUSED"] }]
expect = ["raised scan with peers=3 window=60s"]
"#;
    assert_eq!(failures(text), []);
    let details = only(&text.replace("peers=3", "peers=4 ports=1")).details;
    let reported = "reported instead (its peers is 3, it has no evidence ports): raised scan medium at 0s\n";
    assert!(details.contains(reported), "{details}");
    // Among several, and quoted as the alert does.
    let text = r#"
[[rule]]
id = "new"
kind = "path"
baseline = true
match = ''
[[baseline.connection]]
exe = "/usr/bin/curl"
dir = "out"
remote = "loopback"
port = 1
[[baseline.connection]]
exe = "/usr/bin/curl"
dir = "out"
remote = "10.0.0.1"
port = 2
[[test]]
name = "curl"
events = ["open /usr/bin/curl -> 203.0.113.9:2"]
expect = ['raised new with nearest="out 10.0.0.1 port 2" zone=external']
"#;
    assert_eq!(failures(text), []);
}

#[test]
fn time_that_is_short_is_reported() {
    let text = "[[rule]]\nid = 'long'\nkind = 'long'\nmatch = ''\nlevels = ['1h']\n[[test]]\nname = 'x'\n\
                events = ['open /bin/x -> 10.0.0.9:1', '+10s']\nexpect = ['raised long']\n";
    let details = only(text).details;
    assert!(details.contains("its next timer was due in 59m50s\n"), "{details}");
    let absent = text.replace("kind = 'long'", "kind = 'missing'\nexpect = 'listener'\ngrace = '1m'");
    let absent = absent.replace("levels = ['1h']\n", "").replace("'open /bin/x -> 10.0.0.9:1', ", "");
    let details = only(&absent).details;
    assert!(details.contains("its next timer was due in 50s\n"), "{details}");
    let nothing = only(&text.replace("open /bin/x -> 10.0.0.9:1", "listen /bin/x *:1")).details;
    assert!(nothing.contains("long looks at an open connection: nothing of that happens"), "{nothing}");
}

#[test]
fn what_was_there_is_looked_at_as_when_conn_begins() {
    let existing = SHELL
        .replace("events = [\"c1:", "existing = [\"c1:")
        .replace(", \"+10m\", \"close c1 in 300\"]", "]");
    let details = only(&existing.replace("proc:bash", "proc:zsh")).details;
    let part = "when conn began, established (c1: open /usr/bin/bash -> 203.0.113.9:4444): its match does not hold\n";
    assert!(details.contains(part), "{details}");
}

#[test]
fn a_pivot_is_asked_for_ways_in_and_out() {
    let text = r#"
[[rule]]
id = "pivot"
kind = "path"
find = "pivot"
match = "dir:in src:external"
to = "dst:internal"
except = ["dport:53"]
within = "10m"
[[test]]
name = "a pivot"
events = ["accept /usr/sbin/sshd 10.0.0.1:22 <- 203.0.113.9:5000", "open /usr/sbin/sshd -> 10.0.0.2:445"]
expect = ["raised pivot"]
"#;
    assert_eq!(failures(text), []);
    for (from, to, part) in [
        (
            "203.0.113.9",
            "10.0.0.9",
            "accept (accept /usr/sbin/sshd 10.0.0.1:22 <- 10.0.0.9:5000): its match does not hold\n",
        ),
        (
            "203.0.113.9",
            "10.0.0.9",
            "): its `to` holds, and no exception does; whether there was a way in decides\n",
        ),
        (
            "10.0.0.2:445",
            "198.51.100.7:445",
            "): its `to` does not hold\n    no     dst:internal  dst is 198.51.100.7\n",
        ),
        ("10.0.0.2:445", "10.0.0.2:53", "): its `to` holds, and so does its exception 'dport:53'\n"),
        ("10.0.0.2:445", "10.0.0.2:53", "): its match holds: it is remembered\n"),
    ] {
        let details = only(&text.replace(from, to)).details;
        assert!(details.contains(part), "{part:?} in\n{details}");
    }
}

#[test]
fn a_test_is_of_its_own() {
    let twice = format!(
        "{SHELL}{}",
        SHELL.split_once("[[test]]").map(|(_, test)| format!("[[test]]{test}")).expect("a test")
    );
    assert_eq!(failures(&twice), [], "the second has its own throttle");
}

#[test]
fn reports() {
    let suite = read(&SHELL.replace("medium at", "low at"));
    let rules = suite.checked.rules.as_ref().unwrap_or_else(|errors| panic!("{errors}"));
    let outcomes = suite.run(rules, |_| true);
    let counts = report::counts(&outcomes, suite.tests.len() + 1);
    let text = report::text(&outcomes, counts);
    assert!(text.ends_with("\n\ntest result: FAILED. 0 passed; 1 failed; 1 left out\n"), "{text}");
    assert!(
        text.contains(".toml:9: a shell: 1 expected alert not reported, 1 alert not expected\n"),
        "{text}"
    );
    let cases = report::junit(&outcomes);
    assert!(
        matches!(&cases[0].outcome, crate::output::junit::Outcome::Failed { details, .. } if details.contains("it is medium"))
    );
    assert_eq!(PathBuf::from(&cases[0].class), suite.tests[0].file);
}
