//! The configuration file of `conn agent`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::event::escape;

/// See the module. Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// As `--backend`.
    pub backend: Option<String>,
    /// As `--ring-size`.
    pub ring_size: Option<String>,
    /// Rule folders; without any the built-in rules hold.
    pub rules: Vec<PathBuf>,
    /// Where alerts go.
    pub alerts: Alerts,
    /// Where events go.
    pub events: Events,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// A file that JSON lines are appended to; `-`: standard output.
    pub file: Option<PathBuf>,
    /// The local syslog socket; the empty text: none.
    pub syslog: PathBuf,
}

/// Where events go: nowhere by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// A file that JSON lines are appended to; `-`: standard output.
    pub file: Option<PathBuf>,
    /// Which ones.
    pub filter: String,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { file: Some("-".into()), syslog: "/dev/log".into() }
    }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong, with the file, the place and the keys that there are.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = || {
            let mut text = Vec::new();
            escape::text(path.as_os_str().as_encoded_bytes(), &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", shown()))?;
        toml::from_str(&text).with_context(|| format!("in {}", shown()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_needed_and_nothing_unknown_is_taken() {
        let config: Config = toml::from_str("").expect("empty");
        assert_eq!(config, Config::default());
        let text =
            "rules = ['/etc/conn/rules.d']\n[alerts]\nsyslog = ''\n[events]\nfile = '-'\nfilter = 'dir:out'";
        let config: Config = toml::from_str(text).expect("all keys");
        assert_eq!(
            (config.events.filter.as_str(), config.alerts.syslog.as_os_str().is_empty()),
            ("dir:out", true)
        );
        let error = toml::from_str::<Config>("[alerts]\nsyslogg = 'x'").expect_err("unknown").to_string();
        assert!(error.contains("line 2, column 1") && error.contains("`syslog`"), "{error}");
    }
}
