//! The start: ask the kernel, load, attach, scan, and prove that every hook delivers.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conn_common::hook::HookId;
use thiserror::Error;
use tokio::sync::mpsc;

use super::backlog::{BATCH, Backlog};
use super::pipeline::Pipeline;
use super::resync::{Resync, ResyncStats};
use crate::clock::boot_now;
use crate::event::model::Event;
use crate::flow::sample::Samples;
use crate::flow::snapshot::{self, SnapshotOptions};
use crate::flow::table::FlowTable;
use crate::kernel::btf::Btf;
use crate::kernel::compat;
use crate::kernel::execs::CountExecs;
use crate::kernel::facts::KernelFacts;
use crate::kernel::load::{LoadError, LoadOptions, Loader, Session};
use crate::kernel::ring::{RingReader, Turn};
use crate::kernel::selftest::{SelfTestError, Watch};
use crate::priority::{self, Granted, Priority};
use crate::process::files::FileWorkers;
use crate::process::inspect::Inspector;
use crate::process::procfs::ProcFs;
use crate::process::table::ProcessTable;
use crate::rules::path_memory::PathMemory;
use crate::rules::{Layout, RuleSet, Staged, defaults};
use crate::units::{DurationNs, Pid};

/// How long the records of the self-test may take: far more than a loaded, emulated machine needs.
const SELF_TEST_PATIENCE: Duration = Duration::from_secs(20);

/// What the agent is asked to do.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Backend, ring and diagnostics.
    pub load: LoadOptions,
    /// The priority of the thread that reads: the one that calls.
    pub priority: Priority,
    /// Whether to prove that every hook delivers.
    pub self_test: bool,
    /// What is anomalous; `None`: nothing is judged.
    pub rules: Option<RuleSet>,
    /// What is reported before the first event.
    pub at_start: AtStart,
    /// How often it is reported that the agent is alive; `None`: never.
    pub heartbeat: Option<DurationNs>,
    /// Whether an output shows the hashes of executables, or rules that are not these look at them. Else no file is read for one.
    pub hashes: bool,
    /// Whether what is wrong with the agent itself is reported as alerts.
    pub health: bool,
    /// What rules learned in earlier runs, see [`super::state`].
    pub memory: Option<PathMemory>,
}

/// What is reported before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// Nothing.
    #[default]
    Nothing,
    /// The connections and listeners that are there, as events with the number 0.
    Existing,
    /// The start of the run and everything that is there, so that the rules can be applied to it again.
    Recording,
}

/// An agent that traces.
pub struct Agent {
    /// The attached programs.
    pub session: Session,
    /// Their records.
    pub reader: RingReader,
    /// What they become.
    pub pipeline: Pipeline,
    /// What could not be seen of the state before the attach.
    pub notes: Vec<String>,
    /// The agent's own process id as the kernel numbers it, if the self-test was made: in a pid namespace it is not the one that the
    /// process knows itself.
    pub own: Option<Pid>,
    /// The priority that was granted to the thread that reads.
    pub granted: Granted,
    pub(super) priority: priority::Held,
    pub(super) resync: Resync,
    pub(super) reloads: mpsc::Receiver<Staged>,
    rules: mpsc::Sender<Staged>,
}

impl Agent {
    /// How often the tables were repaired after a loss.
    pub const fn resyncs(&self) -> ResyncStats {
        self.resync.stats()
    }

    /// Where other rules are handed in while the agent runs: they take over as a whole. They are made ready elsewhere, from
    /// [`Self::layout`] on.
    pub fn rules(&self) -> mpsc::Sender<Staged> {
        self.rules.clone()
    }

    /// The active rules.
    pub fn layout(&self) -> Arc<Layout> {
        self.pipeline.engine().map(|engine| Arc::clone(engine.layout())).unwrap_or_default()
    }
}

/// Why the agent did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Programs could not be loaded or attached.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A hook is silent.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// A thread or the clock failed.
    #[error("starting: {0}")]
    Io(#[from] io::Error),
}

/// Starts tracing. Events of others that happen meanwhile are reported, those of the self-test are not.
///
/// # Errors
/// When nothing can be attached, or a hook is silent.
pub async fn start(options: AgentOptions, emit: &mut impl FnMut(&Event)) -> Result<Agent, StartError> {
    let mut notes = Vec::new();
    // Before the attach: it is no event of the run.
    let files = FileWorkers::processes().unwrap_or_else(|error| {
        notes.push(format!(
            "files are read by threads ({error}): a file system that does not answer may keep conn from ending"
        ));
        FileWorkers::threads()
    });
    // First of all: on a machine that somebody keeps busy the start takes minutes otherwise.
    let (mut priority, granted) = priority::Held::begin(options.priority);
    let btf = Btf::from_sys_fs();
    let mut facts = KernelFacts::gather(&btf);
    // So far it has only used the processor: had it little of it, it will have little for the rest of the start too.
    priority.keep(true);
    let loader = Loader::new(&btf)?;
    // It is large, and asked no more.
    drop(btf);
    loader.probe(&mut facts)?;
    // Before anything is recorded: with many rules it takes long.
    let staged = options.rules.as_ref().map(Staged::from);
    let by_rules = options.rules.iter().flat_map(|set| &set.rules).any(|rule| rule.needs_hashes());
    // A test compiles the default rules: they have the names.
    let tools = defaults::tool_names().unwrap_or_default();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let hashes = options.hashes || by_rules;
    let inspector = Inspector::start_with_tools(&ProcFs::default(), files, hashes, &tools)?;
    let attached = boot_now();
    let (mut session, reader) = loader.start(facts, options.load)?;
    priority.watch(reader.gauge())?;
    drop(loader);
    let execs = session.take_exec_counts().map(|execs| Box::new(execs) as Box<dyn CountExecs>);
    let processes =
        ProcessTable::default().with_inspector(inspector).with_exec_counts(execs).knowing_conn()?;
    let flows = FlowTable::default().with_cookies(session.by_cookie());
    let (rules, reloads) = mpsc::channel(1);
    let mut agent = Agent {
        session,
        reader,
        pipeline: Pipeline::new(attached, processes, flows)
            .with_memory(options.memory)
            .with_health(options.health)
            .with_samples(Samples::start("/proc")?),
        notes,
        own: None,
        granted,
        priority,
        resync: Resync::default(),
        reloads,
        rules,
    };
    // After the attach: what is born later has a record, what was born earlier is in /proc.
    let (mut backlog, reader) = (Backlog::default(), &mut agent.reader);
    agent.pipeline.processes().scan_and(&mut || backlog.fill(reader))?;
    take_in(&mut agent, backlog, staged, options.at_start, emit).await?;
    if let Some(every) = options.heartbeat {
        agent.pipeline.set_pulse(every, boot_now());
    }
    if options.self_test {
        self_test(&mut agent, emit).await?;
    }
    // After the self-test, in which that hook is silent. Whoever begins after the attach has a record.
    if compat::is_any_running(Path::new("/proc")) {
        agent.session.trace_compat();
    }
    Ok(agent)
}

/// Takes in what was there before the attach. The records that come meanwhile are handled afterwards.
async fn take_in(
    agent: &mut Agent,
    mut backlog: Backlog,
    rules: Option<Staged>,
    at_start: AtStart,
    emit: &mut impl FnMut(&Event),
) -> Result<(), StartError> {
    let favoured = agent.priority.is_better();
    let mut task = tokio::task::spawn_blocking(move || {
        // The start waits for it.
        if favoured {
            priority::favour_thread();
        }
        snapshot::take(&SnapshotOptions::starting())
    });
    let taken = loop {
        agent.priority.keep(agent.reader.is_behind());
        let turn = if backlog.is_full() {
            Turn::Nap(Duration::from_millis(10))
        } else {
            agent.reader.turn(BATCH, |bytes| backlog.push(bytes))
        };
        tokio::select! {
            taken = &mut task => break taken.map_err(io::Error::other)?,
            rested = rest(&agent.reader, turn) => rested?,
        }
    };
    match taken {
        Ok(snapshot) => {
            agent.notes.extend(snapshot.notes.iter().map(ToString::to_string));
            let merged = agent.pipeline.merge_start(snapshot);
            if merged.not_kept > 0 {
                agent.notes.push(format!(
                    "{} sockets that were there before are not followed: the tables are full",
                    merged.not_kept
                ));
            }
        }
        Err(error) => agent.notes.push(format!("what was there before is not known: {error}")),
    }
    let reader = &mut agent.reader;
    agent.pipeline.begin(rules, at_start, boot_now(), &mut || backlog.fill(reader), emit);
    backlog.each(|bytes| agent.pipeline.on_bytes(bytes, emit));
    Ok(())
}

/// Waits for what comes after a turn: records, or the end of a nap. Not for long, so that a deadline is kept.
async fn rest(reader: &RingReader, turn: Turn) -> io::Result<()> {
    match turn {
        Turn::More => tokio::task::yield_now().await,
        Turn::Nap(nap) => tokio::time::sleep(nap).await,
        Turn::Idle => {
            tokio::select! {
                ready = reader.readable() => ready?,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }
    Ok(())
}

/// Proves that every hook delivers. What was lost is made again: the machine is busy, and the hook is not silent.
async fn self_test(agent: &mut Agent, emit: &mut impl FnMut(&Event)) -> Result<(), StartError> {
    let until = Instant::now() + SELF_TEST_PATIENCE;
    agent.pipeline.watch(Watch::new(&agent.session.plan));
    let mut attempts = 0;
    let lost = loop {
        attempts += 1;
        let before = agent.not_delivered();
        attempt(agent, &before, emit).await?;
        let lost = agent.lost_of_silent(&before);
        if lost.is_empty() || Instant::now() >= until {
            break lost;
        }
    };
    if !lost.is_empty() {
        return Err(SelfTestError::Lost { hooks: lost, attempts }.into());
    }
    if let Some(watch) = agent.pipeline.watching() {
        watch.verdict()?;
        agent.own = watch.own();
    }
    agent.pipeline.end_watch();
    Ok(())
}

/// Makes the connections, and reads until their records are there, or are known to be lost.
async fn attempt(
    agent: &mut Agent,
    before: &BTreeMap<HookId, u64>,
    emit: &mut impl FnMut(&Event),
) -> Result<(), StartError> {
    let Some(workload) = agent.pipeline.workload() else { return Ok(()) };
    let workload = workload?;
    let favoured = agent.priority.is_better();
    let mut workload = tokio::task::spawn_blocking(move || {
        if favoured {
            priority::favour_thread();
        }
        workload.run()
    });
    let mut finished = false;
    let patience = Instant::now() + SELF_TEST_PATIENCE;
    loop {
        agent.priority.keep(agent.reader.is_behind());
        let turn = agent.reader.turn(BATCH, |bytes| agent.pipeline.on_bytes(bytes, emit));
        if agent.pipeline.watching().is_none_or(Watch::is_complete) && finished {
            return Ok(());
        }
        if finished && (!agent.lost_of_silent(before).is_empty() || Instant::now() > patience) {
            return Ok(());
        }
        tokio::select! {
            result = &mut workload, if !finished => {
                finished = true;
                result.map_err(io::Error::other)??;
                // Its records are in the ring by now, where they found room.
                agent.reader.catch_up(|bytes| agent.pipeline.on_bytes(bytes, emit));
            }
            rested = rest(&agent.reader, turn) => rested?,
        }
    }
}

impl Agent {
    /// How many records of each hook found no room in the ring, or were not made because the kernel skipped the program.
    fn not_delivered(&self) -> BTreeMap<HookId, u64> {
        let lost = self.session.all_counts().into_iter();
        let mut all: BTreeMap<HookId, u64> =
            lost.map(|(hook, cpus)| (hook, cpus.iter().map(|count| count.lost).sum())).collect();
        for (hook, runs) in self.session.skipped_runs() {
            *all.entry(hook).or_default() += runs.unwrap_or(0);
        }
        all
    }

    /// Hooks that have not delivered, and of which more records are missing than before.
    fn lost_of_silent(&self, before: &BTreeMap<HookId, u64>) -> Vec<HookId> {
        let Some(watch) = self.pipeline.watching().filter(|watch| !watch.is_complete()) else {
            return Vec::new();
        };
        let now = self.not_delivered();
        let has_lost = |hook: &HookId| now.get(hook) > before.get(hook) || watch.has_backup(*hook);
        watch.silent().iter().copied().filter(has_lost).collect()
    }
}
