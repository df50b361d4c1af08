//! The rule file.

use std::fmt::Write as _;

use super::Learnt;
use super::learner::Suspicious;
use crate::event::alert::RuleRef;
use crate::event::human;
use crate::event::names::Named as _;
use crate::event::time;
use crate::learn::write::{comment, key, text};
use crate::rules::baseline::{Entry, What, Window};

/// The rules that use the entries.
const RULES: &str = include_str!("rules.toml");

impl Learnt {
    /// The text of a rule file, the same for the same events. `host`: whose it is; `from`: what it was learnt from.
    pub fn text(&self, host: &str, from: &str) -> String {
        let mut out = String::new();
        let mut say = |line: String| comment(&line, &mut out);
        say(format!("What is normal on {host}: learnt by `conn learn` {from};"));
        say("read it before you use it, and take out what should not be. See docs/learn.md.".to_owned());
        say(String::new());
        let of = |table: &str| self.entries.iter().filter(|entry| entry.what.table() == table).count();
        let events: u64 = self.windows.iter().map(|window| window.events).sum();
        say(format!(
            "{events} events; {} connections, {} listeners, {} programs of services",
            of("connection"),
            of("listener"),
            of("program"),
        ));
        for window in &self.windows {
            say(shown(window));
        }
        let lost: u64 = self.windows.iter().map(|window| window.lost).sum();
        if lost > 0 {
            say(format!("LOSS: {lost} records were lost meanwhile; what this file lacks may be normal."));
        }
        let suspicious: usize = self.suspicious.iter().map(|one| one.entries.len()).sum();
        if suspicious > 0 {
            say(format!(
                "{suspicious} entries are SUSPICIOUS: default rules raise alerts about them. They are at the end, as comments."
            ));
        }
        for (count, what) in [
            (
                self.unscreened,
                "connections and listeners were not compared with the default rules: limit reached",
            ),
            (self.not_kept, "connections and listeners were not learnt: limit reached"),
            (
                self.of_unknown,
                "of unknown processes, executables or directions; rules do not judge those either",
            ),
        ] {
            if count > 0 {
                say(format!("{count} {what}"));
            }
        }
        out.push('\n');
        out.push_str(RULES);
        for window in &self.windows {
            out.push_str("\n[[baseline.window]]\n");
            key("from", &text(&time::seconds(window.from)), &mut out);
            key("to", &text(&time::seconds(window.to)), &mut out);
            key("events", &window.events.to_string(), &mut out);
            key("lost", &window.lost.to_string(), &mut out);
        }
        for entry in &self.entries {
            out.push('\n');
            write(entry, &mut out);
        }
        for Suspicious { rule, entries } in &self.suspicious {
            for entry in entries {
                out.push('\n');
                comment(&format!("SUSPICIOUS {}: {}", rule.id, rule.title), &mut out);
                let mut text = String::new();
                write(entry, &mut text);
                // It is escaped already, as TOML.
                for line in text.lines() {
                    let _ = writeln!(out, "# {line}");
                }
            }
        }
        out
    }

    /// Returns all entries, also the suspicious ones.
    pub fn all_entries(&self) -> Vec<Entry> {
        let suspicious = self.suspicious.iter().flat_map(|one| &one.entries);
        self.entries.iter().chain(suspicious).cloned().collect()
    }

    /// Returns the suspicious entries for people, one line each.
    pub fn suspicions(&self) -> Vec<String> {
        let each = |one: &Suspicious| {
            let Suspicious { rule, entries } = one;
            entries.iter().map(|entry| line(rule, entry)).collect::<Vec<_>>()
        };
        self.suspicious.iter().flat_map(each).collect()
    }
}

fn line(rule: &RuleRef, entry: &Entry) -> String {
    let (_, name) = entry.who.words();
    let what = match &entry.what {
        What::Connection { direction, remote, ports } => {
            format!("{} {remote} {}", direction.name(), port(*ports))
        }
        What::Listener { local, ports } => format!("listener {local} {}", port(*ports)),
        What::Program { exe } => format!("program {exe}"),
    };
    format!("SUSPICIOUS {}: {}: {name}: {what}", rule.id, rule.title)
}

fn shown(window: &Window) -> String {
    let mut span = Vec::new();
    human::write_duration(crate::units::DurationNs(window.to.0.saturating_sub(window.from.0)), &mut span);
    let span = String::from_utf8_lossy(&span).into_owned();
    let (from, to) = (time::seconds(window.from), time::seconds(window.to));
    let loss = if window.lost == 0 { "nothing lost".to_owned() } else { format!("{} LOST", window.lost) };
    format!("{from} to {to} ({span}): {} events, {loss}", window.events)
}

/// Adds an entry to the text of a file.
pub(super) fn write(entry: &Entry, out: &mut String) {
    let (who, name) = entry.who.words();
    // Writing to a text cannot fail.
    let _ = writeln!(out, "[[baseline.{}]]", entry.what.table());
    key(who, &text(name), out);
    match &entry.what {
        What::Connection { direction, remote, ports } => {
            key("dir", &text(direction.name()), out);
            key("remote", &text(&remote.to_string()), out);
            key("port", &port(*ports), out);
        }
        What::Listener { local, ports } => {
            key("local", &text(&local.to_string()), out);
            key("port", &port(*ports), out);
        }
        What::Program { exe } => key("exe", &text(exe), out),
    }
    key("count", &entry.seen.count.to_string(), out);
    key("first", &text(&time::seconds(entry.seen.first)), out);
    key("last", &text(&time::seconds(entry.seen.last)), out);
    if !entry.seen.example.is_empty() {
        key("example", &text(&entry.seen.example), out);
    }
}

fn port(ports: crate::rules::baseline::Ports) -> String {
    ports.only().map_or_else(|| text(&ports.to_string()), |port| port.to_string())
}
