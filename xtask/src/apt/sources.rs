//! The machine's own apt sources: which mirror it uses and which key the mirror's lists are signed with.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::output;

/// Code and suite names under which a Debian mirror is known in apt sources.
const DEBIAN: [&str; 11] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "testing",
    "unstable",
];

/// A mirror of Debian or of its security archive, as the machine uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    uri: String,
    security: bool,
    /// The value of the source's Signed-By (a path, or a key block of several lines), if it has one.
    signed_by: Option<String>,
}

/// Asks apt for the machine's sources.
pub(super) fn of_machine() -> Result<Vec<Source>> {
    const FORMAT: &str = "$(CREATED_BY)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)|$(SOURCESENTRY)";
    let mut command = Command::new("apt-get");
    // Without release info the answer comes from the sources alone, so it does not matter if no lists were ever fetched.
    let text =
        output(command.args(["indextargets", "--no-release-info", "--format", FORMAT]).env("LC_ALL", "C"))?;
    let mut found: Vec<Source> = Vec::new();
    for line in text.lines() {
        if let Some((source, entry)) = target_line(line)
            && !found.iter().any(|known| known.uri == source.uri)
        {
            found.push(Source { signed_by: signed_by(&entry), ..source });
        }
    }
    if found.is_empty() {
        bail!(
            "apt-get indextargets names no Debian mirror (this needs Debian's packages; on other systems set up by hand)"
        );
    }
    Ok(found)
}

/// A source and where it is written down, out of one line of the format above.
fn target_line(line: &str) -> Option<(Source, String)> {
    let fields: Vec<&str> = line.split('|').collect();
    let [created_by, component, release, uri, entry] = fields[..] else { return None };
    let release = release.trim_end_matches('/');
    // Old style security suites are called e.g. "buster/updates".
    let name = release.split(['-', '/']).next().unwrap_or_default();
    let debian = created_by == "Packages" && component == "main" && DEBIAN.contains(&name);
    let security = release.ends_with("-security") || release.ends_with("/updates");
    debian.then(|| (Source { uri: uri.to_owned(), security, signed_by: None }, entry.to_owned()))
}

/// The Signed-By of the entry "file:n": the n-th stanza of a `.sources` file, the n-th line of a `.list` file.
fn signed_by(entry: &str) -> Option<String> {
    let (file, number) = entry.rsplit_once(':')?;
    let number: usize = number.parse().ok()?;
    let text = fs::read_to_string(file).ok()?;
    if Path::new(file).extension().is_some_and(|ending| ending == "sources") {
        signed_by_in_stanza(&text, number)
    } else {
        signed_by_in_line(text.lines().nth(number.checked_sub(1)?)?)
    }
}

fn signed_by_in_stanza(text: &str, number: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut stanzas = lines.split(|line| line.trim().is_empty()).filter(|stanza| !stanza.is_empty());
    let stanza = stanzas.nth(number.checked_sub(1)?)?;
    let start = stanza.iter().position(|line| line.to_ascii_lowercase().starts_with("signed-by:"))?;
    let mut value = stanza.get(start)?.split_once(':')?.1.trim().to_owned();
    for line in stanza.iter().skip(start + 1).take_while(|line| line.starts_with([' ', '\t'])) {
        value.push('\n');
        value.push_str(line);
    }
    Some(value)
}

fn signed_by_in_line(line: &str) -> Option<String> {
    let options = line.split_once('[')?.1.split_once(']')?.0;
    options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned)
}

/// The stanzas to try, in this order, for a suite: with the machine's key, then with every key that apt trusts (the
/// machine's entry may name the key of its own release only).
pub(super) fn stanzas(machine: &[Source], suite: &str) -> Vec<String> {
    let security = suite.ends_with("-security");
    let mut found = Vec::new();
    for source in machine.iter().filter(|source| source.security == security) {
        let stanza = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", source.uri);
        if let Some(key) = &source.signed_by {
            found.push(format!("{stanza}Signed-By: {key}\n"));
        }
        found.push(stanza);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanza_number_and_key_block() {
        let text = "Types: deb\nSigned-By: /a.gpg\n\n# note\nTypes: deb\nSigned-By:\n -----BEGIN\n .\n xyz\nSuites: x\n";
        assert_eq!(signed_by_in_stanza(text, 1).as_deref(), Some("/a.gpg"));
        assert_eq!(signed_by_in_stanza(text, 2).as_deref(), Some("\n -----BEGIN\n .\n xyz"));
        assert_eq!(signed_by_in_stanza(text, 3), None);
    }

    #[test]
    fn one_line_style() {
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian sid main";
        assert_eq!(signed_by_in_line(line).as_deref(), Some("/k.gpg"));
        assert_eq!(signed_by_in_line("deb http://mirror.example/debian sid main"), None);
    }

    #[test]
    fn only_debian_counts() {
        let line = "Packages|main|bookworm-security|http://mirror.example/security/|/x.sources:2";
        let (source, entry) = target_line(line).expect("Debian's");
        assert!(source.security);
        assert_eq!(entry, "/x.sources:2");
        assert!(target_line("Packages|main|nodistro|http://other.example/|/y.sources:1").is_none());
        assert!(target_line("DEP-11|main|bookworm|http://mirror.example/|/x.sources:1").is_none());
    }

    #[test]
    fn security_suites_use_the_security_archive() {
        let source =
            |uri: &str, security| Source { uri: uri.to_owned(), security, signed_by: Some("/k".to_owned()) };
        let machine = [source("http://m/", false), source("http://s/", true)];
        let got = stanzas(&machine, "bullseye-security");
        assert_eq!(got.len(), 2);
        assert!(got[0].contains("URIs: http://s/") && got[0].contains("Signed-By: /k"), "{}", got[0]);
        assert!(!got[1].contains("Signed-By"));
    }
}
