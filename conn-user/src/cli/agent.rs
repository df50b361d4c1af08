//! `conn agent`: without a terminal, alerts to a file and to syslog, rules that can be changed while it runs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};

use super::args::{AgentArgs, Exit};
use super::config::Config;
use super::reload::Reloader;
use super::rules::RuleChoice;
use super::signals::{self, Hangups};
use super::{machine, tail, tell};
use crate::agent::{self, Agent, AgentOptions, Consumer, Limits};
use crate::event::alert::Severity;
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::text::{TextFormatter, TextOptions};
use crate::filter::Filter;
use crate::output::file::{LineFile, Notice};
use crate::output::syslog::Syslog;
use crate::output::totals::Totals;
use crate::rules::file::shown;

/// Runs `conn agent`.
///
/// # Errors
/// When an output cannot be opened, or standard output has no reader any more; what has an exit code of its own is told here.
pub fn run(args: &AgentArgs) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(args));
    // What still runs in the background, such as a snapshot when the start was cut short, is not waited for.
    runtime.shutdown_background();
    result
}

async fn serve(args: &AgentArgs) -> anyhow::Result<Exit> {
    // Before anything else: a service manager may send signals as soon as there is a process.
    let stop = signals::stop_daemon().context("installing signal handlers")?;
    let hangups = Hangups::new().context("installing a signal handler")?;
    tokio::pin!(stop);
    let config = match args.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read) {
        Ok(config) => config,
        Err(error) => return Ok(usage(format_args!("{error:#}"))),
    };
    let choice = RuleChoice::of(&config.rules);
    let filter = match Filter::new(&config.events.filter) {
        Ok(filter) => filter,
        Err(error) => return Ok(usage(format_args!("`filter` of [events]: {error}"))),
    };
    let load = match tail::load_options(config.backend.as_deref(), config.ring_size.as_deref()) {
        Ok(load) => load,
        Err(error) => return Ok(usage(error)),
    };
    let rules = match choice.load() {
        Ok(rules) => rules,
        Err(exit) => return Ok(exit),
    };
    let (reopen, asked) = watch::channel(0);
    let mut outputs = Outputs::open(&config, filter, asked)?;
    let options = AgentOptions { load, self_test: true, rules, record: false };
    let mut on_event = |event: &Event| outputs.on_event(event);
    let started = tokio::select! {
        biased;
        () = &mut stop => None,
        started = agent::start(options, &mut on_event) => Some(started),
    };
    let mut agent = match started {
        Some(Ok(agent)) => agent,
        other => {
            outputs.flush().await?;
            return Ok(match other {
                Some(Err(error)) => tail::not_started(error),
                _ => Exit::Done,
            });
        }
    };
    for note in agent.session.notes.iter().chain(&agent.notes) {
        tell(format_args!("note: {note}"));
    }
    let backend = agent.session.plan.backend;
    tell(format_args!("tracing with backend {backend}; SIGHUP reads the rules again"));
    let mut reloader = Reloader::new(choice, config.allow_empty_rules, agent.layout(), agent.rules());
    // Two things that neither wait for each other nor fail together: files are opened anew at once, however long rules take.
    let load = Notify::new();
    let hangups = hangups.each(async || {
        reopen.send_modify(|times| *times += 1);
        load.notify_one();
    });
    let loads = async {
        loop {
            load.notified().await;
            reloader.reload().await;
        }
    };
    let reloads = async { tokio::join!(hangups, loads) };
    let result = tokio::select! {
        result = agent::run(&mut agent, &mut outputs, Limits::default(), stop) => result,
        // They end with the runtime only.
        ((), ()) = reloads => Ok(()),
    };
    outputs.tell_totals(&agent);
    result.context("tracing")?;
    Ok(Exit::Done)
}

fn usage(what: impl std::fmt::Display) -> Exit {
    tell(what);
    Exit::Usage
}

struct Outputs {
    json: JsonEncoder,
    text: TextFormatter,
    line: Vec<u8>,
    /// Where lines go: each path once.
    files: Vec<LineFile>,
    alerts: Option<usize>,
    events: Option<usize>,
    filter: Filter,
    syslog: Option<Syslog>,
    totals: Totals,
    /// How often the files were to be opened anew, and how often they were.
    reopen: watch::Receiver<u64>,
    reopened: u64,
}

impl Outputs {
    fn open(config: &Config, filter: Filter, reopen: watch::Receiver<u64>) -> anyhow::Result<Self> {
        let zone = TimeZone::system();
        let mut files = Vec::new();
        let alerts = place(&config.alerts.file, &mut files)?;
        let events = place(&config.events.file, &mut files)?;
        let syslog = &config.alerts.syslog;
        Ok(Self {
            json: JsonEncoder::new(&machine::identity()?),
            text: TextFormatter::headless(TextOptions {
                color: false,
                width: None,
                netns: machine::own_netns(),
                zone: zone.clone(),
            }),
            line: Vec::new(),
            files,
            alerts,
            events,
            filter,
            syslog: (!syslog.as_os_str().is_empty()).then(|| Syslog::new(syslog, zone)),
            totals: Totals::default(),
            reopen,
            reopened: 0,
        })
    }

    /// Whether an event was asked for.
    fn asked(&self, event: &Event) -> bool {
        match event.body.kind() {
            EventKind::Alert => false,
            EventKind::Gap => true,
            kind if kind.is_of_recording() => false,
            kind @ (EventKind::Exec | EventKind::Exit) => {
                self.filter.asks_for(kind) && self.filter.passes(event)
            }
            _ => self.filter.passes(event),
        }
    }

    fn tell_totals(&mut self, agent: &Agent) {
        tail::add_records(&mut self.totals, agent);
        let mut text = self.totals.to_string();
        // Writing to memory cannot fail.
        for file in self.files.iter().filter(|file| file.dropped() > 0) {
            let _ = write!(text, "\nlines of {} that were dropped: {}", name(file), file.dropped());
        }
        let syslog = self.syslog.as_ref().map(Syslog::stats).unwrap_or_default();
        if syslog.dropped > 0 {
            let _ = write!(text, "\nmessages that did not reach syslog: {}", syslog.dropped);
        }
        text.push('\n');
        // As `conn tail` does; where it cannot be written there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Opens the file of a place, once; the empty path is none.
fn place(path: &Path, files: &mut Vec<LineFile>) -> anyhow::Result<Option<usize>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = Some(path).filter(|path| *path != Path::new("-"));
    if let Some(known) = files.iter().position(|file| file.path() == path) {
        return Ok(Some(known));
    }
    let file = LineFile::open(path);
    files.push(file.with_context(|| {
        path.map_or_else(|| "opening standard output".into(), |path| format!("opening {}", shown(path)))
    })?);
    Ok(Some(files.len() - 1))
}

fn name(file: &LineFile) -> String {
    file.path().map_or_else(|| "standard output".to_owned(), shown)
}

impl Consumer for Outputs {
    fn on_event(&mut self, event: &Event) {
        // What was lost may have been an alert: a gap goes where alerts go, too.
        let told = matches!(event.body, EventBody::Alert(_) | EventBody::Gap(_));
        let asked = self.asked(event);
        let alerts = self.alerts.filter(|_| told);
        let events = self.events.filter(|place| asked && alerts != Some(*place));
        if told || events.is_some() {
            self.totals.count(event.body.kind());
        }
        for place in [alerts, events].into_iter().flatten() {
            if let Some(file) = self.files.get_mut(place) {
                file.line(|out| self.json.encode(event, out));
            }
        }
        if let Some(syslog) = self.syslog.as_mut().filter(|_| told) {
            let severity = match &event.body {
                EventBody::Alert(alert) => alert.severity,
                _ => Severity::Medium,
            };
            self.line.clear();
            self.text.format(event, &mut self.line);
            syslog.send(severity, event.wall, self.line.trim_ascii_end());
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let asked = *self.reopen.borrow();
        if asked != self.reopened {
            for file in &mut self.files {
                if let Err(error) = file.reopen().await {
                    tell(format_args!(
                        "cannot open {}: {error}; the file from before is written on",
                        name(file)
                    ));
                }
            }
            self.reopened = asked;
        }
        for file in &mut self.files {
            while let Some(notice) = file.flush().await? {
                let name = name(file);
                match notice {
                    Notice::Fails(error) => {
                        tell(format_args!(
                            "cannot write {name}: {error}; its lines are dropped until it can be written"
                        ));
                    }
                    Notice::Works { dropped } => {
                        tell(format_args!("{name} is written again; lines that were dropped: {dropped}"));
                    }
                }
            }
        }
        Ok(())
    }

    async fn wakes(&mut self) {
        let reopened = self.reopened;
        if self.reopen.wait_for(|asked| *asked != reopened).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}
