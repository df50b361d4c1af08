//! Explanations for people.

use jiff::tz::TimeZone;

use super::AboutAlert;
use crate::event::alert::{Covered, Evidence, Phase};
use crate::event::fold::fold;
use crate::event::human;
use crate::event::model::{Event, EventBody};
use crate::event::text::{TextFormatter, TextOptions};
use crate::event::time::TimeOfDay;
use crate::event::words::Words;
use crate::filter::Names;
use crate::learn::write;
use crate::replay::search::AboutEvent;
use crate::rules::alerts::Reported;
use crate::rules::dry_run::Decision;
use crate::rules::explain::{Explanation, exceptions};
use crate::rules::model::Rule;
use crate::rules::trace::text::write as write_trace;
use crate::rules::trace::{RuleTrace, Verdict};
use crate::units::{DurationNs, WallNs};

/// Before lines that belong to the one above.
const INDENT: &[u8] = b"  ";
/// Rules that are shown in the table of an event.
const ROWS_MAX: usize = 12;

/// Lines in the making.
struct Page {
    lines: Vec<u8>,
    /// Columns of the terminal; `None`: nothing is folded.
    width: Option<usize>,
}

impl Page {
    const fn new(width: Option<usize>) -> Self {
        Self { lines: Vec::new(), width }
    }

    /// Appends whole lines, folded.
    fn fold(&mut self, lines: &[u8]) {
        fold(&String::from_utf8_lossy(lines), self.width, &mut self.lines);
    }
}

fn say(page: &mut Page, text: &str) {
    page.fold(format!("{text}\n").as_bytes());
}

/// Text of others, escaped, behind a heading.
fn about(page: &mut Page, name: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    let mut line = format!("{name:<8}  ").into_bytes();
    crate::event::escape::text(text.as_bytes(), &mut line);
    line.push(b'\n');
    page.fold(&line);
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

fn line(event: &Event, lines: &mut TextFormatter, page: &mut Page) {
    // Here the arguments of an exec are not cut.
    let is_whole = matches!(event.body, EventBody::Exec(_));
    lines.set_width(page.width.filter(|_| !is_whole).map(|width| width.saturating_sub(INDENT.len())));
    let mut text = Vec::new();
    lines.format(event, &mut text);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        page.fold(&[INDENT, line].concat());
    }
}

fn rule(rule: &Rule, page: &mut Page) {
    about(page, "rule", &format!("{}: {}", rule.about.id, rule.about.title));
    about(page, "why", &rule.advice.why);
    about(page, "tune", &rule.advice.tune);
}

fn facts(evidence: &[Evidence], page: &mut Page) {
    if evidence.is_empty() {
        return;
    }
    let mut words = Words::default();
    for one in evidence {
        words.text("  ");
        words.evidence_one(one);
    }
    words.bytes.push(b'\n');
    page.fold(&words.bytes);
}

fn decision(decision: &Decision, is_asked: bool, page: &mut Page) {
    say(
        page,
        if is_asked { "what the rule decides" } else { "what it would decide if its filters let it pass" },
    );
    say(page, &format!("  {}", decision.says));
    facts(&decision.facts, page);
}

fn reported(reported: Option<Reported>, page: &mut Page) {
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
        page,
        &format!(
            "  the same was reported as a{} {} ago: {so}{counted}",
            reported.id.0,
            duration(reported.ago)
        ),
    );
}

fn trace(of: &RuleTrace, page: &mut Page) {
    let mut lines = Vec::new();
    write_trace(of, &mut lines);
    page.fold(&lines);
}

fn explanation(of: &Explanation, page: &mut Page) {
    trace(&of.trace, page);
    if let Some(own) = &of.decision {
        say(page, "");
        decision(own, of.is_asked(), page);
    }
    reported(of.reported, page);
}

/// What an exception to write is, and others.
fn suppress(rule: &str, exceptions: &[String], page: &mut Page) {
    let Some((first, others)) = exceptions.split_first() else {
        return say(page, "no exception can suppress it: change or disable the rule");
    };
    say(
        page,
        "an exception that suppresses it, for a file of your rules (use = \"defaults\" for built-in ones)",
    );
    // It is TOML, which is harmless as it is: to escape it or to fold it would change what it says.
    let room = page.width.map(|width| width.saturating_sub(INDENT.len()));
    for line in write::exception(rule, first, room).lines() {
        page.lines.extend_from_slice(INDENT);
        page.lines.extend_from_slice(line.as_bytes());
        page.lines.push(b'\n');
    }
    if !others.is_empty() {
        say(page, "others that hold for it, too");
        for other in others {
            let mut line = INDENT.to_vec();
            crate::event::escape::text(other.as_bytes(), &mut line);
            line.push(b'\n');
            page.fold(&line);
        }
    }
}

/// An event and one rule, in full.
pub(super) fn event_and_rule(
    event: &Event,
    found: &AboutEvent,
    names: &Names,
    width: Option<usize>,
) -> Vec<u8> {
    let mut out = Page::new(width);
    line(event, &mut past(TimeZone::system()), &mut out);
    for of in &found.explanations {
        say(&mut out, "");
        rule(&of.rule, &mut out);
        say(&mut out, "");
        explanation(of, &mut out);
        say(&mut out, "");
        let own = found.alerts.iter().find(|(_, alert)| alert.rule.id == of.rule.about.id);
        say(&mut out, &outcome(of, own.map(|(name, alert)| (name.as_str(), alert.phase))));
        if let Some((_, alert)) = own {
            let suppressing = exceptions(event, alert.suppress.as_deref(), names);
            suppress(&of.rule.about.id, &suppressing, &mut out);
        }
    }
    out.lines
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
pub(super) fn event(event: &Event, found: &AboutEvent, width: Option<usize>) -> Vec<u8> {
    let mut out = Page::new(width);
    line(event, &mut past(TimeZone::system()), &mut out);
    say(&mut out, "");
    for (name, alert) in &found.alerts {
        let id = name.rsplit('-').next().unwrap_or(name);
        say(&mut out, &format!("reported: {id} {}", alert.rule.id));
    }
    if found.alerts.is_empty() {
        say(&mut out, "nothing was reported at this event");
    }
    say(&mut out, "");
    let mut sorted: Vec<&Explanation> = found.explanations.iter().collect();
    sorted.sort_by_key(|of| of.distance());
    let looked: Vec<&Explanation> = sorted.iter().copied().filter(|of| of.trace.is_looked_at()).collect();
    let widest = looked.iter().take(ROWS_MAX).map(|of| of.rule.about.id.len()).max().unwrap_or(0);
    if !looked.is_empty() {
        say(&mut out, "the rules that look at such an event, the nearest first");
    }
    for of in looked.iter().take(ROWS_MAX) {
        let mut line = format!("  {:widest$}  ", of.rule.about.id).into_bytes();
        of.write_why_not(&mut line);
        line.push(b'\n');
        out.fold(&line);
    }
    if looked.len() > ROWS_MAX {
        say(&mut out, &format!("  and {} more", looked.len() - ROWS_MAX));
    }
    let others = sorted.len() - looked.len();
    if others > 0 {
        say(&mut out, &format!("{others} more rules do not look at such an event"));
    }
    out.lines
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
pub(super) fn alert(of: &AboutAlert<'_>, only_alerts: bool, width: Option<usize>) -> Vec<u8> {
    let (mut out, mut lines) = (Page::new(width), past(TimeZone::system()));
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
            about(&mut out, "at", &time(line.wall));
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
    say(&mut out, "");
    match (of.given.and_then(|given| given.explanation.as_ref()), &of.trace) {
        (Some(own), _) => explanation(own, &mut out),
        (None, Some(own)) => {
            trace(own, &mut out);
            say(
                &mut out,
                "what the rule remembered is not in an alert; a recording has it (conn tail --record)",
            );
        }
        (None, None) => {
            say(&mut out, "it is about something that is not there: no event has words to explain");
        }
    }
    say(&mut out, "");
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
    say(&mut out, "");
    let rule = of.rule.map(|rule| &*rule.about.id).or(of.recorded.map(|line| line.rule.as_str()));
    suppress(rule.unwrap_or_default(), &of.exceptions, &mut out);
    out.lines
}

fn name_of(line: &crate::event::read::AlertLine) -> &'static str {
    use crate::event::names::Named as _;
    line.severity.name()
}

/// A JSON object of the line, as it is.
fn recorded(value: &serde_json::Value, page: &mut Page) {
    let mut line = INDENT.to_vec();
    crate::event::escape::text(value.to_string().as_bytes(), &mut line);
    line.push(b'\n');
    page.fold(&line);
}

/// The date, the time and the zone of an instant.
fn time(wall: WallNs) -> String {
    let (mut time, mut text) = (TimeOfDay::new(TimeZone::system()), Vec::new());
    let day = time.day(wall).map(|day| day.to_string()).unwrap_or_default();
    time.write(wall, 3, &mut text);
    let (date, zone) = day.split_once(' ').unwrap_or((&day, ""));
    format!("{date} {} {zone}", String::from_utf8_lossy(&text)).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording may be of any day.
    #[test]
    fn an_event_has_date_and_zone() {
        let event = crate::event::samples::all().swap_remove(0);
        let later = Event { wall: WallNs(event.wall.0 + 20 * 3_600_000_000_000), ..event.clone() };
        let (mut page, mut lines) = (Page::new(None), past(TimeZone::fixed(jiff::tz::offset(2))));
        for event in [&event, &event, &later] {
            line(event, &mut lines, &mut page);
        }
        let text = String::from_utf8(page.lines).expect("UTF-8");
        let heads: Vec<&str> = text.lines().map(|line| line.get(..14).unwrap_or(line)).collect();
        let expected =
            ["  --- 2026-11-", "  05:43:41.124", "  05:43:41.124", "  --- 2026-11-", "  01:43:41.124"];
        assert_eq!(heads, expected, "{text}");
        assert!(text.starts_with("  --- 2026-11-24 UTC+02:00 ---\n"), "{text}");
        assert!(text.contains("\n  --- 2026-11-25 UTC+02:00 ---\n"), "{text}");
    }

    #[test]
    fn an_exception_can_be_copied() {
        let hostile = "exe:\"/opt/a\\\\b'\u{202e}\" dport:443 user:root raddr:203.0.113.7".to_owned();
        for width in [None, Some(60)] {
            let mut page = Page::new(width);
            suppress("a.rule", std::slice::from_ref(&hostile), &mut page);
            let text = String::from_utf8(page.lines).expect("UTF-8");
            assert!(!text.contains('\u{202e}'), "{text}");
            let at = text.find("  [[override]]").expect("an override");
            let toml = &text[at..];
            let read: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{error}: {toml}"));
            let except = read["override"][0]["except"].as_str();
            assert_eq!(except, Some(hostile.as_str()));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(width.is_none_or(|width| widest <= Some(width)), "{text}");
        }
    }

    /// Every event, and the lines about a rule, on a narrow terminal: only a word alone may be wider.
    #[test]
    fn no_line_is_wider_than_the_terminal() {
        const WIDTH: usize = 80;
        let (mut page, mut lines) = (Page::new(Some(WIDTH)), past(TimeZone::UTC));
        for event in crate::event::samples::all() {
            line(&event, &mut lines, &mut page);
        }
        for own in
            crate::rules::defaults::set(&crate::rules::host::Host::default()).expect("built-in rules").rules
        {
            rule(&own, &mut page);
        }
        let text = String::from_utf8(page.lines).expect("UTF-8");
        for line in text.lines() {
            let is_word = line.trim_start().split(' ').filter(|word| !word.is_empty()).count() <= 2;
            assert!(line.chars().count() <= WIDTH || is_word, "{line}");
        }
    }
}
