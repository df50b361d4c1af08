//! `conn tail` of the agent that runs here: its events, shown as if they were traced by this command.

mod past;

use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::args::{Environment, Exit, Format, TailArgs, TailOptions};
use super::lines::{Lines, class_of};
use super::{emit, machine, signals, socket};
use crate::event::escape;
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::read::{Reader, Recorded};
use crate::output::totals::Totals;
use crate::service::client::{Client, ClientError};
use crate::service::protocol::{Notice, ProtocolError, Request, Subscribed, TailRequest, read_notice};

/// Lines that are taken before those that were taken must be written: a reader that is slow slows the agent's queue, which counts.
const BATCH: u32 = 1_024;

/// Shows the events of an agent.
///
/// # Errors
/// When the output cannot be written, or the agent's lines cannot be read.
pub(super) fn run(args: &TailArgs, mut client: Client) -> anyhow::Result<Exit> {
    let environment = Environment::of_process();
    let (options, wrong) = match args.resolve(environment) {
        Ok(options) => (options, None),
        // It may name what the agent's rules define.
        Err(error) => match (TailArgs { filter: Vec::new(), ..args.clone() }).resolve(environment) {
            Ok(options) => (options, Some(error.to_string())),
            Err(error) => {
                emit(error);
                return Ok(Exit::Usage);
            }
        },
    };
    let wanted = match (past::Wanted::of(args), &wrong) {
        (Ok(Some(_)), Some(wrong)) => {
            // What it names is the agent's alone, and the past is read here.
            emit(wrong);
            return Ok(Exit::Usage);
        }
        (Ok(wanted), _) => wanted,
        (Err(error), _) => {
            emit(format_args!("--since: {error}"));
            return Ok(Exit::Usage);
        }
    };
    let kinds = args.asked_kinds(&options);
    let request = Request::Tail(TailRequest {
        filter: args.filter.join(" "),
        kinds: kinds.map(|kinds| kinds.kinds().map(|kind| kind.name().to_owned()).collect()),
        compact: options.format == Format::Json { compact: true },
        sync: wanted.is_some(),
    });
    let subscribed: Subscribed = match client.ask(&request) {
        Ok(subscribed) => subscribed,
        Err(error) => {
            let is_refused = matches!(error, ClientError::Protocol { error: ProtocolError::Refused(_), .. });
            return Ok(match wrong.filter(|_| is_refused) {
                Some(wrong) => {
                    emit(wrong);
                    Exit::Usage
                }
                None => {
                    emit(error);
                    Exit::Error
                }
            });
        }
    };
    let agent = socket::named(&subscribed.agent);
    let past = match (wanted, subscribed.history) {
        (Some(wanted), Some(folder)) => {
            let up_to = (subscribed.agent.run.clone(), subscribed.seq);
            let past = past::read(PathBuf::from(folder), wanted, up_to, &options);
            Some(past.context("starting a thread")?)
        }
        (Some(_), None) => {
            emit(format_args!("the {agent} keeps no history: see [history] of its configuration"));
            return Ok(Exit::Error);
        }
        (None, _) => None,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(follow(options, client, past, &agent))
}

async fn follow(
    options: TailOptions,
    client: Client,
    past: Option<mpsc::Receiver<past::Reported>>,
    agent: &str,
) -> anyhow::Result<Exit> {
    let stop = signals::stop().context("installing signal handlers")?;
    tokio::pin!(stop);
    let rest = client.rest().context("reading from the agent")?;
    // Lines may have come with the answer.
    let first = rest.buffer().to_vec();
    let stream = rest.into_inner();
    stream.set_nonblocking(true).context("reading from the agent")?;
    let stream = UnixStream::from_std(stream).context("reading from the agent")?;
    let mut from = BufReader::with_capacity(256 << 10, first.as_slice().chain(stream));
    let end = options.duration.map(|duration| Instant::now() + duration);
    let mut view = View::new(options, past.is_some())?;
    // One write: whoever waits for this line must not see half of it.
    let ready = format!("conn: reading events of the {agent}; Ctrl-C ends\n");
    io::stderr().write_all(ready.as_bytes()).context("writing to standard error")?;
    if let Some(mut past) = past {
        tokio::select! {
            biased;
            () = &mut stop => return view.report(agent),
            () = until(end) => return view.report(agent),
            shown = view.past(&mut past) => match shown {
                Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_gone) => return Ok(Exit::Done),
                shown => shown?,
            },
        }
    }
    let (mut line, mut taken) = (Vec::new(), 0);
    let result = loop {
        if view.left == Some(0) {
            break Ok(());
        }
        // What is read is written before more is: then what is too much is dropped, and counted, by the agent.
        if taken >= BATCH || from.buffer().is_empty() {
            taken = 0;
            let drained = tokio::select! {
                biased;
                drained = view.lines.drain() => drained,
                () = &mut stop => break Ok(()),
                () = until(end) => break Ok(()),
            };
            if let Err(error) = drained {
                break Err(error);
            }
        }
        let read = tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            () = until(end) => break Ok(()),
            // What was read of a line when another is first stays in it.
            read = from.read_until(b'\n', &mut line) => read,
            () = view.lines.changed() => {
                if let Err(error) = view.lines.flush() {
                    break Err(error);
                }
                continue;
            }
        };
        match read {
            Ok(0) => {
                view.ended.get_or_insert_with(|| "it was killed".to_owned());
                break Ok(());
            }
            Ok(_) => view.line(line.trim_ascii_end()),
            Err(error) => {
                view.ended = Some(error.to_string());
                break Ok(());
            }
        }
        line.clear();
        taken += 1;
    };
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
        Err(error) => return Err(error).context("writing"),
    }
    match view.lines.finish().await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error).context("writing"),
        _ => {}
    }
    view.report(agent)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        // For ever, but no longer than a timer can.
        None => loop {
            tokio::time::sleep(Duration::from_hours(1)).await;
        },
    }
}

/// Shows what comes.
struct View {
    options: TailOptions,
    lines: Lines,
    reader: Reader,
    totals: Totals,
    left: Option<u64>,
    /// Events that the agent dropped for this client.
    dropped: u64,
    /// Lines that are no events of this conn's schema.
    unread: u64,
    /// Why nothing more comes.
    ended: Option<String>,
}

impl View {
    fn new(options: TailOptions, has_past: bool) -> anyhow::Result<Self> {
        let lines =
            Lines::new(options.format, &machine::identity()?, has_past).context("starting the output")?;
        let (reader, left) = (Reader::default().with_alerts(), options.count.map(NonZeroU64::get));
        let totals = Totals::default();
        Ok(Self { options, lines, reader, totals, left, dropped: 0, unread: 0, ended: None })
    }

    /// Shows what comes of the past, all of it: nothing is dropped.
    async fn past(&mut self, past: &mut mpsc::Receiver<past::Reported>) -> anyhow::Result<()> {
        let (mut run, mut count) = (None, 0_u32);
        while self.left != Some(0)
            && let Some(reported) = past.recv().await
        {
            let (of, event) = reported.context("reading the history")?;
            if run.as_ref() != Some(&of) {
                self.lines.set_identity(&of);
                run = Some(of);
            }
            self.totals.count(event.body.kind());
            self.lines.add(&event);
            if let Some(left) = self.left.as_mut().filter(|_| self.options.asks_for(&event)) {
                *left -= 1;
            }
            count += 1;
            if count.is_multiple_of(BATCH) {
                self.lines.drain().await?;
            }
        }
        self.lines.drain().await?;
        Ok(())
    }

    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if let Some(notice) = read_notice(&text) {
            return self.notice(notice);
        }
        match self.reader.read(&text) {
            Ok(Recorded::Event(event)) => self.event(&event, line),
            // None of these is sent.
            Ok(_) => {}
            Err(error) => {
                if self.unread == 0 {
                    emit(format_args!(
                        "cannot read an event of the agent: {}",
                        escape::string(error.to_string().as_bytes())
                    ));
                }
                self.unread += 1;
                // Who reads JSON may know it.
                if matches!(self.options.format, Format::Json { .. }) {
                    self.lines.add_line(class_of(EventKind::Connect), line);
                }
            }
        }
    }

    fn event(&mut self, event: &Event, line: &[u8]) {
        let kind = event.body.kind();
        if event.seq > 0 {
            self.totals.count(kind);
        }
        if let EventBody::Gap(gap) = &event.body {
            self.totals.gaps += 1;
            self.totals.lost += gap.lost;
        }
        match self.options.format {
            Format::Json { .. } => self.lines.add_line(class_of(kind), line),
            Format::Text { .. } => self.lines.add(event),
        }
        if let Some(left) = self.left.as_mut().filter(|_| self.options.asks_for(event)) {
            *left -= 1;
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Dropped(count) => {
                self.dropped += count;
                emit(format_args!(
                    "{count} events are missing here: they came faster than this command reads them"
                ));
            }
            Notice::End(why) => self.ended = Some(escape::string(why.as_bytes())),
        }
    }

    /// Says what was shown, and what was not.
    fn report(&self, agent: &str) -> anyhow::Result<Exit> {
        let mut out = Vec::new();
        match (self.options.format, self.options.verbose) {
            (Format::Json { .. }, _) => self.totals.write_json(&mut out),
            (_, true) => writeln!(out, "{:#}", self.totals)?,
            (_, false) => writeln!(out, "{}", self.totals)?,
        }
        io::stderr().write_all(&out).context("writing the totals to standard error")?;
        if self.dropped > 0 {
            emit(format_args!("events that are missing in all: {}", self.dropped));
        }
        if self.unread > 0 {
            emit(format_args!("lines of the agent that are of another schema: {}", self.unread));
        }
        if let Some(why) = &self.ended {
            emit(format_args!("the {agent} sends nothing more: {why}"));
            return Ok(Exit::Error);
        }
        let alerts = self.totals.events(EventKind::Alert);
        Ok(if self.options.exit_code && alerts > 0 { Exit::Alerts } else { Exit::Done })
    }
}
