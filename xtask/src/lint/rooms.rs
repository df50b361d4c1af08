//! The order of the rooms of conn-user: ARCHITECTURE.md has them in a table, and a room uses only those above
//! it. Tests may use any.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::sources;
use crate::workspace;

/// Where the table is.
const TABLE: &str = "ARCHITECTURE.md";
/// Where the rooms are.
const SOURCES: &str = "conn-user/src";
/// Files that are no room.
const ROOTS: [&str; 2] = ["lib", "main"];

/// Looks through the code of conn-user, tests apart.
///
/// # Errors
/// Names each use of a room below, and each room that the table does not have.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let table = root.join(TABLE);
    let text = fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let order = rooms(&text);
    ensure!(!order.is_empty(), "{TABLE} has no table of rooms (`| room | owns | called by |`)");
    let base = root.join(SOURCES);
    let mut files = Vec::new();
    sources(&base, &mut files)?;
    files.sort();
    let mut code = Vec::new();
    let mut tests = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (text, of_tests) = without_tests(&text);
        let folder = submodules(&file);
        tests.extend(of_tests.iter().map(|name| folder.join(name)));
        code.push((file, text));
    }
    let mut found = Vec::new();
    for (file, text) in code {
        if file.ancestors().any(|above| tests.contains(&above.with_extension(""))) {
            continue;
        }
        let name = file.strip_prefix(&base).unwrap_or(&file);
        let Some(room) = name.iter().next().map(|first| Path::new(first).with_extension("")) else {
            continue;
        };
        let room = room.to_string_lossy();
        if ROOTS.contains(&&*room) {
            continue;
        }
        let place = |line: usize| format!("{SOURCES}/{}:{line}", name.display());
        let Some(own) = order.iter().position(|other| *other == room) else {
            found.push(format!("{}: the room `{room}` is not in the table", place(1)));
            continue;
        };
        for (line, used) in uses(&text) {
            match order.iter().position(|other| *other == used) {
                Some(other) if other > own => {
                    found.push(format!("{}: `{room}` uses `{used}`, which is below it", place(line)));
                }
                _ => {}
            }
        }
    }
    if !found.is_empty() {
        let remedy = "move what is shared to the room above, or hand it over as an argument";
        bail!("rooms out of the order of {TABLE} ({remedy}):\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// The rooms, in the order of the table.
fn rooms(text: &str) -> Vec<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let firsts = rows.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    firsts.flat_map(|names| names.split('`').skip(1).step_by(2)).collect()
}

/// The folder in which the modules are that a file declares.
fn submodules(file: &Path) -> PathBuf {
    match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => file.with_file_name(""),
        _ => file.with_extension(""),
    }
}

/// The text with empty lines for items under `#[cfg(test)]`, and the modules among these that are other
/// files. Items end where rustfmt has them end: with `;` or `,`, or with a bracket as far to the left as
/// their beginning.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        kept.push('\n');
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let mut is_first = true;
        for line in lines.by_ref() {
            kept.push('\n');
            let item = line.trim_start();
            if is_first && item.starts_with("#[") {
                continue;
            }
            let declared = item.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';'));
            modules.extend(declared.filter(|_| is_first).map(str::to_owned));
            let is_end = item.ends_with([';', ',']) || item.ends_with('}');
            if (is_first || item.starts_with(['}', ')', ']'])) && line.len() - item.len() == indent && is_end
            {
                break;
            }
            is_first = false;
        }
    }
    (kept, modules)
}

/// The rooms that a text names as `crate::ROOM`, each with its line; comments apart.
fn uses(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for (at, path) in line.match_indices("crate::") {
            let rest = &line[at + path.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            // The first line of the kept text is empty.
            found.push((number, &rest[..end]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_in_its_order() {
        let text = "# A\n\n| room | owns |\n|---|---|\n| `a`, `b` | `x` |\n| `c` | y |\n\n| `d` | z |\n";
        assert_eq!(rooms(text), ["a", "b", "c"]);
    }

    #[test]
    fn rooms_are_found_and_tests_are_not() {
        let text = "use crate::a::B;\n// crate::c\n#[cfg(test)]\nmod few;\n#[cfg(test)]\nuse crate::d;\nfn f() -> crate::e::F {\n\
                    }\n#[cfg(test)]\nmod tests {\n    use crate::g;\n}\nuse crate::h;\n";
        let (kept, modules) = without_tests(text);
        assert_eq!(modules, ["few"]);
        assert_eq!(uses(&kept), [(1, "a"), (7, "e"), (13, "h")]);
    }

    #[test]
    fn a_file_declares_modules_beside_or_below_it() {
        assert_eq!(submodules(Path::new("x/mod.rs")), Path::new("x/"));
        assert_eq!(submodules(Path::new("x/y.rs")), Path::new("x/y"));
    }

    #[test]
    fn the_rooms_of_this_workspace_are_in_order() {
        check().expect("rooms in order");
    }
}
