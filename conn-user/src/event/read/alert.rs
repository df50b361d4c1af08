//! An alert of a recording, for those who ask what it meant, and for those who show it again. A replay needs none of it: it raises
//! its own.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::{ReadError, Reader, named, need, wrong_name};
use crate::event::alert::{
    Alert, AlertId, Covered, Evidence, Phase, RuleRef, Severity, Subject, Value as Fact,
};
use crate::event::escape;
use crate::event::model::EventKind;
use crate::event::wire::{AlertPart, Coverage, Line, Started, Text};
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, WallNs};

/// Most lists that are in one another: ours are flat.
const DEPTH_MAX: usize = 4;

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
        let (id, subject) = (id_of(&part)?, self.subject(&line)?);
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
    fn subject(&mut self, line: &Line<'_>) -> Result<Subject, ReadError> {
        let kind = EventKind::Alert;
        Ok(if line.raddr.is_some() {
            Subject::Connection(Box::new(self.conn(line, kind)?))
        } else if line.laddr.is_some() {
            Subject::Listener(Box::new(self.listener(line, kind)?))
        } else if line.process.is_some() {
            Subject::Process(self.process(line, kind)?)
        } else {
            Subject::Absence
        })
    }

    /// The alert of a line, with all that it has.
    pub(super) fn alert(&mut self, line: &Line<'_>) -> Result<Alert, ReadError> {
        let part: AlertPart<'_> = serde_json::from_str(need(EventKind::Alert, "alert", line.alert)?.get())?;
        let at = BootNs::from(line.boot_ns);
        let Facts(facts) = serde_json::from_str(part.evidence.get())?;
        Ok(Alert {
            id: id_of(&part)?,
            phase: named("phase", &part.phase)?,
            severity: named("severity", &part.severity)?,
            rule: Arc::new(RuleRef {
                id: (*part.rule).into(),
                kind: named("rule_kind", &part.rule_kind)?,
                title: (*part.title).into(),
                attack: part.attack.iter().map(|id| (**id).into()).collect(),
            }),
            subject: self.subject(line)?,
            evidence: facts
                .into_iter()
                .map(|(name, raw)| self.evidence(&name, raw, at))
                .collect::<Result<_, _>>()?,
            covered: covered(part.coverage)?,
            suppress: part.suppress.as_deref().map(Into::into),
            at,
            raised: part.raised_boot_ns.into(),
            repeats: part.repeats,
        })
    }

    fn evidence(&mut self, key: &str, raw: &RawValue, at: BootNs) -> Result<Evidence, ReadError> {
        let value = self.fact(raw, at, DEPTH_MAX)?;
        // The key of a duration says so.
        let (name, value) = match (key.strip_suffix("_ns"), value) {
            (Some(name), Fact::Number(number)) => (name, Fact::Duration(DurationNs(number))),
            (_, value) => (key, value),
        };
        Ok(Evidence { name: Cow::Owned(name.to_owned()), value })
    }

    /// A value, of the type that its form shows.
    fn fact(&mut self, raw: &RawValue, at: BootNs, depth: usize) -> Result<Fact, ReadError> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let shape: Shape<'_> = serde_json::from_str(text)?;
                match shape.ip.filter(|_| shape.pid.is_none()) {
                    Some(ip) => Fact::End(SocketAddr::new(ip, shape.port.unwrap_or(0))),
                    None => Fact::Process(self.read_process(raw, at)?),
                }
            }
            Some(b'[') if depth > 0 => {
                let all: Vec<&RawValue> = serde_json::from_str(text)?;
                let values = all.into_iter().map(|one| self.fact(one, at, depth - 1));
                Fact::List(values.collect::<Result<_, _>>()?)
            }
            Some(b'"') if self.processes.is_reference(raw) => Fact::Process(self.read_process(raw, at)?),
            Some(b'"') => {
                let Text(text) = serde_json::from_str(text)?;
                Fact::Text(escape::undo(&text).into())
            }
            // A count has no fraction, and a score always has one.
            _ if text.contains(['.', 'e', 'E']) => Fact::Score(serde_json::from_str(text)?),
            _ => Fact::Number(serde_json::from_str(text)?),
        })
    }
}

/// The keys of evidence with their values, in their order.
struct Facts<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Facts<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> de::Visitor<'de> for Pairs {
            type Value = Facts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Facts<'de>, A::Error> {
                let mut all = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    all.push((name, value));
                }
                Ok(Facts(all))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// What distinguishes an end from a process.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(default)]
    ip: Option<IpAddr>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(borrow, default)]
    pid: Option<&'a RawValue>,
}

fn id_of(part: &AlertPart<'_>) -> Result<AlertId, ReadError> {
    let number = part.id.rsplit_once("-a").and_then(|(_, number)| number.parse().ok());
    number.map(AlertId).ok_or_else(|| ReadError::Id { key: "id", value: part.id.to_string() })
}

fn covered(raw: &RawValue) -> Result<Covered, ReadError> {
    let of: Coverage<'_> = serde_json::from_str(raw.get())?;
    let (kind, missing) = (EventKind::Alert, "coverage");
    Ok(match &*of.seen {
        "all" => Covered::All,
        "since" => Covered::Since(need(kind, missing, of.since_boot_ns)?.into()),
        "except" => Covered::Except {
            lost: need(kind, missing, of.lost)?,
            repaired: need(kind, missing, of.repaired)?,
        },
        "unknown" => Covered::Unknown,
        other => return Err(wrong_name("seen", other, &["all", "since", "except", "unknown"])),
    })
}
