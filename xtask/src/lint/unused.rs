//! Dependencies that nothing uses: each has to be named in the sources of its package, comments apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::sources;
use crate::command::output;
use crate::workspace;

/// Looks at every package of the workspace, and at the dependencies that the workspace names for them.
///
/// # Errors
/// Names each dependency that is not used.
pub(crate) fn check() -> Result<()> {
    let text = output(workspace::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut unused = Vec::new();
    let mut used = BTreeSet::new();
    for package in array(&metadata, "packages") {
        let manifest = Path::new(text_of(package, "manifest_path")?);
        let folder = manifest.parent().context("a manifest without a folder")?;
        for dependency in array(package, "dependencies") {
            let name = text_of(dependency, "name")?;
            used.insert(name.to_owned());
            let kind = dependency.get("kind").and_then(Value::as_str).unwrap_or("normal");
            let called = dependency.get("rename").and_then(Value::as_str).unwrap_or(name);
            if !is_named(folder, kind, &called.replace('-', "_"))? {
                unused.push(format!("{}: {name} ({kind})", manifest.display()));
            }
        }
    }
    let root = workspace::root().join("Cargo.toml");
    let manifest = fs::read_to_string(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let offered = workspace_dependencies(&manifest).into_iter().filter(|name| !used.contains(*name));
    unused.extend(offered.map(|name| format!("{}: {name}", root.display())));
    if !unused.is_empty() {
        bail!("dependencies that nothing uses:\n  {}", unused.join("\n  "));
    }
    Ok(())
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text_of<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("cargo metadata has no {key}"))
}

/// Whether the sources that may use a dependency of this kind name the crate.
fn is_named(package: &Path, kind: &str, name: &str) -> Result<bool> {
    let places: &[&str] = match kind {
        "build" => &["build.rs"],
        // Modules of unit tests lie in `src`.
        "dev" => &["tests", "benches", "examples", "src"],
        _ => &["src"],
    };
    let mut files = Vec::new();
    for place in places {
        sources(&package.join(place), &mut files)?;
    }
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if names(&text, name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a text has the name as a word of its own, outside of lines that are comments.
fn names(text: &str, name: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let has = |line: &str| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + name.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
    };
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(has)
}

/// The names in the table `[workspace.dependencies]` of the workspace's manifest.
fn workspace_dependencies(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    let table = lines.take_while(|line| !line.starts_with('['));
    table.filter_map(|line| Some(line.split_once('=').filter(|_| !line.starts_with('#'))?.0.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_named_by_a_whole_word_in_code() {
        assert!(names("use serde_json::Value;", "serde_json"));
        assert!(names("    memchr::memmem::find(a, b)", "memchr"));
        assert!(!names("use serde_json::Value;", "serde"));
        assert!(!names("    // libc does it so\n/// see `libc`", "libc"));
        assert!(!names("let libc_like = mylibc;", "libc"));
    }

    #[test]
    fn the_workspace_table_is_read() {
        let manifest = "[workspace]\nmembers = []\n\n[workspace.dependencies]\n# why = \"x\"\naya = { version = \"1\" }\n\
                        libc = \"0.2\"\n\n[workspace.lints.rust]\nmissing_docs = \"warn\"\n";
        assert_eq!(workspace_dependencies(manifest), ["aya", "libc"]);
    }

    #[test]
    fn this_workspace_is_found_clean_or_not_at_all() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(is_named(here, "normal", "anyhow").expect("sources"));
        assert!(!is_named(here, "normal", &["no", "such", "crate"].join("_")).expect("sources"));
    }
}
