//! The texts of rule files, and how they are found.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{At, Place, Problems, RuleError, RuleErrors, place};
use super::source;

/// Largest file that is read.
const SIZE_MAX: u64 = 16 << 20;
/// Most files that are read.
const FILES_MAX: usize = 1_024;

/// Texts with the paths of their files.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    all: Vec<(PathBuf, String)>,
    /// Of what others may change.
    pub(super) warnings: Vec<String>,
}

impl Texts {
    /// Adds a text and returns its number.
    pub(super) fn add(&mut self, path: PathBuf, text: String) -> usize {
        self.all.push((path, text));
        self.all.len() - 1
    }

    /// The first of them: those that are not built in.
    pub(super) fn into_first(mut self, count: usize) -> Vec<(PathBuf, String)> {
        self.all.truncate(count);
        self.all
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn path(&self, text: usize) -> &Path {
        self.all.get(text).map_or_else(|| Path::new(""), |(path, _)| path)
    }

    pub(super) fn text(&self, text: usize) -> &str {
        self.all.get(text).map_or("", |(_, text)| text)
    }

    pub(crate) fn place(&self, at: &At) -> Option<Place> {
        self.all.get(at.text).map(|(_, text)| place(text, &at.span))
    }

    /// The place of a span of a text's value. Where escapes make the value differ from what is written, it is all of it.
    pub(crate) fn within(&self, at: &At, value: &str, span: Range<usize>) -> At {
        let written = self.text(at.text).get(at.span.clone()).unwrap_or_default();
        match written.find(value).filter(|_| !value.is_empty()) {
            Some(begin) => {
                let offset = at.span.start + begin;
                At { text: at.text, span: offset + span.start..offset + span.end }
            }
            None => at.clone(),
        }
    }

    /// Adds these problems to the errors, each with its place.
    pub(super) fn report(&self, problems: Problems, errors: &mut RuleErrors) {
        let (problems, more) = problems.in_order();
        errors.more += more;
        for problem in problems {
            if errors.is_full() {
                // No place is looked up in vain: that reads the text.
                errors.more += 1;
                continue;
            }
            let file = self.path(problem.at.text).to_owned();
            let place = self.place(&problem.at);
            errors.push(RuleError { file, place, message: problem.message, help: problem.help });
        }
    }

    /// Reads a file, or every `*.toml` of a folder in the order of their names. Files whose name begins with a dot are
    /// no rule files: editors make them.
    pub(super) fn read(&mut self, path: &Path, errors: &mut RuleErrors) {
        match std::fs::metadata(path) {
            Ok(about) if about.is_dir() => match folder(path) {
                Ok(files) => {
                    for file in files {
                        self.read_file(&file, errors);
                    }
                }
                Err(error) => errors.push(unreadable(path, "folder", &error)),
            },
            Ok(_) => self.read_file(path, errors),
            Err(error) => errors.push(unreadable(path, "file or folder", &error)),
        }
    }

    fn read_file(&mut self, path: &Path, errors: &mut RuleErrors) {
        let error = match source::read(path, SIZE_MAX + 1, &mut self.warnings) {
            Ok(bytes) if bytes.len() as u64 > SIZE_MAX => {
                let help = "split it, or use networks, ranges and globs that stand for many";
                RuleError::of_file(path, format!("it is larger than {} MiB", SIZE_MAX >> 20), help)
            }
            Ok(_) if self.all.len() >= FILES_MAX => {
                let help = "put several rules into one file";
                RuleError::of_file(path, format!("there are more than {FILES_MAX} rule files"), help)
            }
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => {
                    self.add(path.to_owned(), text);
                    return;
                }
                Err(error) => not_text(path, error.as_bytes(), error.utf8_error().valid_up_to()),
            },
            Err(error) => unreadable(path, "file", &error),
        };
        errors.push(error);
    }
}

fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn unreadable(path: &Path, what: &str, error: &io::Error) -> RuleError {
    let help = match error.kind() {
        io::ErrorKind::NotFound => "rules are in files *.toml; create it, or name another one",
        io::ErrorKind::PermissionDenied => "let this user read it",
        _ => "name a folder with files *.toml, or one such file",
    };
    RuleError::of_file(path, format!("cannot read this {what}: {error}"), help)
}

fn not_text(path: &Path, bytes: &[u8], valid: usize) -> RuleError {
    let text = String::from_utf8_lossy(bytes);
    // What is valid is the same in both.
    let place = place(&text, &(valid..valid + '\u{fffd}'.len_utf8()));
    let message = "this is not UTF-8".to_owned();
    let help = Some("TOML is UTF-8; a path that is not is matched by a glob: exe:/opt/caf?".to_owned());
    RuleError { file: path.to_owned(), place: Some(place), message, help }
}
