//! What a run gives: what happened, and the verdict.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::expect::Expectation;
use super::seen::{Connections, Listeners};
use crate::event::address::write_ip;
use crate::event::alert::{Alert, Subject};
use crate::event::errno;
use crate::event::names::Named as _;
use crate::event::words::{Words, direction};
use crate::flow::model::Direction;
use crate::learn::run::{GoodRun, SeenConnection, SeenListener};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::rules::model::Rule;
use crate::units::{DurationNs, WallNs};

/// The program and its arguments, as they were given.
pub type Command = Vec<Box<[u8]>>;

/// How the command ended, as wait(2) has it.
pub type Ended = ExitStatus;

/// Something that a rule found.
#[derive(Clone, Debug)]
pub struct Unexpected {
    /// When, on the wall clock.
    pub wall: WallNs,
    /// The alert as it was raised, with the severity that it came to.
    pub alert: Alert,
}

/// What was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Records that were lost while the command ran, whosever they were; at most so many where the kernel skipped a program.
    pub records: u64,
    /// Processes, connections and listeners that were not followed, and judgements that were not made: limit reached.
    pub not_followed: u64,
}

impl Loss {
    /// What was lost after an earlier count.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            records: self.records.saturating_sub(before.records),
            not_followed: self.not_followed.saturating_sub(before.not_followed),
        }
    }

    /// Whether everything was seen.
    pub const fn is_none(self) -> bool {
        self.records == 0 && self.not_followed == 0
    }
}

/// What a run did, and whether it was expected.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub command: Command,
    /// How it ended.
    pub ended: Ended,
    /// From its start to the end of the run.
    pub took: DurationNs,
    /// How many processes it had.
    pub processes: usize,
    /// What it connected to and accepted.
    pub connections: Vec<Connections>,
    /// Where it listened.
    pub listeners: Vec<Listeners>,
    /// The active rules that are no expectations.
    pub rules: Vec<Arc<Rule>>,
    /// What they found.
    pub unexpected: Vec<Unexpected>,
    /// What they found beyond that.
    pub more_unexpected: u64,
    /// What must happen.
    pub expectations: Vec<Expectation>,
    /// Processes that outlived the command.
    pub survivors: Vec<Arc<ProcessInfo>>,
    /// What was not seen.
    pub loss: Loss,
}

/// What became of the expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There are no rules.
    NotJudged,
    /// All is as expected.
    Passed,
    /// Something unexpected happened, or something is missing.
    Failed,
    /// All that was seen is as expected, but not everything was seen.
    Inconclusive,
}

impl Verdict {
    /// Its name in JSON; `None`: nothing was expected.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::NotJudged => None,
            Self::Passed => Some("passed"),
            Self::Failed => Some("failed"),
            Self::Inconclusive => Some("inconclusive"),
        }
    }
}

impl Report {
    /// Whether there were rules.
    pub fn is_judged(&self) -> bool {
        !self.rules.is_empty() || !self.expectations.is_empty()
    }

    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        if !self.is_judged() {
            Verdict::NotJudged
        } else if !self.unexpected.is_empty() || self.missing().next().is_some() {
            Verdict::Failed
        } else if self.loss.is_none() {
            Verdict::Passed
        } else {
            Verdict::Inconclusive
        }
    }

    /// What did not happen and must.
    pub fn missing(&self) -> impl Iterator<Item = &Expectation> {
        self.expectations.iter().filter(|expectation| !expectation.is_met())
    }

    /// The exit code: the command's own if that is not 0, as a shell gives it, else `failed` unless all is as expected.
    /// `allow_loss`: what was not seen is taken to be as expected.
    pub fn exit_code(&self, allow_loss: bool, failed: u8) -> u8 {
        match (self.ended, self.verdict()) {
            (ExitStatus::Signal(signal), _) => 128_u8.saturating_add(signal),
            (ExitStatus::Code(0), Verdict::Failed) => failed,
            (ExitStatus::Code(0), Verdict::Inconclusive) if !allow_loss => failed,
            (ExitStatus::Code(code), _) => code,
        }
    }
}

impl Unexpected {
    /// What it is about, in a line: who, and which connection or listener.
    pub fn what(&self) -> String {
        self.line(true)
    }

    /// What it is about, in a line, without what differs from run to run: process ids, and ports that the
    /// kernel chose for a connection.
    pub fn summary(&self) -> String {
        self.line(false)
    }

    fn line(&self, of_this_run: bool) -> String {
        let mut line = Words::default();
        match self.alert.subject.process() {
            Some(process) if of_this_run => who(process, &mut line),
            Some(process) => line.word(process.exe.as_deref().unwrap_or(&process.comm)),
            None => {}
        }
        match &self.alert.subject {
            Subject::Connection(conn) if of_this_run => {
                line.text(" ");
                line.text(direction(Some(conn.direction)));
                line.text(" ");
                line.end(conn.local);
                line.text(if conn.direction == Direction::In { " <- " } else { " -> " });
                line.end(conn.remote);
            }
            Subject::Connection(conn) if conn.direction == Direction::In => {
                line.text(" accepted at port ");
                line.number(conn.local.port());
                line.text(" from ");
                line.with(|out| write_ip(conn.remote.ip(), out));
            }
            Subject::Connection(conn) => {
                line.text(" connected to ");
                line.end(conn.remote);
            }
            Subject::Listener(listener) => {
                line.text(" listens on ");
                line.end(listener.local);
            }
            Subject::Process(_) | Subject::Absence => {}
        }
        text_of(&line)
    }

    /// The rule that found it, in a line, and what suppresses it.
    pub fn rule(&self) -> String {
        let alert = &self.alert;
        let mut line = Words::default();
        line.text("rule ");
        line.word(alert.rule.id.as_bytes());
        line.text(", ");
        line.text(alert.severity.name());
        line.text(": ");
        line.word(alert.rule.title.as_bytes());
        text_of(&line)
    }
}

impl Expectation {
    /// What is expected and how much of it was there, in a line.
    pub fn what(&self) -> String {
        let what = if self.of_listeners { "listener" } else { "connection" };
        let mut line = Words::default();
        line.text(what);
        line.text(" ");
        line.word(self.rule.matches.to_string().as_bytes());
        for except in &self.rule.except {
            line.text(" except ");
            line.word(except.to_string().as_bytes());
        }
        line.text(": ");
        line.number(self.seen);
        line.text(" of ");
        line.number(self.least);
        if let Some(errno) = self.errno {
            line.text(", ");
            line.number(self.failed);
            line.text(if self.failed == 1 { " attempt failed (" } else { " attempts failed (" });
            line.text(&error(errno));
            line.text(")");
        }
        text_of(&line)
    }

    /// The rule, in a line.
    pub fn rule_line(&self) -> String {
        let mut line = Words::default();
        line.text("rule ");
        line.word(self.rule.about.id.as_bytes());
        line.text(": ");
        line.word(self.rule.about.title.as_bytes());
        text_of(&line)
    }
}

/// The name of an error of a connection.
pub(super) fn error(errno: u16) -> String {
    match errno {
        0 => "cancelled".to_owned(),
        number => errno::name(number).map_or_else(|| format!("errno {number}"), str::to_owned),
    }
}

/// `path[pid]`, escaped.
pub(super) fn who(process: &ProcessInfo, line: &mut Words) {
    line.word(process.exe.as_deref().unwrap_or(&process.comm));
    line.text("[");
    line.number(process.pid.0);
    line.text("]");
}

pub(super) fn text_of(words: &Words) -> String {
    String::from_utf8_lossy(&words.bytes).into_owned()
}

impl Report {
    /// The command with its arguments, in a line.
    pub fn command_line(&self) -> String {
        let mut line = Words::default();
        for (at, word) in self.command.iter().enumerate() {
            if at > 0 {
                line.text(" ");
            }
            line.word(word);
        }
        text_of(&line)
    }

    /// What is to be learnt from it. `ephemeral`: ports that the kernel chooses.
    pub fn good_run(&self, ephemeral: RangeInclusive<u16>) -> GoodRun {
        let connections = self.connections.iter().map(|row| SeenConnection {
            program: row.path.program.filter.clone(),
            direction: row.path.direction,
            remote: row.path.remote,
            port: row.path.port,
            count: row.count,
            established: row.established > 0,
        });
        let listeners = self.listeners.iter().map(|row| SeenListener {
            program: row.program.filter.clone(),
            local: row.local.ip(),
            port: row.local.port(),
            count: row.count,
        });
        GoodRun {
            command: self.command_line(),
            connections: connections.collect(),
            listeners: listeners.collect(),
            ephemeral,
            lost: self.loss.records.saturating_add(self.loss.not_followed),
        }
    }
}
