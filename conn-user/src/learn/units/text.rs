//! The rule file.

use std::fmt::Write as _;

use super::{FromUnits, LeftOut};
use crate::event::escape;
use crate::learn::write::comment;
use crate::process::unit_files::UnitFiles;

impl FromUnits {
    /// The text of a rule file, the same for the same units.
    pub fn text(&self, files: &UnitFiles) -> String {
        let mut out = String::new();
        let off = self.rules.iter().filter(|rule| rule.off.is_some()).count();
        comment(
            "What the systemd units of this machine say about the network. Made by `conn learn --from-units`;",
            &mut out,
        );
        comment("read it before you use it. See docs/learn.md.", &mut out);
        comment("", &mut out);
        for folder in files.folders() {
            comment(&format!("read: {}", escape::path(folder)), &mut out);
        }
        let numbers = format!(
            "{} units, {} more are masked; {} rules, {off} of them not active; {} settings left out (at the end)",
            self.units,
            self.masked,
            self.rules.len(),
            self.left_out.len()
        );
        comment(&numbers, &mut out);
        for rule in &self.rules {
            out.push('\n');
            rule.write(&mut out);
        }
        if !self.left_out.is_empty() {
            out.push('\n');
            comment("Left out, each with its reason:", &mut out);
        }
        for left_out in &self.left_out {
            comment(&left_out.to_line(), &mut out);
        }
        out
    }
}

impl LeftOut {
    fn to_line(&self) -> String {
        let mut line = String::from("-");
        for part in [&self.unit, &self.place].into_iter().filter(|part| !part.is_empty()) {
            // Writing to a text cannot fail.
            let _ = write!(line, " {part}:");
        }
        let _ = write!(line, " {}", self.reason);
        line
    }
}
