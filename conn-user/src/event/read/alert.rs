//! An alert of a recording, for those who ask what it meant. A replay needs none of it: it raises its own.

use std::sync::Arc;

use super::{ReadError, Reader, named, need};
use crate::event::alert::{AlertId, Phase, Severity, Subject};
use crate::event::model::EventKind;
use crate::event::wire::{AlertPart, Line, Started};
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, WallNs};

/// An alert as a line has it.
#[derive(Clone, Debug)]
pub struct AlertLine {
    /// The line's number.
    pub seq: u64,
    /// The instant of the step.
    pub at: BootNs,
    /// The same by the wall clock.
    pub wall: WallNs,
    /// Its id, as it is written: `752b100f-539cace2690-a7`.
    pub name: String,
    /// The number at the end of it.
    pub id: AlertId,
    /// The step.
    pub phase: Phase,
    /// The severity at this step.
    pub severity: Severity,
    /// The id of the rule.
    pub rule: String,
    /// What the rule finds.
    pub title: String,
    /// What it is about.
    pub subject: Subject,
    /// The process that a rule on standard streams looked at, where it is not the subject's.
    pub started: Option<Arc<ProcessInfo>>,
    /// What the rule judged by, a JSON object.
    pub evidence: serde_json::Value,
    /// Whether everything was seen, a JSON object.
    pub coverage: serde_json::Value,
    /// The exception that suppresses it.
    pub suppress: Option<String>,
    /// How often the same was found and not reported.
    pub repeats: u64,
}

impl Reader {
    /// Reads an alert whole; `None`: the line is of another kind.
    ///
    /// # Errors
    /// When it is no event of this schema.
    pub fn read_alert(&mut self, line: &str) -> Result<Option<AlertLine>, ReadError> {
        self.is_apart = true;
        let alert = self.alert_of(line);
        self.is_apart = false;
        alert
    }

    fn alert_of(&mut self, line: &str) -> Result<Option<AlertLine>, ReadError> {
        let line: Line<'_> = serde_json::from_str(line)?;
        let kind: EventKind = named("kind", &line.kind)?;
        if kind != EventKind::Alert {
            return Ok(None);
        }
        let part: AlertPart<'_> = serde_json::from_str(need(kind, "alert", line.alert)?.get())?;
        let number = part.id.rsplit_once("-a").and_then(|(_, number)| number.parse().ok());
        let id =
            number.map(AlertId).ok_or_else(|| ReadError::Id { key: "id", value: part.id.to_string() })?;
        let subject = if line.raddr.is_some() {
            Subject::Connection(Box::new(self.conn(&line, kind)?))
        } else if line.laddr.is_some() {
            Subject::Listener(Box::new(self.listener(&line, kind)?))
        } else if line.process.is_some() {
            Subject::Process(self.process(&line, kind)?)
        } else {
            Subject::Absence
        };
        let at = BootNs::from(line.boot_ns);
        let Started { started } = serde_json::from_str(part.evidence.get())?;
        let started = started.map(|raw| self.read_process(raw, at)).transpose()?;
        Ok(Some(AlertLine {
            seq: line.seq,
            at,
            wall: self.wall(&line.ts)?,
            name: part.id.to_string(),
            id,
            phase: named("phase", &part.phase)?,
            severity: named("severity", &part.severity)?,
            rule: part.rule.to_string(),
            title: part.title.to_string(),
            subject,
            started,
            evidence: serde_json::from_str(part.evidence.get())?,
            coverage: serde_json::from_str(part.coverage.get())?,
            suppress: part.suppress.as_deref().map(str::to_owned),
            repeats: part.repeats,
        }))
    }
}
