//! The default rules, which are active without configuration. `docs/rules.md` lists them.

#[cfg(test)]
mod tests;
pub(super) mod texts;

pub use self::texts::{FILES, TESTS};
use super::file::{self, RuleErrors};
use super::host::Host;
use super::set::RuleSet;

/// Returns the default rules as one rule file.
pub fn text() -> String {
    let mut text = String::from(
        "# The built-in rules of conn. A folder with this file has them all, to be changed; a file that says\n\
         # use = \"defaults\" has them as they are, and [[override]] changes single keys. See docs/rules.md.\n",
    );
    for (_, file) in FILES {
        text.push('\n');
        text.push_str(file);
    }
    text
}

/// Returns the default rules with the zones of this host.
///
/// # Errors
/// None but by a mistake in this program: a test compiles them.
pub fn set(host: &Host) -> Result<RuleSet, RuleErrors> {
    file::built_in(host)
}

/// Returns the names of shells, interpreters and network tools, of the default lists.
///
/// # Errors
/// None but by a mistake in this program: a test compiles the default rules.
pub fn tool_names() -> Result<Vec<String>, RuleErrors> {
    let set = set(&Host::default())?;
    let lists = ["shells", "interpreters", "netcats"].into_iter().filter_map(|list| set.names.list(list));
    Ok(lists.flatten().cloned().collect())
}
