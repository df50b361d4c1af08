//! A recording replayed to one of its moments: to an alert, or to an event, and what the rules made of it.
//!
//! An alert is known only once it is reported, and its rule is to be asked before: the recording is replayed twice, the second
//! time up to the moment that the first one found. Both replays are the same.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::file::{Recording, RecordingError};
use super::{Moment, Replay};
use crate::event::alert::{Alert, AlertId, Phase, Subject};
use crate::event::json::StreamIdentity;
use crate::event::model::{Event, EventBody};
use crate::event::read::{AlertLine, Reader, Recorded};
use crate::rules::detector::Flows;
use crate::rules::explain::{Explanation, as_event};
use crate::rules::{Engine, RuleSet};
use crate::units::{BootNs, WallNs};

/// Most bytes of standard input: it is kept, to be read twice.
const INPUT_MAX: u64 = 256 << 20;
/// Most alerts of a recording among which one is looked for.
const ALERTS_MAX: usize = 65_536;

/// Why nothing can be searched.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Standard input cannot be read.
    #[error("reading standard input: {0}")]
    Input(#[from] io::Error),
    /// Standard input is too long.
    #[error("standard input has more than {} MB: save the recording to a file", INPUT_MAX >> 20)]
    TooLong,
}

/// Recordings that can be read more than once.
#[derive(Debug)]
pub struct Sources(Vec<Source>);

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Input(Arc<[u8]>),
}

impl Sources {
    /// Of these files; `-` is standard input, which is read now.
    ///
    /// # Errors
    /// When standard input cannot be read, or is too long.
    pub fn new(files: &[PathBuf]) -> Result<Self, SearchError> {
        let source = |file: &PathBuf| {
            if file != Path::new("-") {
                return Ok(Source::File(file.clone()));
            }
            let mut bytes = Vec::new();
            io::stdin().take(INPUT_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > INPUT_MAX {
                return Err(SearchError::TooLong);
            }
            Ok(Source::Input(bytes.into()))
        };
        Ok(Self(files.iter().map(source).collect::<Result<_, _>>()?))
    }

    /// Of these lines.
    pub fn of_lines(lines: Vec<u8>) -> Self {
        Self(vec![Source::Input(lines.into())])
    }

    fn open(&self) -> impl Iterator<Item = Result<Recording, RecordingError>> {
        self.0.iter().map(|source| match source {
            Source::File(file) => Recording::open(file),
            Source::Input(bytes) => {
                Ok(Recording::new("standard input".to_owned(), Cursor::new(Arc::clone(bytes))))
            }
        })
    }
}

/// Which alert is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `a7`.
    Id(AlertId),
    /// `752b100f-539cace2690-a7`.
    Name(String),
    /// The number of its line.
    Seq(u64),
    /// The only one.
    Only,
}

impl Ask {
    /// Reads what people write; `None`: it is no id.
    pub fn read(text: &str) -> Option<Self> {
        let id = |text: &str| text.strip_prefix('a')?.parse().ok().map(AlertId);
        if let Ok(seq) = text.parse() {
            return Some(Self::Seq(seq));
        }
        id(text).map(Self::Id).or_else(|| {
            let (_, last) = text.rsplit_once('-')?;
            id(last).map(|_| Self::Name(text.to_owned()))
        })
    }

    fn is(&self, seq: u64, id: AlertId, name: &str) -> bool {
        match self {
            Self::Id(own) => *own == id,
            Self::Name(own) => own == name,
            Self::Seq(own) => *own == seq,
            Self::Only => true,
        }
    }
}

/// An alert that a replay gave.
#[derive(Clone, Debug)]
pub struct Given {
    /// The alert when it was raised.
    pub alert: Alert,
    /// The wall clock's time of that.
    pub wall: WallNs,
    /// Its id in full.
    pub name: String,
    /// The event that it is about, as its rule looked at it; `None`: an absence.
    pub event: Option<Event>,
    /// What the rule made of that, asked before; `None`: it was reported what was there at the start.
    pub explanation: Option<Explanation>,
    /// What came of it later: worse, over.
    pub steps: Vec<Alert>,
    run: u64,
    seq: u64,
    moment: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The alert that the rules give.
    pub given: Option<Given>,
    /// The alert of the recording: its first step that is there.
    pub recorded: Option<AlertLine>,
    /// The input has alerts and no events.
    pub only_alerts: bool,
    /// Ids of alerts that there are, at most some, for who asked for another.
    pub known: Vec<String>,
    /// Alerts that the search did not keep: limit reached.
    pub not_kept: u64,
}

/// What the rules make of an event.
#[derive(Debug, Default)]
pub struct AboutEvent {
    /// The event.
    pub event: Option<Event>,
    /// What each rule that was asked for makes of it.
    pub explanations: Vec<Explanation>,
    /// The alerts that were reported with it, by their ids in full.
    pub alerts: Vec<(String, Alert)>,
    /// More events of this number, of other runs of the agent.
    pub others: u64,
    /// The number is an alert's.
    pub is_alert: bool,
    /// The lowest and the highest number of events.
    pub range: Option<(u64, u64)>,
}

/// One replay: who watches it, what it reports, and the lines that it reads.
fn pass(
    sources: &Sources,
    mut replay: Replay<'_>,
    mut emit: impl FnMut(&Event, u64, &str),
    mut line: impl FnMut(&Recorded, &[u8], &mut Reader),
) -> Result<(), RecordingError> {
    let mut reader = Reader::default();
    let (mut runs, mut run) = (0, String::new());
    for recording in sources.open() {
        let mut recording = recording?;
        while let Some(recorded) = recording.next(&mut reader)? {
            if reader.runs() != runs {
                replay.end_run(&mut |event| emit(event, runs, &run));
                runs = reader.runs();
            }
            if let Some(stream) = reader.stream() {
                run = run_of(stream);
            }
            line(&recorded, recording.line(), &mut reader);
            replay.take(recorded, reader.take_news(), &mut |event| emit(event, runs, &run));
        }
    }
    replay.end_run(&mut |event| emit(event, runs, &run));
    Ok(())
}

fn run_of(stream: &StreamIdentity) -> String {
    format!("{}-{:x}", stream.boot8(), stream.agent_start.0)
}

fn alert_of(event: &Event) -> Option<&Alert> {
    match &event.body {
        EventBody::Alert(alert) => Some(alert),
        _ => None,
    }
}

/// Looks for an alert.
///
/// If the recording has an alert of that id, it is that one, and what the rules give for it is what has the same rule and
/// subject, nearest in time. Otherwise it is the alert that has this id in the replay.
///
/// # Errors
/// When a recording cannot be read.
pub fn alert(sources: &Sources, rules: &RuleSet, ask: &Ask) -> Result<Found, SearchError> {
    let mut found = Found::default();
    let (mut given, mut recorded) = (Vec::<Given>::new(), Vec::<(u64, AlertLine)>::new());
    let (mut events, mut not_kept) = (0_u64, 0);
    let moments = Cell::new(0_u64);
    let judged = RefCell::new(None::<Event>);
    let watch = Box::new(|moment: Moment<'_>, _: BootNs, _: &Engine, _: &dyn Flows| {
        moments.set(moments.get() + 1);
        *judged.borrow_mut() = match moment {
            Moment::Event(event) => Some(event.clone()),
            Moment::Start | Moment::Timer => None,
        };
    });
    let emit = |event: &Event, run: u64, name: &str| {
        let Some(alert) = alert_of(event) else { return };
        if alert.phase != Phase::Raised {
            let first = given.iter_mut().rev().find(|one| one.run == run && one.alert.id == alert.id);
            if let Some(first) = first {
                first.steps.push(alert.clone());
            }
            return;
        }
        if given.len() >= ALERTS_MAX {
            not_kept += 1;
            return;
        }
        let own = judged.borrow().clone().filter(|own| is_about(own, &alert.subject));
        let rule = rules.rules.iter().find(|rule| rule.about.id == alert.rule.id);
        let as_seen = || as_event(rule?, &alert.subject, None, event.boot, event.wall);
        given.push(Given {
            alert: alert.clone(),
            wall: event.wall,
            name: format!("{name}-a{}", alert.id.0),
            event: own.or_else(as_seen),
            explanation: None,
            steps: Vec::new(),
            run,
            seq: event.seq,
            moment: moments.get(),
        });
    };
    let line = |read: &Recorded, text: &[u8], reader: &mut Reader| match read {
        Recorded::Event(_) => events += 1,
        Recorded::Alert(_) => {
            let alert = str::from_utf8(text).ok().and_then(|text| reader.read_alert(text).ok().flatten());
            if let Some(alert) = alert.filter(|_| recorded.len() < ALERTS_MAX) {
                recorded.push((reader.runs(), alert));
            }
        }
        Recorded::Time(_) | Recorded::Facts(..) | Recorded::Sample(..) => {}
    };
    pass(sources, Replay::new(rules).watched(watch), emit, line)?;
    found.only_alerts = events == 0;
    found.not_kept = not_kept;
    found.known = known(&recorded, &given);
    let of_recording = recorded.iter().position(|(_, line)| ask.is(line.seq, line.id, &line.name));
    let is_one = |found: &Found| *ask != Ask::Only || found.known.len() == 1;
    if !is_one(&found) {
        return Ok(found);
    }
    let place = match of_recording.and_then(|at| recorded.get(at)) {
        Some((run, line)) => {
            found.recorded = Some(line.clone());
            nearest(&given, *run, line)
        }
        None => given.iter().position(|one| ask.is(one.seq, one.alert.id, &one.name)),
    };
    let Some(mut one) = place.map(|place| given.swap_remove(place)) else { return Ok(found) };
    if let Some(event) = &one.event {
        one.explanation = explained(sources, rules, &one, event)?;
    }
    found.given = Some(one);
    Ok(found)
}

/// What the rule made of the event, asked before the moment of the alert.
fn explained(
    sources: &Sources,
    rules: &RuleSet,
    given: &Given,
    event: &Event,
) -> Result<Option<Explanation>, RecordingError> {
    let (moments, explanation) = (Cell::new(0_u64), RefCell::new(None));
    let watch = Box::new(|_: Moment<'_>, at: BootNs, engine: &Engine, flows: &dyn Flows| {
        moments.set(moments.get() + 1);
        if moments.get() == given.moment {
            *explanation.borrow_mut() = engine.explain(event, at, &given.alert.rule.id, flows);
        }
    });
    pass(sources, Replay::new(rules).watched(watch), |_, _, _| {}, |_, _, _| {})?;
    Ok(explanation.into_inner())
}

/// The alert of the replay that is the one of the line.
fn nearest(given: &[Given], run: u64, line: &AlertLine) -> Option<usize> {
    let same = |one: &Given| {
        one.run == run && *one.alert.rule.id == *line.rule && is_same(&one.alert.subject, &line.subject)
    };
    let alike = given.iter().enumerate().filter(|(_, one)| same(one));
    alike.min_by_key(|(_, one)| one.alert.at.0.abs_diff(line.at.0)).map(|(place, _)| place)
}

fn is_same(one: &Subject, other: &Subject) -> bool {
    match (one, other) {
        (Subject::Connection(one), Subject::Connection(other)) => one.id == other.id,
        (Subject::Listener(one), Subject::Listener(other)) => one.id == other.id,
        (Subject::Process(one), Subject::Process(other)) => one.is_same(other),
        (Subject::Absence, Subject::Absence) => true,
        _ => false,
    }
}

/// Whether an event that was judged is what the alert is about: others raise alerts by the way.
fn is_about(event: &Event, subject: &Subject) -> bool {
    use crate::rules::detector::{connection, listener};
    match (&event.body, subject) {
        (EventBody::Exec(exec), Subject::Connection(conn)) => {
            [&exec.stdio, &exec.parent_stdio].into_iter().flatten().any(|own| own.id == conn.id)
        }
        (EventBody::Exec(exec), Subject::Process(process)) => exec.process.is_same(process),
        (_, Subject::Connection(conn)) => connection(event).is_some_and(|own| own.id == conn.id),
        (_, Subject::Listener(of)) => listener(event).is_some_and(|own| own.id == of.id),
        _ => false,
    }
}

fn known(recorded: &[(u64, AlertLine)], given: &[Given]) -> Vec<String> {
    let mut known = Vec::new();
    let names = recorded.iter().map(|(_, line)| &line.name).chain(given.iter().map(|one| &one.name));
    for name in names {
        if !known.contains(name) && known.len() < 64 {
            known.push(name.clone());
        }
    }
    known
}

/// Looks for the event of this number, and asks the rules of it: the one of this id, or all.
///
/// # Errors
/// When a recording cannot be read.
pub fn event(
    sources: &Sources,
    rules: &RuleSet,
    seq: u64,
    rule: Option<&str>,
) -> Result<AboutEvent, SearchError> {
    let found = RefCell::new(AboutEvent::default());
    let is_now = Cell::new(false);
    let watch = Box::new(|moment: Moment<'_>, at: BootNs, engine: &Engine, flows: &dyn Flows| {
        let mut found = found.borrow_mut();
        is_now.set(false);
        let Moment::Event(event) = moment else { return };
        let (low, high) = found.range.unwrap_or((event.seq, event.seq));
        found.range = Some((low.min(event.seq), high.max(event.seq)));
        if event.seq != seq {
            return;
        }
        if found.event.is_some() {
            found.others += 1;
            return;
        }
        is_now.set(true);
        found.event = Some(event.clone());
        let asked =
            rules.rules.iter().map(|one| &*one.about.id).filter(|id| rule.is_none_or(|rule| rule == *id));
        found.explanations = asked.filter_map(|id| engine.explain(event, at, id, flows)).collect();
    });
    let emit = |event: &Event, _: u64, name: &str| {
        if let Some(alert) = alert_of(event).filter(|_| is_now.get()) {
            found.borrow_mut().alerts.push((format!("{name}-a{}", alert.id.0), alert.clone()));
        }
    };
    let line = |read: &Recorded, text: &[u8], reader: &mut Reader| {
        if let (Recorded::Alert(_), Ok(text)) = (read, str::from_utf8(text))
            && let Ok(Some(alert)) = reader.read_alert(text)
        {
            found.borrow_mut().is_alert |= alert.seq == seq;
        }
    };
    pass(sources, Replay::new(rules).watched(watch), emit, line)?;
    let found = found.into_inner();
    Ok(found)
}
