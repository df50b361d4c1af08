//! What two baselines have not in common. Counts and times are no change, and neither is what is only said in another way
//! ([`super::compare`]). An entry that is wider than before is new; one of which a part is there still is not gone.

use std::fmt::Write as _;

use serde::Serialize;

use super::compare::{Known, items};
use crate::event::escape;
use crate::event::wire::encode_line;
use crate::filter::names::Names;
use crate::rules::baseline::{Entry, Window};

/// The difference.
#[derive(Debug)]
pub struct Difference<'a> {
    /// What only the newer one has.
    pub new: Vec<&'a Entry>,
    /// What only the older one has.
    pub gone: Vec<&'a Entry>,
    /// Records that were lost while either was learnt: what is gone may have been missed.
    pub lost: u64,
}

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its entries.
    pub entries: &'a [Entry],
    /// When they were learnt.
    pub windows: &'a [Window],
    /// What the zones of its entries are.
    pub names: &'a Names,
}

/// Compares.
pub fn diff<'a>(old: Side<'a>, new: Side<'a>) -> Difference<'a> {
    let windows = old.windows.iter().chain(new.windows);
    let lost = windows.fold(0_u64, |lost, window| lost.saturating_add(window.lost));
    let (old, new) = (items(old.entries, old.names), items(new.entries, new.names));
    Difference { new: Known::of(&old).new_in(&new), gone: Known::of(&new).gone_from(&old), lost }
}

impl Difference<'_> {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }

    /// For people, a line each.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (sign, entries) in [('+', &self.new), ('-', &self.gone)] {
            for entry in entries {
                let (key, name) = entry.who.words();
                let line = format!("{key} {name}: {}", entry.what);
                // Writing to a text cannot fail.
                let _ = write!(out, "{sign} {}", escape::string(line.as_bytes()));
                if !entry.seen.example.is_empty() {
                    let _ = write!(out, "  ({})", escape::string(entry.seen.example.as_bytes()));
                }
                out.push('\n');
            }
        }
        let _ = writeln!(out, "{} new, {} gone", self.new.len(), self.gone.len());
        out
    }

    /// A JSON object a line, the last of which is the sum.
    pub fn json(&self) -> String {
        let mut out = String::new();
        for (change, entries) in [("new", &self.new), ("gone", &self.gone)] {
            for entry in entries {
                line(&Change::of(change, entry), &mut out);
            }
        }
        let sum = Sum { kind: "baseline_diff", new: self.new.len(), gone: self.gone.len(), lost: self.lost };
        line(&sum, &mut out);
        out
    }
}

fn line(what: &impl Serialize, out: &mut String) {
    out.push_str(&encode_line(what));
}

#[derive(Serialize)]
struct Sum {
    kind: &'static str,
    new: usize,
    gone: usize,
    lost: u64,
}

#[derive(Serialize)]
struct Change<'a> {
    kind: &'static str,
    #[serde(rename = "change")]
    what: &'static str,
    table: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    count: u64,
    example: &'a str,
}

impl<'a> Change<'a> {
    fn of(what: &'static str, entry: &'a Entry) -> Self {
        use crate::event::names::Named as _;
        use crate::rules::baseline::{What, Who};
        let (unit, mut exe) = match &entry.who {
            Who::Unit(name) => (Some(&**name), None),
            Who::Exe(name) => (None, Some(&**name)),
        };
        let (mut dir, mut remote, mut local, mut port) = (None, None, None, None);
        match &entry.what {
            What::Connection { direction, remote: place, ports } => {
                (dir, remote, port) =
                    (Some(direction.name()), Some(place.to_string()), Some(ports.to_string()));
            }
            What::Listener { local: place, ports } => {
                (local, port) = (Some(place.to_string()), Some(ports.to_string()));
            }
            What::Program { exe: program } => exe = Some(program),
        }
        let (kind, table) = ("baseline_change", entry.what.table());
        let (count, example) = (entry.seen.count, &*entry.seen.example);
        Self { kind, what, table, unit, exe, dir, remote, local, port, count, example }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hidden_characters_are_escaped() {
        let mut out = String::new();
        super::line(&"\u{7f}\u{9b}\u{202e}\u{200b}", &mut out);
        assert_eq!(out, "\"\\u007f\\u009b\\u202e\\u200b\"\n");
    }
}
