//! `conn agent`: without a terminal, alerts to a file and to syslog, rules that can be changed while it runs.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::tz::TimeZone;
use tokio::fs::File;
use tokio::io::{AsyncWrite, Stdout};

use super::args::{AgentArgs, Exit};
use super::config::Config;
use super::rules::RuleChoice;
use super::{machine, signals, tail};
use crate::agent::{self, AgentOptions, Consumer, Limits};
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::text::{TextFormatter, TextOptions};
use crate::filter::Filter;
use crate::kernel::load::LoadOptions;
use crate::output::sink::{LineSink, SinkError};
use crate::output::syslog::Syslog;

/// Runs `conn agent`.
///
/// # Errors
/// When the configuration cannot be read or an output cannot be written; what has an exit code of its own is told here.
pub fn run(args: &AgentArgs) -> anyhow::Result<Exit> {
    let config = match &args.config {
        Some(path) => match Config::read(path) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("conn: {error:#}");
                return Ok(Exit::Usage);
            }
        },
        None => Config::default(),
    };
    let choice = match &*config.rules {
        [] => RuleChoice::Default,
        folders => RuleChoice::Folders(folders.to_vec()),
    };
    let filter = match Filter::new(&config.events.filter) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("conn: `filter` of [events]: {error}");
            return Ok(Exit::Usage);
        }
    };
    let load = match tail::load_options(config.backend.as_deref(), config.ring_size.as_deref()) {
        Ok(load) => load,
        Err(error) => {
            eprintln!("conn: {error}");
            return Ok(Exit::Usage);
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve(config, choice, filter, load))
}

async fn serve(
    config: Config,
    choice: RuleChoice,
    filter: Filter,
    load: LoadOptions,
) -> anyhow::Result<Exit> {
    let rules = match choice.load() {
        Ok(rules) => rules,
        Err(exit) => return Ok(exit),
    };
    let stop = signals::stop_daemon().context("installing signal handlers")?;
    tokio::pin!(stop);
    let mut outputs = Outputs::open(&config, filter).await?;
    let options = AgentOptions { load, self_test: true, rules };
    let mut tell = |event: &Event| outputs.on_event(event);
    let started = tokio::select! {
        () = &mut stop => return Ok(Exit::Done),
        started = agent::start(options, &mut tell) => started,
    };
    let mut agent = match started {
        Ok(agent) => agent,
        Err(error) => return Ok(tail::not_started(error)),
    };
    for note in agent.session.notes.iter().chain(&agent.notes) {
        eprintln!("conn: note: {note}");
    }
    eprintln!("conn: tracing with backend {}; SIGHUP reads the rules again", agent.session.plan.backend);
    let handed_in = agent.rules();
    let reloads = signals::on_hangup(async move || match choice.load() {
        Ok(Some(rules)) => {
            eprintln!("conn: {} rules are in force now", rules.rules.len());
            // Only a closed agent takes no more.
            let _ = handed_in.send(rules).await;
        }
        Ok(None) => {}
        Err(_) => eprintln!("conn: the rules from before stay in force"),
    })
    .context("installing a signal handler")?;
    tokio::pin!(reloads);
    let run = agent::run(&mut agent, &mut outputs, Limits::default(), stop);
    tokio::select! {
        result = run => result.context("tracing")?,
        () = &mut reloads => {}
    }
    let syslog = outputs.syslog.as_ref().map(Syslog::stats).unwrap_or_default();
    if syslog.dropped > 0 {
        eprintln!("conn: {} messages did not reach syslog", syslog.dropped);
    }
    Ok(Exit::Done)
}

/// A file that lines are appended to, or standard output.
enum Lines {
    Stdout(LineSink<Stdout>),
    File(LineSink<File>),
}

impl Lines {
    async fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(LineSink::new(tokio::io::stdout())));
        }
        let file = File::options().append(true).create(true).open(path).await;
        Ok(Self::File(LineSink::new(file.with_context(|| format!("opening {}", path.display()))?)))
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Stdout(sink) => sink.buffer(),
            Self::File(sink) => sink.buffer(),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        async fn flush<W: AsyncWrite + Unpin>(sink: &mut LineSink<W>) -> io::Result<()> {
            if sink.is_empty() {
                return Ok(());
            }
            sink.flush().await.map_err(|error| match error {
                SinkError::Closed => io::ErrorKind::BrokenPipe.into(),
                SinkError::Io(error) => error,
            })
        }
        match self {
            Self::Stdout(sink) => flush(sink).await,
            Self::File(sink) => flush(sink).await,
        }
    }
}

struct Outputs {
    json: JsonEncoder,
    text: TextFormatter,
    line: Vec<u8>,
    /// Where lines go: each path once.
    lines: Vec<(PathBuf, Lines)>,
    alerts: Option<usize>,
    events: Option<usize>,
    filter: Filter,
    syslog: Option<Syslog>,
}

impl Outputs {
    async fn open(config: &Config, filter: Filter) -> anyhow::Result<Self> {
        let zone = TimeZone::system();
        let mut outputs = Self {
            json: JsonEncoder::new(&machine::identity()?),
            text: TextFormatter::new(TextOptions {
                color: false,
                width: None,
                netns: machine::own_netns(),
                zone: zone.clone(),
            }),
            line: Vec::new(),
            lines: Vec::new(),
            alerts: None,
            events: None,
            filter,
            syslog: None,
        };
        outputs.alerts = outputs.place(config.alerts.file.as_deref()).await?;
        outputs.events = outputs.place(config.events.file.as_deref()).await?;
        if !config.alerts.syslog.as_os_str().is_empty() {
            outputs.syslog = Some(Syslog::new(&config.alerts.syslog, zone));
        }
        Ok(outputs)
    }

    async fn place(&mut self, path: Option<&Path>) -> anyhow::Result<Option<usize>> {
        let Some(path) = path else { return Ok(None) };
        if let Some(known) = self.lines.iter().position(|(own, _)| own == path) {
            return Ok(Some(known));
        }
        self.lines.push((path.to_owned(), Lines::open(path).await?));
        Ok(Some(self.lines.len() - 1))
    }
}

impl Consumer for Outputs {
    fn on_event(&mut self, event: &Event) {
        let alert = match &event.body {
            EventBody::Alert(alert) => Some(alert),
            _ => None,
        };
        let asked = match event.body.kind() {
            EventKind::Alert => false,
            kind @ (EventKind::Exec | EventKind::Exit) => {
                self.filter.asks_for(kind) && self.filter.passes(event)
            }
            _ => self.filter.passes(event),
        };
        let place = if alert.is_some() { self.alerts } else { self.events.filter(|_| asked) };
        if let Some((_, lines)) = place.and_then(|place| self.lines.get_mut(place)) {
            self.json.encode(event, lines.buffer());
        }
        if let (Some(alert), Some(syslog)) = (alert, &mut self.syslog) {
            self.line.clear();
            self.text.format(event, &mut self.line);
            syslog.send(alert.severity, event.wall, self.line.trim_ascii_end());
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        for (_, lines) in &mut self.lines {
            lines.flush().await?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        false
    }
}
