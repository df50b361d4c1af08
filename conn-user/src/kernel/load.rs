//! Loading and attaching what the plan says, after asking the kernel by trying.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::Map;
use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError, TracePoint};
use aya::{Btf, Ebpf};
use conn_common::hook::HookId;
use thiserror::Error;

use super::btf::BtfError;
use super::counters::{Counters, CpuCount};
use super::execs::ExecIterator;
use super::exhausted::Exhausted;
use super::facts::{KernelFacts, Probe};
use super::object::{self, COUNTERS_MAP, RING_MAP, Switches};
use super::offsets::Offsets;
use super::plan::{Attach, Backend, BackendChoice, Plan, PlanError, PlannedProgram, plan};
use super::ring::RingReader;
use super::skipped::{self, KprobeLinks, Misses, SkippedRuns};
use super::tracefs::{self, TracepointError};

/// Smallest ring the kernel accepts: for the load probes, which deliver nothing.
const PROBE_RING_BYTES: u32 = 4096;

/// Name of the iterator that counts execs.
const EXECS_PROGRAM: &str = "task_execs";

/// Why tracing could not begin.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel's BTF could not be read.
    #[error("reading the kernel's BTF: {0}; conn needs a kernel with CONFIG_DEBUG_INFO_BTF")]
    Btf(String),
    /// A member that the programs need is not there.
    #[error(transparent)]
    Offsets(#[from] super::offsets::OffsetError),
    /// No backend is possible.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The maps could not be made.
    #[error("creating the BPF maps: {0}")]
    Maps(#[source] Box<aya::EbpfError>),
    /// A program of the plan was refused.
    #[error("{hook} ({program}): {step}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its hook.
        hook: &'static str,
        /// `load` or `attach`.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: RefusedError,
    },
    /// The object lacks something that it must have: the agent and the object do not belong together.
    #[error("the BPF object has no {0}: rebuild conn with `cargo xtask build`")]
    Object(&'static str),
    /// The ring buffer or the counters could not be mapped.
    #[error("mapping the BPF maps: {0}")]
    Mapping(#[source] io::Error),
    /// This process or the machine has run out of something: the kernel could do it.
    #[error("{what}: {why}")]
    Exhausted {
        /// What was tried, and what the kernel said.
        what: String,
        /// What has run out.
        why: Exhausted,
    },
    /// How many CPUs there can be is not known.
    #[error("reading /sys/devices/system/cpu/possible: {0}; conn needs /sys")]
    Cpus(#[source] io::Error),
}

impl LoadError {
    /// Itself, or what has run out if that is its cause.
    fn or_exhausted(self) -> Self {
        match Exhausted::of(errno_of(&self)) {
            Some(why) => Self::Exhausted { what: self.to_string(), why },
            None => self,
        }
    }
}

/// What the kernel said to a program.
#[derive(Debug, Error)]
pub enum RefusedError {
    /// It was not loaded, or not attached.
    #[error("{}", brief(.0))]
    Program(#[source] Box<ProgramError>),
    /// Its tracepoint is not to be had.
    #[error(transparent)]
    Tracepoint(#[from] TracepointError),
}

impl From<ProgramError> for RefusedError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

/// What the agent asks for.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Which backend.
    pub backend: BackendChoice,
    /// Bytes of the ring buffer, a power of two of at least a page.
    pub ring_bytes: u32,
    /// Level of the BPF side's own diagnostics; `None`: off.
    pub log_level: Option<aya_log::Level>,
}

/// Programs that are attached, until this is dropped.
pub struct Session {
    /// What is attached, and why.
    pub plan: Plan,
    /// Members that this kernel lacks and programs that it refused, contrary to its own description.
    pub notes: Vec<String>,
    /// The programs; none after the detach.
    ebpf: Option<Ebpf>,
    kprobe_links: KprobeLinks,
    /// Counts execs, until it is taken.
    execs: Option<ExecIterator>,
    /// How often programs were skipped until the detach.
    misses_at_detach: Vec<Misses>,
    /// Perf events that run the programs at classic tracepoints.
    tracepoints: Vec<OwnedFd>,
    counters: Counters,
    by_cookie: bool,
}

/// How many CPUs this kernel can have.
fn possible_cpus() -> Result<u16, LoadError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    u16::try_from(cpus).map_err(|error| LoadError::Cpus(io::Error::other(error)))
}

/// What every program of this kernel is bound by.
pub struct Loader {
    /// Read by aya.
    btf: Btf,
    offsets: Offsets,
}

impl Loader {
    /// Resolves the offsets of this kernel by its BTF, and has aya read that.
    ///
    /// # Errors
    /// When BTF cannot be read or a required member is missing.
    pub fn new(btf: &Result<super::btf::Btf, BtfError>) -> Result<Self, LoadError> {
        let btf = btf.as_ref().map_err(|error| btf_error(error))?;
        let offsets = Offsets::resolve(btf)?;
        let btf = Btf::from_sys_fs().map_err(|error| btf_error(&error))?;
        Ok(Self { btf, offsets })
    }

    /// Gathers what this kernel and these privileges allow, by trying: a program of each kind is loaded and attached.
    ///
    /// # Errors
    /// When the number of CPUs is not known, or something has run out, which says nothing of the kernel.
    pub fn probe(&self, facts: &mut KernelFacts) -> Result<(), LoadError> {
        probe(&self.btf, &self.offsets, facts)?;
        for probe in [&facts.tp_btf, &facts.fentry, &facts.kprobe, &facts.tracepoint] {
            if let Probe::Refused { errno, what } = probe
                && let Some(why) = Exhausted::of(*errno)
            {
                return Err(LoadError::Exhausted { what: what.clone(), why });
            }
        }
        Ok(())
    }

    /// Plans, loads and attaches. When the kernel refuses a program, plans again without it: the next candidate of that
    /// hook is taken, or the next backend.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When no backend can be had; the error reports which program the kernel refused, or what is missing.
    pub fn start(
        &self,
        mut facts: KernelFacts,
        options: LoadOptions,
    ) -> Result<(Session, RingReader), LoadError> {
        loop {
            let plan = plan(&facts, options.backend)?;
            let started = attach(&self.btf, &facts, &self.offsets, plan, options);
            match started.map_err(LoadError::or_exhausted) {
                Ok(started) => return Ok(started),
                Err(LoadError::Program { program, hook, step, source })
                    if !facts.refused.contains_key(program) =>
                {
                    let what = format!("{step} of {hook}: {source}");
                    facts
                        .refused
                        .insert(program.to_owned(), Probe::Refused { errno: errno_of(&source), what });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn probe(btf: &Btf, offsets: &Offsets, facts: &mut KernelFacts) -> Result<(), LoadError> {
    let cpus = possible_cpus()?;
    let mut ebpf = match object::open(btf, offsets, Switches::default(), PROBE_RING_BYTES, cpus) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let refused = Probe::Refused {
                errno: errno_of(&error),
                what: format!("creating the BPF maps: {}", chain(&error)),
            };
            facts.tp_btf = refused.clone();
            facts.fentry = refused.clone();
            facts.kprobe = refused.clone();
            facts.tracepoint = refused;
            return Ok(());
        }
    };
    let mut attempt = |program: &'static str, attach: Attach, load_only: bool| match try_program(
        &mut ebpf, btf, program, &attach, load_only,
    ) {
        Ok(()) => Probe::Works,
        Err((step, error)) => {
            Probe::Refused { errno: errno_of(&error), what: format!("{step} of {}: {error}", attach.label()) }
        }
    };
    // The smallest program of its kind: to verify that of the states costs a tenth of a second.
    facts.tp_btf = attempt("process_fork", Attach::TpBtf("sched_process_fork"), false);
    facts.cookie_helper =
        Some(matches!(attempt("probe_cookie", Attach::TpBtf("inet_sock_set_state"), true), Probe::Works));
    facts.fentry = attempt("fentry_tcp_close", Attach::Fentry("tcp_close"), false);
    facts.kprobe = attempt("kprobe_tcp_close", Attach::Kprobe("tcp_close"), false);
    facts.tracepoint = attempt(
        "sys_exit_accept4",
        Attach::Tracepoint { category: "syscalls", name: "sys_exit_accept4" },
        false,
    );
    Ok(())
}

fn attach(
    btf: &Btf,
    facts: &KernelFacts,
    offsets: &Offsets,
    plan: Plan,
    options: LoadOptions,
) -> Result<(Session, RingReader), LoadError> {
    let cookie_helper = facts.cookie_helper == Some(true);
    let switches = Switches {
        cookie_helper,
        state_reports_all: plan.backend == Backend::Tracepoint,
        ask_cookie_early: plan.backend == Backend::Kprobe && cookie_helper,
        state_reports_listen: !plan.programs.iter().any(|planned| {
            matches!(
                planned.hook,
                HookId::FexitListenStart | HookId::KprobeInetHash | HookId::KprobeInet6Hash
            )
        }),
        second_backups: plan.programs.iter().any(|planned| planned.hook == HookId::StateSecondBackup),
        log_level: options.log_level.map_or(0, |level| level as u8),
    };
    let cpus = possible_cpus()?;
    let mut ebpf = object::open(btf, offsets, switches, options.ring_bytes, cpus)
        .map_err(|error| LoadError::Maps(Box::new(error)))?;
    // Everything is loaded before anything is attached: no record is written for a plan that fails.
    for planned in plan.programs.iter().chain(&plan.compat) {
        load_program(&mut ebpf, btf, planned.program, &planned.attach)
            .map_err(|source| program_error(planned, "load", source))?;
    }
    let (execs, no_execs) = load_iterator(&mut ebpf, btf).map_or_else(
        |error| (None, Some(format!("load of iter:task ({EXECS_PROGRAM}): {error}; after a loss an exec may go unnoticed until its process is seen again"))),
        |execs| (Some(execs), None),
    );
    let Some(Map::RingBuf(ring)) = ebpf.map(RING_MAP) else { return Err(LoadError::Object(RING_MAP)) };
    let reader = RingReader::new(ring.fd().as_fd(), options.ring_bytes).map_err(LoadError::Mapping)?;
    let Some(Map::Array(counters)) = ebpf.map(COUNTERS_MAP) else {
        return Err(LoadError::Object(COUNTERS_MAP));
    };
    let counters = Counters::new(counters.fd().as_fd(), cpus).map_err(LoadError::Mapping)?;
    let mut tracepoints = Vec::new();
    // A backup program must run after its first program, which is before it in the plan. A tracepoint runs its programs in
    // the order of attaching (`func_add`, kernel/tracepoint.c), a trampoline in the reverse (`bpf_trampoline_link_prog`
    // adds at the head).
    let is_trampoline =
        |planned: &&PlannedProgram| matches!(planned.attach, Attach::Fentry(_) | Attach::Fexit(_));
    let others = plan.programs.iter().filter(|planned| !is_trampoline(planned));
    for planned in plan.programs.iter().rev().filter(is_trampoline).chain(others) {
        let event = attach_program(&mut ebpf, planned.program, &planned.attach)
            .map_err(|source| program_error(planned, "attach", source))?;
        tracepoints.extend(event);
    }
    object::release();
    let refused = facts.refused.values().filter_map(Probe::refusal);
    let notes = offsets.missing.iter().map(ToString::to_string).chain(refused).chain(no_execs).collect();
    Ok((
        Session {
            kprobe_links: KprobeLinks::find(&ebpf, &plan),
            plan,
            notes,
            ebpf: Some(ebpf),
            misses_at_detach: Vec::new(),
            execs,
            tracepoints,
            counters,
            by_cookie: cookie_helper,
        },
        reader,
    ))
}

impl Session {
    /// What the kernel counted for this hook, by CPU.
    pub fn counts(&self, hook: HookId) -> Vec<CpuCount> {
        self.counters.of(hook)
    }

    /// Whether records carry the cookies of sockets; else kernel addresses.
    pub const fn by_cookie(&self) -> bool {
        self.by_cookie
    }

    /// Hands over what counts execs; `None` where the kernel refused it, and the second time.
    pub const fn take_exec_counts(&mut self) -> Option<ExecIterator> {
        self.execs.take()
    }

    /// Traces the accepts of 32-bit programs from now on, if the plan has a program for that.
    pub fn trace_compat(&mut self) {
        let (Some(planned), Some(ebpf)) = (self.plan.compat.take(), &mut self.ebpf) else { return };
        match attach_program(ebpf, planned.program, &planned.attach) {
            Ok(_) => self.plan.programs.push(planned),
            Err(error) => self.notes.push(format!(
                "attach of {}: {error}; the accepts of 32-bit programs are attributed to the listener's owner",
                planned.hook.label()
            )),
        }
    }

    /// What the kernel counts for every attached hook, by CPU.
    pub fn all_counts(&self) -> Vec<(HookId, Vec<CpuCount>)> {
        self.plan.programs.iter().map(|planned| (planned.hook, self.counts(planned.hook))).collect()
    }

    /// Detaches every program. When this returns no program writes any more, but those that run just now.
    pub fn detach(&mut self) {
        self.misses_at_detach = self.misses().into_owned();
        self.ebpf = None;
        self.tracepoints.clear();
    }

    /// How often the kernel skipped the programs of each hook, and no backup program made up for it.
    pub fn skipped_runs(&self) -> SkippedRuns {
        let made_up = |hook| self.counts(hook).iter().map(|count| count.unmarked).sum();
        self.misses().iter().map(|misses| misses.lost(made_up)).collect()
    }

    fn misses(&self) -> Cow<'_, [Misses]> {
        match &self.ebpf {
            Some(ebpf) => Cow::Owned(skipped::misses(ebpf, &self.plan, &self.kprobe_links)),
            None => Cow::Borrowed(&self.misses_at_detach),
        }
    }

    /// The reader of the BPF side's own diagnostics; none when the level removed them all.
    pub fn log<L: log::Log>(&mut self, logger: L) -> Option<aya_log::EbpfLogger<L>> {
        aya_log::EbpfLogger::init_with_logger(self.ebpf.as_mut()?, logger).ok()
    }
}

fn program_error(planned: &PlannedProgram, step: &'static str, source: RefusedError) -> LoadError {
    LoadError::Program { program: planned.program, hook: planned.hook.label(), step, source }
}

fn try_program(
    ebpf: &mut Ebpf,
    btf: &Btf,
    program: &'static str,
    attach: &Attach,
    load_only: bool,
) -> Result<(), (&'static str, RefusedError)> {
    load_program(ebpf, btf, program, attach).map_err(|error| ("load", error))?;
    if !load_only {
        attach_program(ebpf, program, attach).map_err(|error| ("attach", error))?;
    }
    Ok(())
}

fn find<'a, T>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(program).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn load_program(ebpf: &mut Ebpf, btf: &Btf, program: &str, attach: &Attach) -> Result<(), RefusedError> {
    match *attach {
        Attach::TpBtf(tracepoint) => find::<BtfTracePoint>(ebpf, program)?.load(tracepoint, btf)?,
        Attach::Fentry(function) => find::<FEntry>(ebpf, program)?.load(function, btf)?,
        Attach::Fexit(function) => find::<FExit>(ebpf, program)?.load(function, btf)?,
        Attach::Kprobe(_) | Attach::Kretprobe(_) => find::<KProbe>(ebpf, program)?.load()?,
        Attach::Tracepoint { .. } => find::<TracePoint>(ebpf, program)?.load()?,
    }
    Ok(())
}

/// Loads the iterator over tasks, which runs only when it is read.
fn load_iterator(ebpf: &mut Ebpf, btf: &Btf) -> Result<ExecIterator, RefusedError> {
    let program: &mut Iter = find(ebpf, EXECS_PROGRAM)?;
    program.load("task", btf)?;
    let fd = program.fd()?.as_fd().try_clone_to_owned().map_err(ProgramError::IOError)?;
    Ok(ExecIterator::new(fd))
}

/// Attaches a loaded program; the perf event of a classic tracepoint. Other links live as long as their program.
fn attach_program(ebpf: &mut Ebpf, program: &str, attach: &Attach) -> Result<Option<OwnedFd>, RefusedError> {
    match *attach {
        Attach::TpBtf(_) => {
            find::<BtfTracePoint>(ebpf, program)?.attach()?;
        }
        Attach::Fentry(_) => {
            find::<FEntry>(ebpf, program)?.attach()?;
        }
        Attach::Fexit(_) => {
            find::<FExit>(ebpf, program)?.attach()?;
        }
        Attach::Kprobe(function) | Attach::Kretprobe(function) => {
            find::<KProbe>(ebpf, program)?.attach(function, 0)?;
        }
        Attach::Tracepoint { category, name } => {
            let program = find::<TracePoint>(ebpf, program)?;
            return Ok(Some(tracefs::attach(program.fd()?.as_fd(), category, name)?));
        }
    }
    Ok(None)
}

fn btf_error(error: &(dyn std::error::Error + 'static)) -> LoadError {
    match Exhausted::of(errno_of(error)) {
        Some(why) => LoadError::Exhausted { what: format!("reading the kernel's BTF: {error}"), why },
        None => LoadError::Btf(error.to_string()),
    }
}

/// The `errno` at the bottom of an error, 0 if there is none.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> i32 {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return errno;
        }
        current = error.source();
    }
    0
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(cause) = current {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        current = cause.source();
    }
    text
}

/// What the kernel said, without the verifier's log.
fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_is_no_fault_of_the_kernel() {
        let error = |errno| LoadError::Mapping(io::Error::from_raw_os_error(errno)).or_exhausted();
        for (errno, remedy) in
            [(libc::EMFILE, "LimitNOFILE="), (libc::ENFILE, "fs.file-max"), (libc::ENOMEM, "MemoryMax=")]
        {
            let error = error(errno);
            assert!(matches!(error, LoadError::Exhausted { .. }), "{error:?}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        assert!(matches!(error(libc::EPERM), LoadError::Mapping(_)));
        let btf = BtfError::Read { path: "/x".into(), error: io::Error::from_raw_os_error(libc::EMFILE) };
        assert!(matches!(btf_error(&btf), LoadError::Exhausted { .. }));
    }
}
