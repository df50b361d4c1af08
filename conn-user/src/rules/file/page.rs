//! The page of the documentation, made of what the code knows.

use std::fmt::Write as _;

use super::shape::{COMMON, Key, OVERRIDABLE, SHAPES, Without};
use super::*;
use crate::event::names::Named as _;
use crate::event::samples;

#[test]
fn the_page_is_what_the_code_says() {
    let overridable: Vec<String> = OVERRIDABLE.iter().map(|key| format!("`{key}`")).collect();
    let page = include_str!("page.md")
        .replace("@OVERRIDABLE@", &overridable.join(", "))
        .replace("@COMMON@\n", &keys(COMMON))
        .replace("@SHAPES@\n", &shapes())
        .replace("@DEFAULTS@\n", &rules())
        .replace("@EXAMPLE@", include_str!("example.toml"));
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules.md"), &page);
}

fn keys(keys: &[Key]) -> String {
    let mut table = "| key | takes | without it | meaning |\n|---|---|---|---|\n".to_owned();
    for Key { name, takes, default, meaning } in keys {
        let default = match default {
            Without::Required => "must be there",
            Without::Is("") => "nothing",
            Without::Is(value) => value,
        };
        let _ = writeln!(table, "| `{name}` | {takes} | {default} | {meaning} |");
    }
    table
}

fn shapes() -> String {
    let mut text = String::new();
    let mut kind = None;
    for shape in SHAPES {
        if kind != Some(shape.kind) {
            kind = Some(shape.kind);
            let _ = writeln!(text, "### `kind = \"{}\"`\n", shape.kind.name());
        }
        let _ = match shape.find {
            Some(find) => writeln!(text, "**`find = \"{find}\"`** {}\n", shape.meaning),
            None => writeln!(text, "{}\n", shape.meaning),
        };
        if !shape.keys.is_empty() {
            let _ = writeln!(text, "{}", keys(shape.keys));
        }
    }
    text
}

/// The default rules by kind; every one says why and how to tune it.
fn rules() -> String {
    let mut text = String::new();
    for (number, (file, contents)) in defaults::FILES.iter().enumerate() {
        let mut problems = Problems::default();
        let rules = document(contents, number, &mut problems).rules;
        assert_eq!(problems.len(), 0, "{file}");
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(text, "### {}\n", file.trim_end_matches(".toml"));
        text.push_str("| id | severity | finds | why | how to tune it |\n|---|---|---|---|---|\n");
        for rule in rules {
            let say = |key: &str| match rule.get(key).map(|field| &field.node.value) {
                Some(Value::Text(text)) if !text.is_empty() => text.replace('|', "\\|"),
                _ => panic!("{} has no {key}", rule.id),
            };
            let off = match rule.get("enabled").map(|field| &field.node.value) {
                Some(Value::Bool(false)) => ", off",
                _ => "",
            };
            let (title, why, tune) = (say("title"), say("why"), say("tune"));
            let _ = writeln!(text, "| `{}` | {}{off} | {title} | {why} | {tune} |", rule.id, say("severity"));
        }
        text.push('\n');
    }
    text
}
