//! The remedy for what clap refuses and people mean: words of a filter written as flags, the flags of ss and netstat, rules that are
//! built in.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::filter::key::Key;

/// Flags of `ss` and `netstat` that select or show.
const SS_FLAGS: &str = "tulpnaeiomW46Hrx";

/// Adds a tip to an error about these words, the program's name first.
pub(super) fn add(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let command = words.get(1).copied().unwrap_or_default();
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(flag)) => unknown(flag, command, &words),
            _ => None,
        },
        ErrorKind::MissingRequiredArgument => match command {
            "check" => Some("the built-in rules: conn check --defaults prints them".to_owned()),
            "test" => Some("the built-in rules: conn test --defaults runs their tests".to_owned()),
            _ => None,
        },
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        // Of a flag that clap finds similar nothing is said: the tip is better.
        for kind in [ContextKind::SuggestedArg, ContextKind::TrailingArg, ContextKind::SuggestedCommand] {
            error.remove(kind);
        }
    }
    error
}

fn unknown(flag: &str, command: &str, words: &[&str]) -> Option<String> {
    if !matches!(command, "tail" | "list") {
        return None;
    }
    if let Some(name) = flag.strip_prefix("--") {
        let (name, value) =
            name.split_once(['=', ':']).map_or((name, None), |(name, value)| (name, Some(value)));
        let key = Key::from_name(&name.replace('-', "_"))?;
        let next = || {
            let at = words.iter().position(|word| word.starts_with(flag))?;
            // clap names the flag without its value.
            words[at][flag.len()..].strip_prefix('=').or_else(|| {
                words.get(at + 1).copied().filter(|next| !next.starts_with('-') && !next.contains(':'))
            })
        };
        return Some(match value.or_else(next) {
            Some(value) => format!("what to show is said by words: conn {command} {}:{value}", key.name()),
            None => format!("what to show is said by words, e.g. conn {command} {}", key.about().example),
        });
    }
    let of_ss = |word: &&&str| {
        let flags = word.strip_prefix('-').filter(|flags| !flags.is_empty() && !flags.starts_with('-'));
        flags.is_some_and(|flags| flags.chars().all(|flag| SS_FLAGS.contains(flag)))
    };
    let letter = flag.strip_prefix('-')?;
    words.iter().find(|word| of_ss(word) && word.contains(letter)).map(|word| {
        let list = if word.contains('l') { "conn list -l" } else { "conn list" };
        format!("{list} lists TCP sockets with their processes, as ss and netstat do with {word}")
    })
}
