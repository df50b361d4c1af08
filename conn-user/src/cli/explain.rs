//! `conn explain`: why a rule reported an event, or did not, and which exception suppresses it.

mod asked;
mod json;
mod text;

use anyhow::Context as _;

use super::args::{Exit, ExplainArgs};
use super::{emit, machine, note};
use crate::event::alert::Alert;
use crate::event::model::Event;
use crate::event::read::AlertLine;
use crate::filter::suggest::nearest;
use crate::replay::search::{self, AboutEvent, Ask, Found, Sources};
use crate::rules::RuleSet;
use crate::rules::explain::{as_event, exceptions};
use crate::rules::model::Rule;
use crate::rules::trace::RuleTrace;

/// What is said of an alert.
struct AboutAlert<'a> {
    /// Its id in full.
    name: &'a str,
    /// The rule that is active under its id; `None`: there is none any more.
    rule: Option<&'a Rule>,
    /// The alert that the rules give.
    given: Option<&'a search::Given>,
    /// The alert of the input.
    recorded: Option<&'a AlertLine>,
    /// The event that the rule looked at, or as much of it as the alert reports.
    event: Option<Event>,
    /// What the filters say of that.
    trace: Option<RuleTrace>,
    /// Exceptions that hold for it, the smallest first.
    exceptions: Vec<String>,
}

/// Runs `conn explain`. This needs no privileges.
///
/// # Errors
/// When a recording cannot be read, there is no such alert, event or rule, or the output cannot be written.
pub fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let of_agent = args.of_agent();
    if args.files.is_empty() && of_agent.is_none() {
        emit("name a recording, or an alert of the running agent: conn explain FILE, conn explain a7");
        return Ok(Exit::Usage);
    }
    let ask = match args.alert.as_deref().or(of_agent).map(|text| (text, Ask::read(text))) {
        Some((text, None)) => {
            let shown = text.escape_debug();
            emit(format_args!(
                "`{shown}` is no id of an alert: it is a7, 752b100f-539cace2690-a7, or the number of its line"
            ));
            return Ok(Exit::Usage);
        }
        Some((_, Some(ask))) => ask,
        None => Ask::Only,
    };
    // Many have this number, and what the rules knew before them is nothing.
    if args.event == Some(0) {
        emit(
            "what was there at the start has no number of its own (seq 0), and no rule remembers anything before it: if one reported \
             of it, --alert ID explains that; what rules make of it a test can show, with `existing` (docs/tests.md)",
        );
        return Ok(Exit::Error);
    }
    let asked = match of_agent.map(|id| asked::agent(id, args)) {
        Some(Ok(asked)) => Some(asked),
        Some(Err(exit)) => return Ok(exit),
        None => None,
    };
    let (rules, lines) = match asked {
        Some((rules, lines)) => (Ok(rules), Some(lines)),
        None => (args.choice().load(), None),
    };
    let rules = match rules {
        Ok(Some(rules)) => rules,
        Ok(None) => return Ok(Exit::Done),
        Err(exit) => return Ok(exit),
    };
    if let Some(id) = &args.rule
        && !rules.rules.iter().any(|rule| *rule.about.id == **id)
    {
        let near = nearest(id, rules.rules.iter().map(|rule| &*rule.about.id));
        let help = near.map_or_else(
            || "`conn check --defaults` prints the built-in ones".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        emit(format_args!("no active rule `{}`; {help}", id.escape_debug()));
        return Ok(Exit::Error);
    }
    let sources = match lines {
        Some(lines) => Sources::of_lines(lines),
        None => Sources::new(&args.files)?,
    };
    match args.event {
        Some(seq) => {
            let found = search::event(&sources, &rules, seq, args.rule.as_deref())?;
            event(args, &rules, seq, &found)
        }
        None => {
            let found = search::alert(&sources, &rules, &ask)?;
            alert(args, &rules, &ask, &found)
        }
    }
}

fn event(args: &ExplainArgs, rules: &RuleSet, seq: u64, found: &AboutEvent) -> anyhow::Result<Exit> {
    let Some(event) = &found.event else {
        emit(match (found.is_alert, found.range) {
            (true, _) => format!("the line {seq} is an alert: --alert {seq} explains it"),
            (false, Some((low, high))) => {
                format!("there is no event {seq}; they have the numbers (seq) {low} to {high}")
            }
            (false, None) => format!("there is no event {seq}, and no other"),
        });
        return Ok(Exit::Error);
    };
    if found.others > 0 {
        note(format_args!("{} more events have this number, of other runs; this is the first", found.others));
    }
    let out = match (args.json, args.rule.is_some()) {
        (true, _) => json::event(event, found, &rules.names).context("writing JSON")?,
        (false, true) => text::event_and_rule(event, found, &rules.names, machine::terminal_width()),
        (false, false) => text::event(event, found, machine::terminal_width()),
    };
    super::print(&out)
}

fn alert(args: &ExplainArgs, rules: &RuleSet, ask: &Ask, found: &Found) -> anyhow::Result<Exit> {
    if found.not_kept > 0 {
        note(format_args!("{} alerts were not looked at: limit reached", found.not_kept));
    }
    let Some(about) = about(rules, found) else {
        emit(not_found(args, ask, found));
        return Ok(Exit::Error);
    };
    let out = if args.json {
        json::alert(&about).context("writing JSON")?
    } else {
        text::alert(&about, found.only_alerts, machine::terminal_width())
    };
    super::print(&out)
}

fn about<'a>(rules: &'a RuleSet, found: &'a Found) -> Option<AboutAlert<'a>> {
    let (given, recorded) = (found.given.as_ref(), found.recorded.as_ref());
    let id: &str = match (given, recorded) {
        (Some(given), _) => &given.alert.rule.id,
        (None, Some(line)) => &line.rule,
        (None, None) => return None,
    };
    let rule = rules.rules.iter().find(|rule| *rule.about.id == *id).map(|rule| &**rule);
    let event = match (given, recorded, rule) {
        (Some(given), ..) => given.event.clone(),
        (None, Some(line), Some(rule)) => {
            as_event(rule, &line.subject, line.started.as_ref(), line.at, line.wall)
        }
        _ => None,
    };
    let trace = match (given.and_then(|given| given.explanation.as_ref()), &event, rule) {
        (Some(explanation), ..) => Some(explanation.trace.clone()),
        (None, Some(event), Some(rule)) => Some(rule.trace(event, &rules.names)),
        _ => None,
    };
    let suppress = match (given, recorded) {
        (Some(given), _) => given.alert.suppress.as_deref(),
        (None, Some(line)) => line.suppress.as_deref(),
        (None, None) => None,
    };
    let exceptions = event.as_ref().map_or_else(Vec::new, |event| exceptions(event, suppress, &rules.names));
    let name = given.map(|given| given.name.as_str()).or(recorded.map(|line| line.name.as_str()))?;
    Some(AboutAlert { name, rule, given, recorded, event, trace, exceptions })
}

impl AboutAlert<'_> {
    fn alert(&self) -> Option<&Alert> {
        self.given.map(|given| &given.alert)
    }
}

fn not_found(args: &ExplainArgs, ask: &Ask, found: &Found) -> String {
    let short = |name: &String| name.rsplit_once('-').map_or(name.clone(), |(_, id)| id.to_owned());
    let few: Vec<String> = found.known.iter().take(12).map(short).collect();
    let more = if found.known.len() > few.len() { ", …" } else { "" };
    let known = format!("{}{more}", few.join(", "));
    match (ask, found.known.len()) {
        (_, 0) => "there is no alert: neither has the input one, nor do the rules give one; \
                   --event SEQ says what they made of an event"
            .to_owned(),
        (Ask::Only, _) => format!("which alert? --alert takes one of {known}"),
        _ => {
            let asked = args.alert.as_deref().unwrap_or_default();
            let near = nearest(asked, found.known.iter().map(String::as_str));
            let near =
                near.map_or_else(String::new, |near| format!("did you mean `{}`? ", near.escape_debug()));
            format!("there is no alert `{}`; {near}there are {known}", asked.escape_debug())
        }
    }
}
