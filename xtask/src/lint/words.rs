//! Words that must not come back (`words.txt`): one term for one thing, in code, messages and documentation.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The words.
const WORDS: &str = include_str!("words.txt");
/// Where they are looked for, below the workspace's root.
const PLACES: [&str; 10] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "docs",
    "conn-common/src",
    "conn-ebpf/src",
    "conn-user",
    "tests",
    "xtask/src",
];
/// The files that have text of people.
const ENDINGS: [&str; 5] = ["rs", "md", "toml", "json", "sh"];

/// Looks through the code and the documentation.
///
/// # Errors
/// Names each place of such a word, and what to write instead.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let mut files = Vec::new();
    for place in PLACES {
        texts(&root.join(place), &mut files)?;
    }
    files.sort();
    let words = words(WORDS);
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file);
        found.extend(
            places(&text, &words).into_iter().map(|(line, word, instead)| {
                format!("{}:{line}: \"{word}\": write {instead}", name.display())
            }),
        );
    }
    if !found.is_empty() {
        bail!("words that must not come back (xtask/src/lint/words.txt):\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// The words of a list, each with what to write instead.
fn words(list: &str) -> Vec<(&str, &str)> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(": ")).collect()
}

/// The lines of a text that have one of the words, counted from 1.
fn places<'w>(text: &str, words: &[(&'w str, &'w str)]) -> Vec<(usize, &'w str, &'w str)> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for part in line.split(|c: char| !c.is_ascii_alphabetic()) {
            let is_it = |(word, _): &&(&str, &str)| part.eq_ignore_ascii_case(word);
            found.extend(words.iter().find(is_it).map(|(word, instead)| (number, *word, *instead)));
        }
    }
    found
}

/// A file with text, or all such files below a folder but build output.
fn texts(place: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if place.is_dir() {
        let entries = fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))?;
        for entry in entries {
            texts(&entry.with_context(|| format!("cannot read {}", place.display()))?.path(), into)?;
        }
    } else if place.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) {
        into.push(place.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_in_any_case_are_found() {
        let words = words("# none\nput: set\n");
        let text = "puts input\nPut it\nfn is_put()\n";
        assert_eq!(places(text, &words), [(2, "put", "set"), (3, "put", "set")]);
    }

    #[test]
    fn every_word_has_one_to_write_instead() {
        let lines = WORDS.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(words(WORDS).len(), lines);
        assert!(lines > 5);
    }
}
