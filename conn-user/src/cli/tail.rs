//! `conn tail`: every connection as it happens.

use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum as _;

use super::args::{Environment, Exit, Format, TailArgs, TailOptions, parse_ring_size};
use super::lines::Lines;
use super::socket::{self, Running};
use super::{emit, follow, log, machine, note, signals};
use crate::agent::{self, Agent, AgentOptions, AtStart, Consumer, Limits, StartError};
use crate::event::model::{Event, EventKind};
use crate::kernel::load::{LoadError, LoadOptions};
use crate::kernel::plan::BackendChoice;
use crate::kernel::selftest::SelfTestError;
use crate::output::totals::{HookTotals, Overflow, Totals};
use crate::priority::{Granted, Priority};

/// Runs `conn tail`.
///
/// # Errors
/// When the output cannot be written, or the runtime fails; what has an exit code of its own is reported here.
pub fn run(args: &TailArgs) -> anyhow::Result<Exit> {
    if !args.is_direct() {
        match socket::running()? {
            Running::Yes(client) => return follow::run(args, client),
            Running::No if args.since.is_some() || args.last.is_some() => {
                emit(
                    "no agent is running, and without one nothing follows the past: `conn query --since TIME` shows what its history has",
                );
                return Ok(Exit::Error);
            }
            Running::No => {}
            Running::Denied(why) => {
                emit(format_args!("{why}; --direct traces without it, which takes root, too"));
                return Ok(Exit::NotPermitted);
            }
        }
    }
    let options = match args.resolve(Environment::of_process()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("conn: {error}");
            return Ok(Exit::Usage);
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(tail(options))
}

async fn tail(options: TailOptions) -> anyhow::Result<Exit> {
    let rules = match options.rules.load() {
        Ok(rules) => rules,
        Err(exit) => return Ok(exit),
    };
    let stop = signals::stop().context("installing signal handlers")?;
    tokio::pin!(stop);
    // An alert shows the hash.
    let hashes =
        matches!(options.format, Format::Json { .. }) || options.filter.needs_hashes() || rules.is_some();
    let agent_options = AgentOptions {
        load: LoadOptions {
            backend: options.backend,
            ring_bytes: options.ring_size,
            log_level: options.bpf_log.then_some(aya_log::Level::Trace),
        },
        priority: options.priority,
        self_test: options.self_test,
        rules,
        at_start: if options.record { AtStart::Recording } else { AtStart::Nothing },
        heartbeat: None,
        hashes,
        health: false,
        memory: None,
    };
    let (limits, bpf_log) = (Limits { duration: options.duration }, options.bpf_log);
    let (json, priority) = (matches!(options.format, Format::Json { .. }), options.priority);
    let mut view = View::new(options)?;
    let mut emit = |event: &Event| view.on_event(event);
    let started = tokio::select! {
        () = &mut stop => return Ok(Exit::Done),
        started = agent::start(agent_options, &mut emit) => started,
    };
    let mut agent = match started {
        Ok(agent) => agent,
        Err(error) => return Ok(not_started(error)),
    };
    if bpf_log {
        log::show(&mut agent.session).context("reading the diagnostics of the BPF programs")?;
    }
    for text in agent.session.notes.iter().chain(&agent.notes) {
        note(text);
    }
    if priority == Priority::Realtime && !matches!(agent.granted, Granted::Realtime) {
        note(format_args!("priority of the thread that reads: {}", agent.granted));
    }
    // One write: whoever waits for this line must not see half of it.
    let ready = format!("conn: tracing with backend {}; Ctrl-C ends\n", agent.session.plan.backend);
    io::stderr().write_all(ready.as_bytes()).context("writing to standard error")?;
    let result = agent::run(&mut agent, &mut view, limits, stop).await;
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
        Err(error) => return Err(error).context("tracing"),
    }
    view.totals(&agent, json)?;
    Ok(view.exit())
}

/// Reports why it did not start.
pub(super) fn not_started(error: StartError) -> Exit {
    let exit = exit_of(&error);
    let hint = if matches!(exit, Exit::Error) { "" } else { "; `conn doctor` reports more" };
    emit(format_args!("{:#}{hint}", anyhow::Error::from(error)));
    exit
}

/// How to load the programs, by words of a configuration.
pub(super) fn load_options(backend: Option<&str>, ring_size: Option<&str>) -> Result<LoadOptions, String> {
    let backend = match backend {
        Some(name) => BackendChoice::from_str(name, false)
            .map_err(|_| format!("`{name}` is no backend: auto, fentry, kprobe or tracepoint"))?,
        None => BackendChoice::default(),
    };
    let ring_bytes =
        parse_ring_size(ring_size.unwrap_or("8M")).map_err(|why| format!("`ring_size`: {why}"))?;
    Ok(LoadOptions { backend, ring_bytes, log_level: None })
}

/// What a failed start means to whoever called.
fn exit_of(error: &StartError) -> Exit {
    match error {
        StartError::Load(LoadError::Plan(plan)) if plan.is_permission() => Exit::NotPermitted,
        // It may pass: whoever starts the agent tries again.
        StartError::Load(LoadError::Exhausted { .. })
        | StartError::SelfTest(SelfTestError::Lost { .. } | SelfTestError::Workload { .. })
        | StartError::Io(_) => Exit::Error,
        StartError::Load(_) | StartError::SelfTest(SelfTestError::Silent(_)) => Exit::Unsupported,
    }
}

/// Adds what the hooks saw and what was lost.
pub(super) fn add_records(totals: &mut Totals, agent: &Agent) {
    let counts = agent.pipeline.counts();
    totals.records = agent
        .session
        .plan
        .programs
        .iter()
        .map(|planned| {
            let count = counts.get(&planned.hook).copied().unwrap_or_default();
            HookTotals { hook: planned.hook, seen: count.seen, lost: count.lost }
        })
        .collect();
    totals.gaps = agent.pipeline.gaps();
    totals.lost = counts.values().map(|count| count.lost).sum();
    totals.undecoded = agent.pipeline.undecoded();
    let skipped = agent.session.skipped_runs();
    totals.missed = skipped.iter().filter_map(|(_, runs)| *runs).sum();
    totals.uncounted = skipped.iter().filter(|(_, runs)| runs.is_none()).map(|(hook, _)| *hook).collect();
    let stats = agent.pipeline.stats();
    totals.overflow = Overflow::of(|what| stats.dropped(what));
    let repairs = agent.resyncs();
    totals.repairs = repairs.done;
    totals.repairs_failed = repairs.failed;
}

/// Shows what the options ask for.
struct View {
    options: TailOptions,
    lines: Lines,
    totals: Totals,
    left: Option<u64>,
}

impl View {
    fn new(options: TailOptions) -> anyhow::Result<Self> {
        let lines =
            Lines::new(options.format, &machine::identity()?, false).context("starting the output")?;
        let left = options.count.map(NonZeroU64::get);
        Ok(Self { options, lines, totals: Totals::default(), left })
    }

    fn totals(&mut self, agent: &Agent, json: bool) -> anyhow::Result<()> {
        add_records(&mut self.totals, agent);
        let mut out = Vec::new();
        if json {
            self.totals.write_json(&mut out);
        } else if self.options.verbose {
            writeln!(out, "{:#}", self.totals)?;
        } else {
            writeln!(out, "{}", self.totals)?;
        }
        io::stderr().write_all(&out).context("writing the totals to standard error")
    }
}

impl View {
    /// How the run ends: with alerts, where that was asked for.
    fn exit(&self) -> Exit {
        let alerts = self.totals.events(EventKind::Alert);
        if self.options.exit_code && alerts > 0 { Exit::Alerts } else { Exit::Done }
    }
}

impl Consumer for View {
    fn on_event(&mut self, event: &Event) {
        if self.left == Some(0) || !self.options.shows(event) {
            return;
        }
        // What was there already did not happen.
        if event.seq > 0 {
            self.totals.count(event.body.kind());
        }
        self.lines.add(event);
        if let Some(left) = self.left.as_mut().filter(|_| self.options.asks_for(event)) {
            *left -= 1;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.lines.finish().await
    }

    async fn wakes(&mut self) {
        self.lines.changed().await;
    }

    fn dropped(&self) -> Vec<(Arc<str>, u64)> {
        vec![self.lines.dropped()]
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }
}
