//! `conn agent`: without a terminal, alerts to a file and to syslog, rules that can be changed while it runs.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use jiff::tz::TimeZone;
use tokio::sync::Notify;

use super::args::{AgentArgs, Exit};
use super::config::Config;
use super::history::{HISTORY, Kept, emit_notices};
use super::lines::class;
use super::reload::Reloader;
use super::rules::RuleChoice;
use super::signals::{self, Hangups};
use super::socket::Socket;
use super::{emit, machine, messages, note, tail};
use crate::agent::health::{Condition, HealthReport};
use crate::agent::{self, Agent, AgentOptions, AtStart, Consumer, Limits, View};
use crate::clock::{Clock, boot_now};
use crate::event::alert::Severity;
use crate::event::escape;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::text::{TextFormatter, TextOptions};
use crate::filter::Filter;
use crate::history::writer::{HistoryOptions, HistoryWriter};
use crate::host::netns_names::NetNsNames;
use crate::kernel::load::LoadOptions;
use crate::output::file::LineFile;
use crate::output::syslog::{self, Syslog};
use crate::output::totals::Totals;
use crate::output::writer::{Class, Notice, Reopener, Target, Writer};
use crate::priority::{Granted, Priority};
use crate::rules::RuleSet;
use crate::service::hub::{Asker, Hub};
use crate::service::protocol::RuleSources;

/// Runs `conn agent`.
///
/// # Errors
/// When an output cannot be opened, or standard output has no reader any more; what has an exit code of its own is reported here.
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
    let make = |names: &_| Filter::with_names(&config.events.filter, names);
    let filter = match super::rules::filter(&choice, make) {
        Ok(filter) => filter,
        Err(error) => return Ok(usage(format_args!("`filter` of [events]: {error}"))),
    };
    let load = match tail::load_options(config.backend.as_deref(), config.ring_size.as_deref()) {
        Ok(load) => load,
        Err(error) => return Ok(usage(error)),
    };
    let history = match config.history() {
        Ok(history) => history,
        Err(error) => return Ok(usage(error)),
    };
    if let Err(error) = config.heartbeat() {
        return Ok(usage(error));
    }
    let rules = match choice.load_with_sources() {
        Ok(rules) => rules,
        Err(exit) => return Ok(exit),
    };
    let socket = match Socket::bind(&config) {
        Ok(socket) => socket,
        Err(exit) => return Ok(exit),
    };
    messages::detach().context("starting the messages")?;
    let identity = machine::identity()?;
    let kept = history.as_ref().map(|history| history.folder.clone());
    let (mut outputs, asker) = Outputs::open(&config, filter, history, &identity)?;
    let kept =
        outputs.history.as_ref().zip(kept).map(|(history, folder)| Kept::new(history.commits(), folder));
    let socket = socket.map(|socket| socket.of(identity, asker).keeping(kept));
    let result = Box::pin(trace(&config, load, &choice, rules, socket, &mut outputs, stop, hangups)).await;
    messages::finish().await;
    result
}

#[expect(clippy::too_many_arguments, reason = "what a configuration means")]
async fn trace(
    config: &Config,
    load: LoadOptions,
    choice: &RuleChoice,
    rules: Option<(RuleSet, RuleSources)>,
    socket: Option<Socket>,
    outputs: &mut Outputs,
    stop: impl Future<Output = ()>,
    hangups: Hangups,
) -> anyhow::Result<Exit> {
    tokio::pin!(stop);
    let (memory, state) = if config.state.as_os_str().is_empty() {
        (None, None)
    } else {
        let opened = agent::state::open(&config.state, |message| emit(message));
        let (memory, state) = opened.context("starting a thread that writes")?;
        (Some(memory), Some(state))
    };
    let (rules, sources) = rules.unzip();
    let names = rules.as_ref().map(|rules| Arc::clone(&rules.names));
    let options = AgentOptions {
        load,
        priority: config.priority,
        self_test: true,
        rules,
        at_start: if outputs.history.is_some() { AtStart::Existing } else { AtStart::Nothing },
        heartbeat: config.heartbeat().unwrap_or_default(),
        hashes: true,
        health: true,
        memory,
    };
    let mut on_event = |event: &Event| outputs.on_event(event);
    let started = tokio::select! {
        biased;
        () = &mut stop => None,
        started = agent::start(options, &mut on_event) => Some(started),
    };
    let mut agent = match started {
        Some(Ok(agent)) => agent,
        other => {
            outputs.finish().await?;
            return Ok(match other {
                Some(Err(error)) => tail::not_started(error),
                _ => Exit::Done,
            });
        }
    };
    for text in agent.session.notes.iter().chain(&agent.notes) {
        note(text);
    }
    if config.priority != Priority::Normal
        && !matches!(agent.granted, Granted::Realtime | Granted::WhenStarved)
    {
        note(format_args!("priority of the reader: {}", agent.granted));
    }
    let backend = agent.session.plan.backend;
    emit(format_args!(
        "tracing with backend {backend}; SIGHUP opens the files anew and reads the rules again"
    ));
    let served = match socket {
        Some(socket) => socket.serve(config, backend, sources.zip(names))?,
        None => None,
    };
    let mut reloader = Reloader::new(choice.clone(), config.allow_empty_rules, agent.layout(), agent.rules())
        .with_socket(served.as_ref().map(|(_, state)| Arc::clone(state)));
    let reopeners = outputs.reopeners();
    // Two things that neither wait for each other nor fail together: files are opened anew at once, however long rules take.
    let load = Notify::new();
    let hangups = hangups.each(async || {
        reopeners.iter().for_each(Reopener::reopen);
        load.notify_one();
    });
    let loads = async {
        loop {
            load.notified().await;
            Box::pin(reloader.reload()).await;
        }
    };
    let reloads = async { tokio::join!(hangups, loads) };
    let result = tokio::select! {
        result = agent::run(&mut agent, outputs, Limits::default(), stop) => result,
        // They end with the runtime only.
        ((), ()) = reloads => Ok(()),
    };
    drop(served);
    outputs.emit_totals(&agent);
    drop(agent);
    if let Some(state) = state {
        state.finish();
    }
    result.context("tracing")?;
    Ok(Exit::Done)
}

fn usage(what: impl std::fmt::Display) -> Exit {
    emit(what);
    Exit::Usage
}

struct Outputs {
    json: JsonEncoder,
    text: TextFormatter,
    line: Vec<u8>,
    /// Where lines go: each path once; syslog, if it is used, is the last.
    writers: Vec<Writer>,
    alerts: Option<usize>,
    events: Option<usize>,
    syslog: Option<usize>,
    filter: Filter,
    zone: TimeZone,
    totals: Totals,
    /// What clients of the socket get.
    hub: Hub,
    /// What is kept.
    history: Option<HistoryWriter>,
    /// A writer has something to say, or a client asks.
    changed: Arc<Notify>,
    /// What happened to the outputs and was not yet taken.
    health: Vec<HealthReport>,
}

impl Outputs {
    fn open(
        config: &Config,
        filter: Filter,
        history: Option<HistoryOptions>,
        identity: &StreamIdentity,
    ) -> anyhow::Result<(Self, Asker)> {
        let zone = TimeZone::system();
        let mut places = Places { paths: Vec::new(), writers: Vec::new(), changed: Arc::default() };
        let alerts = places.file(&config.alerts.file)?;
        let events = places.file(&config.events.file)?;
        let syslog = places.syslog(&config.alerts.syslog)?;
        let (hub, asker) = Hub::new(identity, Arc::clone(&places.changed));
        let (boot, changed) = (boot_now(), &places.changed);
        let start = |options| {
            let at = (boot, Clock::now().wall(boot));
            HistoryWriter::start(options, identity.clone(), at, Arc::clone(changed))
        };
        let history = history.map(start).transpose().context("starting the history's thread")?;
        let outputs = Self {
            json: JsonEncoder::new(identity),
            text: TextFormatter::headless(TextOptions {
                color: false,
                width: None,
                netns: machine::own_netns(),
                zone: zone.clone(),
                dated: false,
            })
            .with_namespaces(NetNsNames::of_machine()),
            line: Vec::new(),
            writers: places.writers,
            alerts,
            events,
            syslog,
            filter,
            zone,
            totals: Totals::default(),
            hub,
            history,
            changed: places.changed,
            health: Vec::new(),
        };
        Ok((outputs, asker))
    }

    /// Where the files are opened anew from.
    fn reopeners(&self) -> Vec<Reopener> {
        self.writers.iter().map(Writer::reopener).collect()
    }

    /// Whether an event was asked for.
    fn asked(&self, event: &Event) -> bool {
        match event.body.kind() {
            EventKind::Alert => false,
            kind if kind.is_always_shown() => true,
            // Its absence is what is looked for.
            EventKind::Heartbeat => true,
            kind if kind.is_of_recording() => false,
            kind @ (EventKind::Exec | EventKind::Exit) => {
                self.filter.asks_for(kind) && self.filter.passes(event)
            }
            _ => self.filter.passes(event),
        }
    }

    fn emit_totals(&mut self, agent: &Agent) {
        tail::add_records(&mut self.totals, agent);
        let mut text = self.totals.to_string();
        for writer in self.writers.iter().filter(|writer| writer.dropped() > 0) {
            // Writing to memory cannot fail.
            let _ = write!(text, "\nlines of {} that were dropped: {}", writer.name(), writer.dropped());
        }
        text.push('\n');
        messages::write(text.as_bytes());
    }

    /// Says what happened to the outputs.
    ///
    /// # Errors
    /// Standard output has no reader any more.
    fn emit_notices(&mut self) -> io::Result<()> {
        if let Some(history) = &self.history {
            emit_notices(history, &mut self.health);
        }
        for writer in &self.writers {
            let name = writer.name();
            for notice in writer.notices()? {
                match notice {
                    Notice::Fails(error) => {
                        self.health.push(HealthReport::fails(Condition::OutputDead, name, &error));
                        emit(format_args!(
                            "cannot write {name}: {error}; its lines are dropped until it can be written"
                        ));
                    }
                    Notice::Works { dropped } => {
                        self.health.push(HealthReport::works(Condition::OutputDead, name, dropped));
                        emit(format_args!("{name} is written again; lines that were dropped: {dropped}"));
                    }
                    Notice::Overflows => emit(format_args!(
                        "{name} takes lines more slowly than they come; events are dropped, alerts and gaps are not"
                    )),
                    Notice::NotReopened(error) => {
                        emit(format_args!("cannot open {name}: {error}; the file from before is written on"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Outputs that are being opened.
struct Places {
    paths: Vec<PathBuf>,
    writers: Vec<Writer>,
    changed: Arc<Notify>,
}

impl Places {
    /// Opens the file of a place, once; the empty path is none.
    fn file(&mut self, path: &Path) -> anyhow::Result<Option<usize>> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.paths.iter().position(|known| known == path) {
            return Ok(Some(known));
        }
        let is_standard = path == Path::new("-");
        let name = if is_standard { "standard output".to_owned() } else { escape::path(path) };
        let file = if is_standard { LineFile::standard(io::stdout()) } else { LineFile::open(path) };
        let file = file.with_context(|| format!("opening {name}"))?;
        if let Some(doubt) = file.doubt() {
            emit(format_args!("warning: {name}: {doubt}"));
        }
        self.start(path, name, file).map(Some)
    }

    /// The local syslog; the empty path is none.
    fn syslog(&mut self, path: &Path) -> anyhow::Result<Option<usize>> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        self.start(path, format!("syslog at {}", escape::path(path)), Syslog::new(path)).map(Some)
    }

    fn start(&mut self, path: &Path, name: String, target: impl Target + 'static) -> anyhow::Result<usize> {
        let writer = Writer::start(name, target, Arc::clone(&self.changed));
        self.writers.push(writer.context("starting a thread that writes")?);
        self.paths.push(path.to_owned());
        Ok(self.writers.len() - 1)
    }
}

impl Consumer for Outputs {
    fn on_event(&mut self, event: &Event) {
        if let Some(history) = &mut self.history {
            history.on_event(event);
        }
        // What was there already is no event of the stream.
        if event.seq == 0 && !event.body.kind().is_of_recording() {
            return;
        }
        self.hub.on_event(event);
        // What was lost or dropped may have been an alert: it goes where alerts go, too.
        let (kind, class) = (event.body.kind(), class(event));
        let important = class == Class::Important;
        let asked = self.asked(event);
        let alerts = self.alerts.filter(|_| important);
        let events = self.events.filter(|place| asked && alerts != Some(*place));
        if important || events.is_some() {
            self.totals.count(kind);
        }
        for place in [alerts, events].into_iter().flatten() {
            if let Some(writer) = self.writers.get_mut(place) {
                writer.line(class, |out| self.json.encode(event, out));
            }
        }
        if let Some(writer) = self.syslog.filter(|_| important).and_then(|place| self.writers.get_mut(place))
        {
            let severity = match &event.body {
                EventBody::Alert(alert) => alert.severity,
                _ => Severity::Medium,
            };
            self.line.clear();
            self.text.format(event, &mut self.line);
            writer.line(class, |out| {
                syslog::message(severity, event.wall, &self.zone, self.line.trim_ascii_end(), out);
            });
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(history) = &mut self.history {
            history.flush();
        }
        self.hub.flush();
        self.writers.iter_mut().try_for_each(Writer::flush)?;
        self.emit_notices()
    }

    fn look(&mut self, agent: View<'_>) {
        self.hub.look(agent, &self.writers);
    }

    async fn finish(&mut self) -> io::Result<()> {
        for writer in &mut self.writers {
            writer.finish().await;
        }
        self.hub.finish().await;
        if let Some(history) = &mut self.history {
            history.finish().await;
        }
        self.emit_notices()
    }

    async fn wakes(&mut self) {
        self.changed.notified().await;
    }

    fn health(&mut self) -> Vec<HealthReport> {
        std::mem::take(&mut self.health)
    }

    fn dropped(&self) -> Vec<(Arc<str>, u64)> {
        let writers = self.writers.iter().map(|writer| (Arc::clone(writer.name()), writer.dropped()));
        let history = self.history.iter().map(|history| (HISTORY.into(), history.stats().dropped));
        writers.chain([self.hub.lost()]).chain(history).collect()
    }
}
