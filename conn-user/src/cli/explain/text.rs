//! Explanations for people.

use jiff::tz::TimeZone;

use super::AboutAlert;
use crate::event::alert::{Covered, Evidence, Phase};
use crate::event::human;
use crate::event::model::{Event, EventBody};
use crate::event::text::{TextFormatter, TextOptions};
use crate::event::words::Words;
use crate::filter::Names;
use crate::learn::write;
use crate::replay::search::AboutEvent;
use crate::rules::alerts::Reported;
use crate::rules::dry_run::Decision;
use crate::rules::explain::{Explanation, exceptions};
use crate::rules::model::Rule;
use crate::rules::trace::Verdict;
use crate::rules::trace::text::write as write_trace;
use crate::units::DurationNs;

/// Rules that are shown in the table of an event.
const ROWS_MAX: usize = 12;

fn say(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Text of others, escaped, behind a heading.
fn about(out: &mut Vec<u8>, name: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    out.extend_from_slice(format!("{name:<9} ").as_bytes());
    crate::event::escape::text(text.as_bytes(), out);
    out.push(b'\n');
}

fn duration(duration: DurationNs) -> String {
    let mut out = Vec::new();
    human::write_duration(duration, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns a formatter for events of the past: where the day begins or changes, a line has the date and the zone.
fn past(zone: TimeZone) -> TextFormatter {
    TextFormatter::new(TextOptions { color: false, width: None, netns: None, zone, dated: true })
}

fn line(event: &Event, lines: &mut TextFormatter, out: &mut Vec<u8>) {
    let mut text = Vec::new();
    lines.format(event, &mut text);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        out.extend_from_slice(b"  ");
        out.extend_from_slice(line);
    }
}

fn rule(rule: &Rule, out: &mut Vec<u8>) {
    about(out, "rule", &format!("{}: {}", rule.about.id, rule.about.title));
    about(out, "why", &rule.advice.why);
    about(out, "tune", &rule.advice.tune);
}

fn facts(evidence: &[Evidence], out: &mut Vec<u8>) {
    if evidence.is_empty() {
        return;
    }
    let mut words = Words::default();
    for one in evidence {
        words.text("  ");
        words.text(one.name);
        words.text("=");
        words.value(&one.value);
    }
    out.append(&mut words.bytes);
    out.push(b'\n');
}

fn decision(decision: &Decision, is_asked: bool, out: &mut Vec<u8>) {
    say(
        out,
        if is_asked { "what the rule decides" } else { "what it would decide if its filters let it pass" },
    );
    say(out, &format!("  {}", decision.says));
    facts(&decision.facts, out);
}

fn reported(reported: Option<Reported>, out: &mut Vec<u8>) {
    let Some(reported) = reported else { return };
    let so = if reported.is_open {
        "it is open, so that this is only counted".to_owned()
    } else if let Some(left) = reported.throttled_for {
        format!("by the throttle the same is only counted for {} more", duration(left))
    } else {
        "long enough ago to be reported again".to_owned()
    };
    let counted =
        if reported.repeats > 0 { format!(", {} times so far", reported.repeats) } else { String::new() };
    say(
        out,
        &format!(
            "  the same was reported as a{} {} ago: {so}{counted}",
            reported.id.0,
            duration(reported.ago)
        ),
    );
}

fn explanation(of: &Explanation, out: &mut Vec<u8>) {
    write_trace(&of.trace, out);
    if let Some(own) = &of.decision {
        out.push(b'\n');
        decision(own, of.is_asked(), out);
    }
    reported(of.reported, out);
}

/// What an exception to write is, and others.
fn suppress(rule: &str, exceptions: &[String], out: &mut Vec<u8>) {
    let Some((first, others)) = exceptions.split_first() else {
        return say(out, "no exception can suppress it: change or disable the rule");
    };
    say(
        out,
        "an exception that suppresses it, for a file of your rules (use = \"defaults\" for built-in ones)",
    );
    // It is TOML, which is harmless as it is: to escape it once more would change what it says.
    for line in write::exception(rule, first).lines() {
        say(out, &format!("  {line}"));
    }
    if !others.is_empty() {
        say(out, "others that hold for it, too");
        for other in others {
            out.extend_from_slice(b"  ");
            crate::event::escape::text(other.as_bytes(), out);
            out.push(b'\n');
        }
    }
}

/// An event and one rule, in full.
pub(super) fn event_and_rule(event: &Event, found: &AboutEvent, names: &Names) -> Vec<u8> {
    let mut out = Vec::new();
    line(event, &mut past(TimeZone::system()), &mut out);
    for of in &found.explanations {
        out.push(b'\n');
        rule(&of.rule, &mut out);
        out.push(b'\n');
        explanation(of, &mut out);
        out.push(b'\n');
        let own = found.alerts.iter().find(|(_, alert)| alert.rule.id == of.rule.about.id);
        say(&mut out, &outcome(of, own.map(|(name, alert)| (name.as_str(), alert.phase))));
        if let Some((_, alert)) = own {
            let suppressing = exceptions(event, alert.suppress.as_deref(), names);
            suppress(&of.rule.about.id, &suppressing, &mut out);
        }
    }
    out
}

/// In one line what came of it.
fn outcome(of: &Explanation, alert: Option<(&str, Phase)>) -> String {
    match (alert, of.trace.verdict) {
        (Some((name, _)), _) => format!("it was reported: {}", name.rsplit('-').next().unwrap_or(name)),
        (None, Verdict::NotLookedAt) => {
            "nothing was reported: the rule does not look at such events".to_owned()
        }
        (None, _) if !of.is_asked() => "nothing was reported: its filters let it be".to_owned(),
        (None, _) if of.is_only_counted() => "nothing was reported: the same was reported already".to_owned(),
        (None, _) => "nothing was reported at this event".to_owned(),
    }
}

/// An event and all rules, the nearest first.
pub(super) fn event(event: &Event, found: &AboutEvent) -> Vec<u8> {
    let mut out = Vec::new();
    line(event, &mut past(TimeZone::system()), &mut out);
    out.push(b'\n');
    for (name, alert) in &found.alerts {
        let id = name.rsplit('-').next().unwrap_or(name);
        say(&mut out, &format!("reported: {id} {}", alert.rule.id));
    }
    if found.alerts.is_empty() {
        say(&mut out, "nothing was reported at this event");
    }
    out.push(b'\n');
    let mut sorted: Vec<&Explanation> = found.explanations.iter().collect();
    sorted.sort_by_key(|of| of.distance());
    let looked: Vec<&Explanation> = sorted.iter().copied().filter(|of| of.trace.is_looked_at()).collect();
    let widest = looked.iter().take(ROWS_MAX).map(|of| of.rule.about.id.len()).max().unwrap_or(0);
    if !looked.is_empty() {
        say(&mut out, "the rules that look at such an event, the nearest first");
    }
    for of in looked.iter().take(ROWS_MAX) {
        out.extend_from_slice(format!("  {:widest$}  ", of.rule.about.id).as_bytes());
        of.write_why_not(&mut out);
        out.push(b'\n');
    }
    if looked.len() > ROWS_MAX {
        say(&mut out, &format!("  and {} more", looked.len() - ROWS_MAX));
    }
    let others = sorted.len() - looked.len();
    if others > 0 {
        say(&mut out, &format!("{others} more rules do not look at such an event"));
    }
    out
}

fn covered(covered: Covered) -> String {
    match covered {
        Covered::All => "everything was seen in the time that it judges".to_owned(),
        Covered::Since(_) => "what was before the agent began was not seen".to_owned(),
        Covered::Except { lost, repaired: false } => {
            format!("{lost} records were lost in the time that it judges: it may be wrong")
        }
        Covered::Except { lost, repaired: true } => format!(
            "{lost} records were lost in the time that it judges, and the tables were repaired: only what began and ended in \
             a loss is missing"
        ),
        Covered::Unknown => {
            "records were lost, of which not all is known any more: it may be wrong".to_owned()
        }
    }
}

/// An alert.
pub(super) fn alert(of: &AboutAlert<'_>, only_alerts: bool) -> Vec<u8> {
    let (mut out, mut lines) = (Vec::new(), past(TimeZone::system()));
    let id = of.name.rsplit('-').next().unwrap_or(of.name);
    match (of.given, of.recorded) {
        (Some(given), recorded) => {
            let body = EventBody::Alert(Box::new(given.alert.clone()));
            let raised = Event { seq: 0, boot: given.alert.at, wall: given.wall, body };
            line(&raised, &mut lines, &mut out);
            match recorded.filter(|line| line.name != given.name) {
                Some(line) => {
                    let then = line.name.rsplit('-').next().unwrap_or(&line.name);
                    about(&mut out, "alert", &format!("{then} of the recording, {id} by these rules"));
                }
                None => about(
                    &mut out,
                    "alert",
                    &format!(
                        "{id}, reported when it was recorded: {}",
                        if recorded.is_some() { "yes" } else { "no" }
                    ),
                ),
            }
        }
        (None, Some(line)) => {
            about(&mut out, "alert", &format!("{} ({}) {}: {}", id, name_of(line), line.rule, line.title));
            if !only_alerts {
                say(
                    &mut out,
                    "these rules do not give it on this recording; what follows is what its line says",
                );
            }
        }
        (None, None) => {}
    }
    match of.rule {
        Some(own) => rule(own, &mut out),
        None => say(&mut out, "no such active rule: its terms cannot be explained"),
    }
    if let Some(event) = &of.event {
        say(
            &mut out,
            if of.given.is_some() { "\nthe event" } else { "\nthe event, as far as the alert reports it" },
        );
        line(event, &mut lines, &mut out);
    }
    out.push(b'\n');
    match (of.given.and_then(|given| given.explanation.as_ref()), &of.trace) {
        (Some(own), _) => explanation(own, &mut out),
        (None, Some(trace)) => {
            write_trace(trace, &mut out);
            say(
                &mut out,
                "what the rule remembered is not in an alert; a recording has it (conn tail --record)",
            );
        }
        (None, None) => {
            say(&mut out, "it is about something that is not there: no event has words to explain");
        }
    }
    out.push(b'\n');
    if let Some(alert) = of.alert() {
        if !alert.evidence.is_empty() {
            say(&mut out, "evidence");
        }
        facts(&alert.evidence, &mut out);
        say(&mut out, &format!("coverage: {}", covered(alert.covered)));
    } else if let Some(line) = of.recorded {
        say(&mut out, "evidence");
        recorded(&line.evidence, &mut out);
        recorded(&line.coverage, &mut out);
    }
    for step in of.given.into_iter().flat_map(|given| &given.steps) {
        let what = match step.phase {
            Phase::Escalated => "it got worse",
            Phase::Raised | Phase::Resolved => "it was over",
        };
        say(&mut out, &format!("{what} {} later", duration(step.at.since(step.raised))));
        facts(&step.evidence, &mut out);
    }
    out.push(b'\n');
    let rule = of.rule.map(|rule| &*rule.about.id).or(of.recorded.map(|line| line.rule.as_str()));
    suppress(rule.unwrap_or_default(), &of.exceptions, &mut out);
    out
}

fn name_of(line: &crate::event::read::AlertLine) -> &'static str {
    use crate::event::names::Named as _;
    line.severity.name()
}

/// A JSON object of the line, as it is.
fn recorded(value: &serde_json::Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"  ");
    crate::event::escape::text(value.to_string().as_bytes(), out);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::WallNs;

    /// A recording may be of any day.
    #[test]
    fn an_event_has_date_and_zone() {
        let event = crate::event::samples::all().swap_remove(0);
        let later = Event { wall: WallNs(event.wall.0 + 20 * 3_600_000_000_000), ..event.clone() };
        let (mut out, mut lines) = (Vec::new(), past(TimeZone::fixed(jiff::tz::offset(2))));
        for event in [&event, &event, &later] {
            line(event, &mut lines, &mut out);
        }
        let text = String::from_utf8(out).expect("UTF-8");
        let heads: Vec<&str> = text.lines().map(|line| line.get(..14).unwrap_or(line)).collect();
        let expected =
            ["  --- 2026-11-", "  05:43:41.124", "  05:43:41.124", "  --- 2026-11-", "  01:43:41.124"];
        assert_eq!(heads, expected, "{text}");
        assert!(text.starts_with("  --- 2026-11-24 UTC+02:00 ---\n"), "{text}");
        assert!(text.contains("\n  --- 2026-11-25 UTC+02:00 ---\n"), "{text}");
    }

    #[test]
    fn an_exception_can_be_copied() {
        let hostile = "exe:\"/opt/a\\\\b'\u{202e}\"".to_owned();
        let mut out = Vec::new();
        suppress("a.rule", std::slice::from_ref(&hostile), &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(!text.contains('\u{202e}'), "{text}");
        let (_, toml) = text.split_once('\n').expect("a heading");
        let read: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{error}: {toml}"));
        let except = read["override"][0]["except"].as_str();
        assert_eq!(except, Some(hostile.as_str()));
    }
}
