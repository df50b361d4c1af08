//! Why a rule reported something or did not: what its filters say of each event that it looks at.

use std::fmt::Write as _;

use super::format::duration;
use super::run::{Happened, Ran, since_begin};
use crate::event::escape;
use crate::filter::Names;
use crate::rules::Engine;
use crate::rules::detector::Triggers;
use crate::rules::model::{Detect, PathRule, ProcessRule, Rule, ServerRule};
use crate::rules::trace::{RuleTrace, Verdict, text};
use crate::units::BootNs;

/// Most events that are shown for a rule.
const EVENTS_MAX: usize = 6;

/// Writes what the filters of this rule gave for each event that it looks at.
pub(super) fn explain(id: &str, ran: &Ran<'_>, names: &Names, out: &mut String) {
    let Some(rule) = ran.engine().into_iter().flat_map(Engine::rules).find(|rule| *rule.about.id == *id)
    else {
        let _ = writeln!(out, "{id} is not active");
        return;
    };
    let looks_at = rule.looks_at();
    let seen = |happened: &&Happened<'_>| Triggers::of_reported(&happened.event).intersect(looks_at);
    let count = ran.trail.iter().filter(seen).count();
    if count == 0 {
        let kinds: Vec<&str> = looks_at.names().collect();
        let _ = writeln!(out, "{id} looks at {}: nothing of that happens in this test", kinds.join(", "));
    } else {
        let _ = writeln!(out, "{id}:");
    }
    for happened in ran.trail.iter().filter(seen).take(EVENTS_MAX) {
        event(rule, happened, names, out);
    }
    if count > EVENTS_MAX {
        let _ = writeln!(out, "  and {} more events that it looks at", count - EVENTS_MAX);
    }
    if let Some(due) = ran.engine().and_then(|engine| engine.next_deadline_of(id)) {
        let now = BootNs(super::world::BEGAN.0.saturating_add(ran.ended.0));
        let _ =
            writeln!(out, "  when the test ended, its next timer was due in {}", duration(due.since(now)));
    }
}

fn event(rule: &Rule, happened: &Happened<'_>, names: &Names, out: &mut String) {
    let trace = rule.trace(&happened.event, names);
    let at = if happened.existing {
        "when conn began".to_owned()
    } else {
        format!("at {}", duration(since_begin(happened.event.boot)))
    };
    let (kind, line) = (happened.event.body.kind().name(), escape::string(happened.step.text.as_bytes()));
    let mut words = Vec::new();
    let filter = match trace.deciding_key() {
        "match" => "match".to_owned(),
        key => format!("`{key}`"),
    };
    // With two filters, one only selects what is remembered.
    let is_remembered = trace.secondary.as_ref().is_some_and(|of| of.raises != trace.by_secondary);
    let says = match trace.verdict {
        Verdict::NotLookedAt => "it does not look at it".to_owned(),
        Verdict::MatchFailed => {
            text::write_words(trace.deciding(), 4, &mut words);
            format!("its {filter} does not hold")
        }
        Verdict::Excepted(at) => format!("its {filter} holds, and so does {}", exception(&trace, at)),
        Verdict::Selected if is_remembered => format!("its {filter} holds: it is remembered"),
        Verdict::Selected => {
            format!("its {filter} holds, and no exception does; {}", question(&rule.detect))
        }
    };
    let _ = writeln!(out, "  {at}, {kind} ({line}): {says}");
    out.push_str(&String::from_utf8_lossy(&words));
}

fn exception(trace: &RuleTrace, at: usize) -> String {
    let filter = trace.except.get(at).map_or("", |except| &except.filter);
    format!("its exception '{}'", escape::string(filter.as_bytes()))
}

/// Returns what decides whether an event that a rule selects raises an alert.
fn question(detect: &Detect) -> String {
    match detect {
        Detect::Path(PathRule::FirstSeen { learn, .. }) => {
            format!("whether it is the first of its sort, and later than {} (learn)", duration(*learn))
        }
        Detect::Path(PathRule::FanOut { limit, window, .. }) => {
            format!("whether there are more than {limit} (limit) in {} (window)", duration(*window))
        }
        Detect::Path(PathRule::Volume { sent, window }) => {
            format!(
                "whether {sent} bytes (sent) go there on it or in {} (window), more than ever",
                duration(*window)
            )
        }
        Detect::Path(PathRule::Beacon { score, at_least, .. }) => {
            format!("whether at least {at_least} are as regular as {score} (score)")
        }
        Detect::Path(PathRule::Unlearned)
        | Detect::Process(ProcessRule::Unlearned)
        | Detect::Server(ServerRule::Unlearned) => "whether the baseline has an entry of it".to_owned(),
        Detect::Path(PathRule::Pivot { .. }) => "whether there was a way in decides".to_owned(),
        Detect::Path(PathRule::Forbidden)
        | Detect::Process(ProcessRule::Network | ProcessRule::Exec)
        | Detect::Server(ServerRule::Listener | ServerRule::Accept) => {
            "it is reported, but once in its throttle".to_owned()
        }
        Detect::Process(ProcessRule::Probe(within)) => {
            format!("whether it stays open for {} (probe) or carries data", duration(*within))
        }
        Detect::Process(ProcessRule::Replaced) => "whether its executable was replaced".to_owned(),
        Detect::Process(ProcessRule::Deleted) => "whether its executable was deleted".to_owned(),
        Detect::Process(ProcessRule::Stdio | ProcessRule::ParentStdio) => {
            "whether the line names a connection (stdio, parent-stdio)".to_owned()
        }
        Detect::Process(ProcessRule::Spawn { .. }) => {
            "whether a process above or beside it has a connection that matches `holds`".to_owned()
        }
        Detect::Server(ServerRule::Takeover | ServerRule::Join | ServerRule::Widened) => {
            "whether another one listens or listened there".to_owned()
        }
        Detect::Long(rule) => {
            let levels: Vec<String> = rule.levels.iter().map(|(level, _)| duration(*level)).collect();
            format!("whether it is open for {} (levels)", levels.join(", "))
        }
        Detect::Missing(_) => "it counts as there".to_owned(),
    }
}
