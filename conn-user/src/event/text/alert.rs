//! An alert as one line: what, of whom, why it was judged so, and what suppresses it.

use crate::event::age::Age;
use crate::event::alert::{Alert, Covered, Evidence, Phase, Severity, Subject, Value};
use crate::event::names::Named;
use crate::event::words::Words;
use crate::event::{escape, human};
use crate::flow::model::{Direction, Source};
use crate::process::info::ProcessInfo;
use crate::units::BootNs;

/// Columns of `CRITICAL`.
const SEVERITY_COLUMNS: usize = 8;

/// An SGR sequence for the line: by severity, and faint once it is over.
pub(super) const fn color(alert: &Alert) -> &'static [u8] {
    match (alert.phase, alert.severity) {
        (Phase::Resolved, _) => b"\x1b[2m",
        (_, Severity::Critical) => b"\x1b[1;37;41m",
        (_, Severity::High) => b"\x1b[1;31m",
        (_, Severity::Medium) => b"\x1b[1;33m",
        (_, Severity::Low) => b"\x1b[36m",
        (_, Severity::Info) => b"\x1b[34m",
    }
}

/// Whether the line says it already, where it reports the subject. JSON has the two apart.
fn is_said(evidence: &Evidence, subject: &Subject) -> bool {
    let ends = match subject {
        Subject::Connection(conn) => [Some(conn.local), Some(conn.remote)],
        Subject::Listener(listener) => [Some(listener.local), None],
        Subject::Process(_) | Subject::Absence => [None, None],
    };
    let mut ends = ends.into_iter().flatten();
    match (evidence.name, &evidence.value) {
        ("exe", Value::Text(exe)) => {
            subject.process().is_some_and(|process| process.exe.as_deref() == Some(exe))
        }
        ("port", Value::Number(port)) => ends.any(|end| u64::from(end.port()) == *port),
        ("listens_on", Value::End(at)) => ends.any(|end| end == *at),
        _ => false,
    }
}

impl Words {
    /// Appends the alert as of `at`; `since` is the time since which it was watched, where that is not always.
    pub(super) fn alert(&mut self, alert: &Alert, at: BootNs, since: &[u8]) {
        let severity = alert.severity.name();
        self.with(|out| out.extend(severity.bytes().map(|byte| byte.to_ascii_uppercase())));
        self.pad_from(severity.len(), SEVERITY_COLUMNS);
        self.detail("a");
        self.number(alert.id.0);
        self.text(match alert.phase {
            Phase::Raised => "",
            Phase::Escalated => " escalated",
            Phase::Resolved => " resolved",
        });
        self.gap();
        self.word(alert.rule.id.as_bytes());
        self.text(": ");
        self.word(alert.rule.title.as_bytes());
        self.subject(&alert.subject);
        self.existing(&alert.subject, at);
        for evidence in alert.evidence.iter().filter(|evidence| !is_said(evidence, &alert.subject)) {
            self.detail(evidence.name);
            self.text("=");
            self.value(&evidence.value);
        }
        match alert.covered {
            Covered::All => {}
            Covered::Since(_) => {
                self.detail("coverage since ");
                self.with(|out| out.extend_from_slice(since));
            }
            Covered::Except { lost, repaired } => {
                self.detail("(lost meanwhile: ");
                self.number(lost);
                self.text(if repaired { ", repaired)" } else { ")" });
            }
            Covered::Unknown => self.detail("(records were lost meanwhile)"),
        }
        if alert.repeats > 0 {
            self.detail("and again: ");
            self.number(alert.repeats);
        }
        if let (Some(suppress), Phase::Raised) = (&alert.suppress, alert.phase) {
            self.detail("suppress: ");
            // A filter of our own making, which quotes what it must; for a terminal it is escaped once more. Nothing comes after
            // it, so it needs no quotes around it.
            self.columns += escape::text(suppress.as_bytes(), &mut self.bytes);
        }
    }

    fn subject(&mut self, subject: &Subject) {
        match subject {
            Subject::Connection(conn) => {
                self.actor(conn.owner.process.as_deref());
                self.gap();
                let device = conn.device.as_deref();
                self.end_over(conn.local, device);
                self.text(match conn.direction {
                    Direction::Out => " -> ",
                    Direction::In => " <- ",
                    Direction::Unknown => " -- ",
                });
                self.end_over(conn.remote, device);
                self.device(device, &[conn.local, conn.remote]);
            }
            Subject::Listener(listener) => {
                self.actor(listener.owner.process.as_deref());
                self.gap();
                let device = listener.scope.as_ref().and_then(|scope| scope.device.as_deref());
                self.end_over(listener.local, device);
                self.device(device, &[listener.local]);
            }
            Subject::Process(process) => self.actor(Some(process)),
            Subject::Absence => {}
        }
    }

    /// That the subject did not begin before the eyes of the agent, and how old it is.
    fn existing(&mut self, subject: &Subject, at: BootNs) {
        let (source, born) = match subject {
            Subject::Connection(conn) => (conn.source, conn.born),
            Subject::Listener(listener) => (listener.source, listener.born),
            Subject::Process(_) | Subject::Absence => return,
        };
        match source {
            Source::Live => return,
            Source::Snapshot => self.detail("existing, age "),
            // Found after a loss, or by its first record: it need not be older than that.
            Source::Resync | Source::Late => {
                self.detail(source.name());
                self.text(", age ");
            }
        }
        match born.map(|born| Age::of(&born, at)).filter(Age::is_known) {
            Some(age) => self.with(|out| age.write_text(" ", out)),
            None => self.text("unknown"),
        }
    }

    /// The process, and by whom it came to be: `sshd[1] > bash[2] > nc[3]`.
    fn actor(&mut self, process: Option<&ProcessInfo>) {
        self.gap();
        let Some(process) = process else { return self.text("?") };
        for ancestor in process.ancestors.iter().rev() {
            self.word(&ancestor.comm);
            self.text("[");
            self.number(ancestor.pid.0);
            self.text("] > ");
        }
        self.process(process);
        self.detail("uid=");
        self.number(process.uid);
        self.place(process);
        self.detail("exe=");
        self.exe(process);
    }

    /// Appends the value of a piece of evidence.
    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.word(text),
            Value::Number(number) => self.number(*number),
            Value::Duration(duration) => self.with(|out| human::write_duration(*duration, out)),
            Value::Score(score) => self.text(&format!("{score:.3}")),
            Value::End(end) if end.port() == 0 => {
                self.with(|out| crate::event::address::write_ip(end.ip(), out));
            }
            Value::End(end) => self.end(*end),
            Value::Process(process) => self.process(process),
            Value::List(values) => {
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        self.text(",");
                    }
                    self.value(value);
                }
            }
        }
    }
}
