//! `conn check`: whether rule files are right.

use std::fmt::Write as _;

use serde::Serialize;

use super::args::{CheckArgs, Exit};
use crate::event::escape;
use crate::event::wire::encode_line;
use crate::rule_test;
use crate::rules::defaults;
use crate::rules::file::{self, Checked, RuleErrors};
use crate::rules::host::Host;

/// Runs `conn check`. No rule is tried: this needs no privileges, and the zones of this host are empty.
///
/// # Errors
/// When the output cannot be written.
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    if args.defaults {
        return super::print(defaults::text().as_bytes());
    }
    let checked = rule_test::check(&args.paths, &Host::default()).checked;
    let exit = if checked.rules.is_ok() { Exit::Done } else { Exit::Usage };
    if args.json {
        super::print(json(&checked).as_bytes())?;
    } else {
        if let Err(errors) = &checked.rules {
            eprintln!("{errors}");
        }
        for warning in &checked.warnings {
            eprintln!("warning: {warning}");
        }
        super::print(text(&checked).as_bytes())?;
    }
    Ok(exit)
}

/// The files with their numbers of rules, and the sum. Of wrong ones nothing: the errors name them.
fn text(checked: &Checked) -> String {
    let mut out = String::new();
    let Ok(set) = &checked.rules else { return out };
    for (path, rules) in &checked.files {
        let _ = writeln!(out, "{}: {}", escape::path(path), count(*rules, "rule"));
    }
    let _ = write!(out, "{} ok", count(set.rules.len() + checked.off.len(), "rule"));
    if !checked.off.is_empty() {
        let _ = write!(out, ", {} of them not enabled", checked.off.len());
    }
    match set.baseline.entries().len() {
        0 => {}
        1 => out.push_str("; a baseline of 1 entry"),
        entries => {
            let _ = write!(out, "; a baseline of {entries} entries");
        }
    }
    out.push('\n');
    out
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[derive(Serialize)]
struct Report {
    kind: &'static str,
    ok: bool,
    files: Vec<FileReport>,
    /// How many are active; absent with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<usize>,
    /// Entries of the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<usize>,
    errors: Vec<ErrorReport>,
    more_errors: usize,
    /// What is allowed and hardly meant.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct FileReport {
    path: String,
    rules: usize,
}

#[derive(Serialize)]
struct ErrorReport {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

fn json(checked: &Checked) -> String {
    let nothing = RuleErrors::default();
    let (set, errors) = match &checked.rules {
        Ok(set) => (Some(set), &nothing),
        Err(errors) => (None, errors),
    };
    let error = |error: &file::RuleError| ErrorReport {
        file: escape::path(&error.file),
        line: error.place.as_ref().map(|place| place.line),
        column: error.place.as_ref().map(|place| place.column),
        message: error.message.clone(),
        help: error.help.clone(),
    };
    let files =
        checked.files.iter().map(|(path, rules)| FileReport { path: escape::path(path), rules: *rules });
    let report = Report {
        kind: "check",
        ok: set.is_some(),
        files: files.collect(),
        rules: set.map(|set| set.rules.len()),
        disabled: set.map(|_| checked.off.len()),
        baseline: set.map(|set| set.baseline.entries().len()),
        errors: errors.errors.iter().map(error).collect(),
        more_errors: errors.more,
        warnings: checked.warnings.clone(),
    };
    encode_line(&report)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn checked(text: &str, name: &str) -> Checked {
        let path = std::env::temp_dir().join(format!("conn-check-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        let checked = rule_test::check(std::slice::from_ref(&path), &Host::default()).checked;
        std::fs::remove_file(&path).expect("removed");
        checked
    }

    const RIGHT: &str = "[[rule]]\nid = 'a'\nkind = 'path'\nfind = 'forbidden'\nmatch = 'dport:1'\n\
                         [[rule]]\nid = 'b'\nkind = 'path'\nfind = 'forbidden'\nmatch = ''\nenabled = false\n";

    #[test]
    fn right_files_are_counted() {
        let checked = checked(RIGHT, "right");
        let shown = text(&checked);
        assert!(shown.ends_with(".toml: 2 rules\n2 rules ok, 1 of them not enabled\n"), "{shown}");
        let json: serde_json::Value = serde_json::from_str(&json(&checked)).expect("JSON");
        assert_eq!((&json["ok"], &json["rules"], &json["disabled"]), (&true.into(), &1.into(), &1.into()));
        assert_eq!(json["baseline"], 0);
    }

    #[test]
    fn entries_of_a_baseline_are_counted() {
        let entry = "[[baseline.listener]]\nexe = '/x'\nlocal = 'any'\nport = 1\n";
        for (entries, said) in [(1, "; a baseline of 1 entry\n"), (2, "; a baseline of 2 entries\n")] {
            let checked = checked(&format!("{RIGHT}{}", entry.repeat(entries)), "baseline");
            assert!(text(&checked).ends_with(said), "{}", text(&checked));
            let json: serde_json::Value = serde_json::from_str(&json(&checked)).expect("JSON");
            assert_eq!(json["baseline"], entries);
        }
    }

    #[test]
    fn no_rule_in_force_is_a_warning() {
        let disabled = RIGHT.replace("'dport:1'", "'dport:1'\nenabled = false");
        let reported = |text: &str, name| {
            let checked = checked(text, name);
            let json: serde_json::Value = serde_json::from_str(&json(&checked)).expect("JSON");
            (json["ok"].clone(), json["warnings"].clone())
        };
        assert_eq!(reported(RIGHT, "some"), (true.into(), serde_json::json!([])));
        let none = serde_json::json!(["no rule is active: all 2 are disabled"]);
        assert_eq!(reported(&disabled, "disabled"), (true.into(), none));
        let none = serde_json::json!(["no rule is active: there are none"]);
        assert_eq!(reported("[lists]\nx = ['a']", "none"), (true.into(), none));

        let folder = std::env::temp_dir().join(format!("conn-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let args = CheckArgs { paths: vec![folder.clone()], json: false, defaults: false };
        assert_eq!(run(&args).expect("printed"), Exit::Done);
        let warnings = rule_test::check(&args.paths, &Host::default()).checked.warnings;
        std::fs::remove_dir(&folder).expect("removed");
        assert!(warnings.len() == 2 && warnings[0].contains("no rule file (*.toml)"), "{warnings:?}");
    }

    #[test]
    fn wrong_ones_are_reported() {
        let checked = checked("[[rule]]\nid = 'a'\nkind = 'paht'\nmatch = ''\n", "wrong");
        assert_eq!(text(&checked), "");
        let json: serde_json::Value = serde_json::from_str(&json(&checked)).expect("JSON");
        let error = &json["errors"][0];
        assert_eq!((&json["ok"], &error["line"], &error["column"]), (&false.into(), &3.into(), &8.into()));
        assert_eq!(error["message"], "unknown `paht`");
        assert!(json.get("baseline").is_none());
    }

    #[test]
    fn nothing_to_check_is_an_error() {
        let args = CheckArgs { paths: vec![PathBuf::from("/nowhere/at/all")], json: false, defaults: false };
        assert_eq!(run(&args).expect("printed"), Exit::Usage);
    }
}
