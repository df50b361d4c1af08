//! Explanations for programs: one JSON object. `docs/explain.md` describes it.

use serde::Serialize;
use serde_json::value::RawValue;

use super::AboutAlert;
use crate::event::alert::Evidence;
use crate::event::escape;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::event::wire::encode_line;
use crate::filter::Names;
use crate::filter::trace::{Seen, WordTrace};
use crate::learn::write;
use crate::replay::search::AboutEvent;
use crate::rules::explain::{Explanation, exceptions};
use crate::rules::trace::{ExceptTrace, RuleTrace, Verdict};

type Result<T> = serde_json::Result<T>;

#[derive(Serialize)]
struct AlertReport<'a> {
    kind: &'static str,
    alert: &'a str,
    recorded: Option<&'a str>,
    given: bool,
    rule: RuleReport<'a>,
    event: Option<Box<RawValue>>,
    filters: Option<FilterReport>,
    state: Option<StateReport>,
    reported: Option<Box<RawValue>>,
    evidence: Box<RawValue>,
    steps: Vec<StepReport>,
    exceptions: Vec<ExceptionReport>,
}

#[derive(Serialize)]
struct EventReport<'a> {
    kind: &'static str,
    event: Box<RawValue>,
    alerts: Vec<&'a str>,
    rules: Vec<RuleOfEvent<'a>>,
}

#[derive(Serialize)]
struct RuleOfEvent<'a> {
    rule: RuleReport<'a>,
    filters: FilterReport,
    state: Option<StateReport>,
    raised: Option<&'a str>,
    exceptions: Vec<ExceptionReport>,
}

#[derive(Serialize)]
struct RuleReport<'a> {
    id: &'a str,
    in_force: bool,
    title: Option<&'a str>,
    why: Option<&'a str>,
    tune: Option<&'a str>,
}

#[derive(Serialize)]
struct FilterReport {
    looks_at: Vec<&'static str>,
    looked_at: bool,
    verdict: &'static str,
    excepted_by: Option<usize>,
    decides: &'static str,
    r#match: Vec<WordReport>,
    to: Option<Vec<WordReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<Vec<WordReport>>,
    except: Vec<ExceptReport>,
}

#[derive(Serialize)]
struct WordReport {
    word: String,
    holds: bool,
    seen: &'static str,
    values: Vec<String>,
    fitting: Vec<String>,
}

#[derive(Serialize)]
struct ExceptReport {
    filter: String,
    holds: bool,
    words: Vec<WordReport>,
}

#[derive(Serialize)]
struct StateReport {
    finds: Option<bool>,
    says: String,
    facts: Box<RawValue>,
    duplicate_of: Option<Duplicate>,
}

#[derive(Serialize)]
struct Duplicate {
    alert: String,
    ago_ns: u64,
    open: bool,
    throttled_for_ns: Option<u64>,
    repeats: u64,
}

#[derive(Serialize)]
struct StepReport {
    phase: &'static str,
    severity: &'static str,
    after_ns: u64,
    evidence: Box<RawValue>,
}

#[derive(Serialize)]
struct ExceptionReport {
    filter: String,
    toml: String,
}

fn encoder() -> JsonEncoder {
    JsonEncoder::new(&StreamIdentity::default())
}

fn raw(bytes: &[u8]) -> Result<Box<RawValue>> {
    RawValue::from_string(String::from_utf8_lossy(bytes).trim_end().to_owned())
}

fn event_line(event: &Event) -> Result<Box<RawValue>> {
    let mut out = Vec::new();
    encoder().encode(event, &mut out);
    raw(&out)
}

fn evidence(evidence: &[Evidence]) -> Result<Box<RawValue>> {
    let mut out = Vec::new();
    encoder().encode_evidence(evidence, &mut out);
    raw(&out)
}

fn word(word: &WordTrace) -> WordReport {
    let (seen, values) = match &word.seen {
        Seen::Values(values) => {
            ("values", values.iter().map(|looked| escape::string(&looked.value)).collect())
        }
        Seen::Unknown => ("unknown", Vec::new()),
        Seen::Nothing => ("nothing", Vec::new()),
    };
    WordReport { word: word.word.clone(), holds: word.holds, seen, values, fitting: word.fitting.clone() }
}

fn words(words: &[WordTrace]) -> Vec<WordReport> {
    words.iter().map(word).collect()
}

fn filters(trace: &RuleTrace) -> FilterReport {
    let (verdict, excepted_by) = match trace.verdict {
        Verdict::NotLookedAt => ("not_looked_at", None),
        Verdict::MatchFailed => ("match_failed", None),
        Verdict::Excepted(at) => ("excepted", Some(at)),
        Verdict::Selected => ("selected", None),
    };
    let except = |except: &ExceptTrace| ExceptReport {
        filter: except.filter.clone(),
        holds: except.holds(),
        words: words(&except.words),
    };
    let secondary = |key: &str| {
        let of = trace.secondary.as_ref().filter(|of| of.key == key)?;
        Some(words(&of.words))
    };
    FilterReport {
        looks_at: trace.looks_at.names().collect(),
        looked_at: trace.is_looked_at(),
        verdict,
        excepted_by,
        decides: trace.deciding_key(),
        r#match: words(&trace.matches),
        to: secondary("to"),
        holds: secondary("holds"),
        except: trace.except.iter().map(except).collect(),
    }
}

fn state(of: &Explanation) -> Result<Option<StateReport>> {
    let Some(decision) = &of.decision else { return Ok(None) };
    let reported = of.reported.map(|reported| Duplicate {
        alert: format!("a{}", reported.id.0),
        ago_ns: reported.ago.0,
        open: reported.is_open,
        throttled_for_ns: reported.throttled_for.map(|left| left.0),
        repeats: reported.repeats,
    });
    Ok(Some(StateReport {
        finds: decision.finds,
        says: decision.says.clone(),
        facts: evidence(&decision.facts)?,
        duplicate_of: reported,
    }))
}

fn exception(rule: &str, filters: &[String]) -> Vec<ExceptionReport> {
    let one = |filter: &String| ExceptionReport {
        filter: filter.clone(),
        toml: write::exception(rule, filter, None),
    };
    filters.iter().map(one).collect()
}

fn written<T: Serialize>(report: &T) -> Vec<u8> {
    encode_line(report).into_bytes()
}

/// An event and what rules made of it, the nearest first.
pub(super) fn event(event: &Event, found: &AboutEvent, names: &Names) -> Result<Vec<u8>> {
    let mut sorted: Vec<&Explanation> = found.explanations.iter().collect();
    sorted.sort_by_key(|of| of.distance());
    let mut rules = Vec::with_capacity(sorted.len());
    for of in sorted {
        let about = &of.rule.about;
        let raised = found.alerts.iter().find(|(_, alert)| alert.rule.id == about.id);
        let suppressing = raised.map(|(_, alert)| exceptions(event, alert.suppress.as_deref(), names));
        rules.push(RuleOfEvent {
            rule: RuleReport {
                id: &about.id,
                in_force: true,
                title: Some(&about.title),
                why: Some(&of.rule.advice.why),
                tune: Some(&of.rule.advice.tune),
            },
            filters: filters(&of.trace),
            state: state(of)?,
            raised: raised.map(|(name, _)| name.as_str()),
            exceptions: exception(&about.id, &suppressing.unwrap_or_default()),
        });
    }
    let alerts = found.alerts.iter().map(|(name, _)| name.as_str()).collect();
    Ok(written(&EventReport { kind: "explained_event", event: event_line(event)?, alerts, rules }))
}

/// An alert.
pub(super) fn alert(of: &AboutAlert<'_>) -> Result<Vec<u8>> {
    let id = of.rule.map(|rule| &*rule.about.id).or(of.recorded.map(|line| line.rule.as_str()));
    let explanation = of.given.and_then(|given| given.explanation.as_ref());
    let reported = match of.given {
        Some(given) => {
            let body = EventBody::Alert(Box::new(given.alert.clone()));
            Some(event_line(&Event { seq: 0, boot: given.alert.at, wall: given.wall, body })?)
        }
        None => None,
    };
    let mut steps = Vec::new();
    for step in of.given.into_iter().flat_map(|given| &given.steps) {
        steps.push(StepReport {
            phase: step.phase.name(),
            severity: step.severity.name(),
            after_ns: step.at.since(step.raised).0,
            evidence: evidence(&step.evidence)?,
        });
    }
    let own = match (of.alert(), of.recorded) {
        (Some(alert), _) => evidence(&alert.evidence)?,
        (None, Some(line)) => RawValue::from_string(line.evidence.to_string())?,
        (None, None) => RawValue::from_string("{}".to_owned())?,
    };
    Ok(written(&AlertReport {
        kind: "explained_alert",
        alert: of.name,
        recorded: of.recorded.map(|line| line.name.as_str()),
        given: of.given.is_some(),
        rule: RuleReport {
            id: id.unwrap_or_default(),
            in_force: of.rule.is_some(),
            title: of.rule.map(|rule| &*rule.about.title).or(of.recorded.map(|line| line.title.as_str())),
            why: of.rule.map(|rule| &*rule.advice.why),
            tune: of.rule.map(|rule| &*rule.advice.tune),
        },
        event: of.event.as_ref().map(event_line).transpose()?,
        filters: of.trace.as_ref().map(filters),
        state: match explanation {
            Some(of) => state(of)?,
            None => None,
        },
        reported,
        evidence: own,
        steps,
        exceptions: exception(id.unwrap_or_default(), &of.exceptions),
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn hidden_characters_are_escaped() {
        let out = super::written(&"\u{7f}\u{9b}\u{202e}\u{200b}");
        assert_eq!(out, b"\"\\u007f\\u009b\\u202e\\u200b\"\n");
    }
}
