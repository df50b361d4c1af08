//! The rules that hold with no configuration. `docs/rules.md` shows them.

#[cfg(test)]
mod tests;

use super::file::{self, RuleErrors};
use super::host::Host;
use super::set::RuleSet;

/// Their files, by name.
pub const FILES: [(&str, &str); 6] = [
    ("lists.toml", include_str!("lists.toml")),
    ("path.toml", include_str!("path.toml")),
    ("process.toml", include_str!("process.toml")),
    ("server.toml", include_str!("server.toml")),
    ("long.toml", include_str!("long.toml")),
    ("missing.toml", include_str!("missing.toml")),
];

/// The default rules with the zones of this host.
///
/// # Errors
/// None but by a mistake in this program: a test compiles them.
pub fn set(host: &Host) -> Result<RuleSet, RuleErrors> {
    file::built_in(host)
}
