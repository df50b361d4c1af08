//! The corpus: TOML files with cases.
//!
//! ```toml
//! [[attack]]                       # or [[benign]]
//! name = "python-popen"
//! about = "python connects out and runs commands by popen"
//! attack = "T1059.006"             # technique of ATT&CK
//! needs = ["python3"]              # programs; a case without them is skipped
//! script = '''...'''               # of sh -eu; see run.rs for its environment
//! before = true                    # it runs before conn is started: it makes a file `ready` in its folder, and stays
//! missed = "why"                   # of an attack that is not expected to be detected
//! allowed = "medium"               # of benign work: the highest severity that it may raise, with `because`
//! because = "why"
//! ```

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Severities in their order.
const SEVERITIES: [&str; 5] = ["info", "low", "medium", "high", "critical"];

/// Orders severities; `None` is below all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Severity(usize);

impl Severity {
    pub(crate) const LOW: Self = Self(1);
    pub(crate) const MEDIUM: Self = Self(2);
    pub(crate) const HIGH: Self = Self(3);
    pub(crate) const CRITICAL: Self = Self(4);

    pub(crate) fn of(name: &str) -> Result<Self> {
        let at = SEVERITIES.iter().position(|one| *one == name);
        at.map(Self).with_context(|| format!("unknown severity {name:?}: one of {}", SEVERITIES.join(", ")))
    }

    pub(crate) fn name(self) -> &'static str {
        SEVERITIES.get(self.0).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Attack,
    Benign,
}

/// A case of the corpus.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) script: String,
    pub(crate) needs: Vec<String>,
    /// It runs before the agent is started.
    pub(crate) before: bool,
    /// Why the attack is not expected to be detected.
    pub(crate) missed: Option<String>,
    /// The highest severity that benign work may raise.
    pub(crate) allowed: Severity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    attack: Vec<Entry>,
    #[serde(default)]
    benign: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    about: String,
    #[serde(default)]
    attack: String,
    #[serde(default)]
    needs: Vec<String>,
    script: String,
    #[serde(default)]
    before: bool,
    missed: Option<String>,
    allowed: Option<String>,
    because: Option<String>,
}

/// Reads a file of the corpus.
///
/// # Errors
/// The file cannot be read, or is not valid; the message names the file and the case.
pub(crate) fn read(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let attacks = file.attack.into_iter().map(|entry| (Kind::Attack, entry));
    let benign = file.benign.into_iter().map(|entry| (Kind::Benign, entry));
    attacks
        .chain(benign)
        .map(|(kind, entry)| {
            let name = entry.name.clone();
            case(kind, entry).with_context(|| format!("{}: {name}", path.display()))
        })
        .collect()
}

fn case(kind: Kind, entry: Entry) -> Result<Case> {
    ensure!(kind == Kind::Benign || !entry.attack.is_empty(), "an attack names its technique (`attack`)");
    ensure!(entry.allowed.is_some() == entry.because.is_some(), "`allowed` and `because` go together");
    let allowed = entry.allowed.as_deref().map_or(Ok(Severity::LOW), Severity::of)?;
    Ok(Case {
        kind,
        name: entry.name,
        about: entry.about,
        script: entry.script,
        needs: entry.needs,
        before: entry.before,
        missed: entry.missed,
        allowed,
    })
}

impl Case {
    /// Returns a program that the case needs and this machine has not.
    pub(crate) fn missing_program(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let is_there = |program: &&String| {
            Path::new(program).is_absolute() && Path::new(program).exists()
                || folders.iter().any(|folder| folder.join(program).exists())
        };
        self.needs.iter().find(|program| !is_there(program)).cloned()
    }
}
