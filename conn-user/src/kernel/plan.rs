//! Which programs to load on this kernel, where to attach them, and why these: a pure function of the facts.

mod candidates;
mod choose;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use conn_common::hook::HookId;
use serde::{Serialize, Serializer};

use super::facts::{BtfTracepoint, Capability, KernelFacts, Lockdown};

pub use choose::assess;

/// A way to see who connects, accepts, closes and listens. All of them share the state and process tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Function entries and exits through BPF trampolines.
    Fentry,
    /// Function entries through kprobes.
    Kprobe,
    /// Tracepoints only.
    Tracepoint,
}

impl Backend {
    /// Every backend, the best first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The name on the command line.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// The name that people see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint (tp_btf)",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Backend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// Which backend the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best that works.
    #[default]
    Auto,
    /// This one or none.
    Only(Backend),
}

impl BackendChoice {
    const ALL: [Self; 4] = [
        Self::Auto,
        Self::Only(Backend::Fentry),
        Self::Only(Backend::Kprobe),
        Self::Only(Backend::Tracepoint),
    ];

    /// The name on the command line.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Only(backend) => backend.key(),
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The name is not that of a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend {0:?}: auto, fentry, kprobe or tracepoint")]
pub struct UnknownBackend(pub String);

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.key() == text)
            .ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

impl clap::ValueEnum for BackendChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.key()))
    }
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A tracepoint, with typed arguments.
    TpBtf(&'static str),
    /// Entry of a function, by trampoline.
    Fentry(&'static str),
    /// Return of a function, by trampoline.
    Fexit(&'static str),
    /// Entry of a function, by breakpoint or ftrace.
    Kprobe(&'static str),
    /// Return of a function, by a replaced return address.
    Kretprobe(&'static str),
    /// A tracepoint, as a perf event.
    Tracepoint {
        /// Directory below `events` in tracefs.
        category: &'static str,
        /// Name of the tracepoint.
        name: &'static str,
    },
}

impl Attach {
    /// E.g. `fexit:inet_csk_accept`.
    pub fn label(&self) -> String {
        match self {
            Self::TpBtf(name) => format!("tp_btf:{name}"),
            Self::Fentry(name) => format!("fentry:{name}"),
            Self::Fexit(name) => format!("fexit:{name}"),
            Self::Kprobe(name) => format!("kprobe:{name}"),
            Self::Kretprobe(name) => format!("kretprobe:{name}"),
            Self::Tracepoint { category, name } => format!("tracepoint:{category}/{name}"),
        }
    }
}

impl Serialize for Attach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.label())
    }
}

/// What a program is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Outcome and end of connections.
    State,
    /// Who opens a connection.
    Connect,
    /// Who accepts one.
    Accept,
    /// Who closes one.
    Close,
    /// Who listens, and where.
    Listen,
    /// Processes.
    Process,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::State, Self::Connect, Self::Accept, Self::Close, Self::Listen, Self::Process];

    /// The name that people see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Process => "process",
        }
    }
}

/// One program of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedProgram {
    /// Its name in the BPF object.
    pub program: &'static str,
    /// The hook that its records carry.
    #[serde(serialize_with = "hook_label")]
    pub hook: HookId,
    /// Where it is attached.
    pub attach: Attach,
    /// What it is there for.
    pub role: Role,
    /// Why this one.
    pub reason: String,
    /// Better places that this kernel does not offer, each with the reason.
    pub passed_over: Vec<(String, String)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn hook_label<S: Serializer>(hook: &HookId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(hook.label())
}

/// How the numbers of the classic tracepoints are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TracefsUse {
    /// No classic tracepoint is in the plan.
    NotNeeded,
    /// Read where it is mounted.
    Mounted,
    /// Nobody mounted it: the loader makes a mount that only it sees.
    OwnMount,
}

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The backend.
    pub backend: Backend,
    /// Every program to load and attach.
    pub programs: Vec<PlannedProgram>,
    /// A program that is loaded too, and attached when a 32-bit program is seen: it costs each system call of everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<PlannedProgram>,
    /// Better backends, and why they are not taken.
    pub refused: Vec<(Backend, String)>,
    /// What is known less exactly here than elsewhere, and what would help.
    pub notes: Vec<String>,
    /// Whether tracefs is needed.
    pub tracefs: TracefsUse,
}

impl Plan {
    /// The programs that are there for `role`.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &PlannedProgram> {
        self.programs.iter().filter(move |program| program.role == role)
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The process may not.
    #[error("{} missing{}: {remedy}", list(.missing), for_backend(*.backend))]
    Capabilities {
        /// What it lacks.
        missing: Vec<Capability>,
        /// The backend that needs them; none: every backend does.
        backend: Option<Backend>,
        /// How to grant them.
        remedy: String,
    },
    /// Capabilities of another user namespace do not reach BPF.
    #[error(
        "this process runs in a user namespace of its own (a rootless container?), where capabilities do not allow \
         tracing the kernel: run conn outside, or in a container that shares the host's user namespace"
    )]
    UserNamespace,
    /// No type information.
    #[error("{0}")]
    Btf(String),
    /// Members are missing.
    #[error("{0}")]
    Members(super::offsets::OffsetError),
    /// Lockdown forbids it.
    #[error(
        "kernel lockdown is at \"confidentiality\", where BPF programs may not read kernel memory: boot with \
         lockdown=integrity or without Secure Boot's lockdown to trace here"
    )]
    Lockdown,
    /// The tracepoints that every backend needs do not work.
    #[error("this kernel cannot be traced: {0}")]
    Base(String),
    /// None of the wanted backends works.
    #[error("{}", no_backend(.0))]
    NoBackend(Vec<(Backend, String)>),
}

impl PlanError {
    /// Whether the same kernel would do with more privilege.
    pub const fn is_permission(&self) -> bool {
        matches!(self, Self::Capabilities { .. } | Self::UserNamespace)
    }
}

fn list(capabilities: &[Capability]) -> String {
    capabilities.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(", ")
}

fn for_backend(backend: Option<Backend>) -> String {
    backend.map_or_else(String::new, |backend| format!(" for the backend {backend}"))
}

fn no_backend(refused: &[(Backend, String)]) -> String {
    let each: Vec<_> = refused.iter().map(|(backend, why)| format!("{backend}: {why}")).collect();
    match each.as_slice() {
        [one] => format!("the backend {one}; `--backend auto` takes the best one that works"),
        _ => format!("no backend works on this kernel: {}", each.join("; ")),
    }
}

/// Why one backend is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This kernel does not have it.
    Kernel(String),
    /// These capabilities would do.
    Capabilities(Vec<Capability>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(why) => f.write_str(why),
            Self::Capabilities(missing) => write!(f, "{} missing", list(missing)),
        }
    }
}

/// Chooses a backend and its programs.
///
/// Probes that were not tried do not speak against anything, so a plan can be made before the first load; after a
/// refused load, noted in [`KernelFacts::refused`] or in the backend's probe, another plan takes the next candidate.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn plan(facts: &KernelFacts, wanted: BackendChoice) -> Result<Plan, PlanError> {
    check_base(facts)?;
    let backends = match wanted {
        BackendChoice::Auto => Backend::ALL.to_vec(),
        BackendChoice::Only(backend) => vec![backend],
    };
    let mut refused = Vec::new();
    let mut grantable = None;
    for backend in backends {
        match assess(facts, backend) {
            Ok(plan) => return Ok(Plan { refused, ..plan }),
            Err(refusal) => {
                refused.push((backend, refusal.to_string()));
                if let Refusal::Capabilities(missing) = refusal {
                    grantable.get_or_insert((backend, missing));
                }
            }
        }
    }
    Err(match grantable {
        Some((backend, missing)) => {
            let remedy = grant(facts, &missing);
            PlanError::Capabilities { missing, backend: Some(backend), remedy }
        }
        None => PlanError::NoBackend(refused),
    })
}

/// What every backend needs, the cause before the symptom.
fn check_base(facts: &KernelFacts) -> Result<(), PlanError> {
    if facts.privilege.initial_user_namespace == Some(false) {
        return Err(PlanError::UserNamespace);
    }
    let lacks = |capability: &Capability| !facts.privilege.capabilities.allows(*capability);
    let missing: Vec<_> = [Capability::Bpf, Capability::Perfmon].into_iter().filter(lacks).collect();
    if !missing.is_empty() {
        let remedy = grant(facts, &missing);
        return Err(PlanError::Capabilities { missing, backend: None, remedy });
    }
    let btf = &facts.btf;
    if !btf.present {
        return Err(PlanError::Btf(
            "this kernel has no BTF, which describes its structs: conn needs a kernel built with \
             CONFIG_DEBUG_INFO_BTF (those of the distributions are, from about 5.10 on)"
                .to_owned(),
        ));
    }
    if let Some(error) = &btf.error {
        return Err(PlanError::Btf(format!("the kernel's BTF cannot be used: {error}")));
    }
    if !btf.fatal.is_empty() {
        return Err(PlanError::Members(super::offsets::OffsetError { missing: btf.fatal.clone() }));
    }
    if facts.lockdown == Lockdown::Confidentiality {
        return Err(PlanError::Lockdown);
    }
    if let Some(why) = facts.tp_btf.refusal() {
        return Err(PlanError::Base(format!("BTF tracepoint programs are refused: {why}")));
    }
    for tracepoint in BtfTracepoint::ALL {
        let name = tracepoint.name();
        match facts.btf.tracepoints.get(&tracepoint) {
            None => return Err(PlanError::Base(format!("it has no tracepoint {name}"))),
            Some(&arguments) if arguments < tracepoint.arguments() => {
                return Err(PlanError::Base(format!(
                    "its tracepoint {name} has {arguments} arguments, conn reads {}",
                    tracepoint.arguments()
                )));
            }
            Some(_) => {}
        }
    }
    for common in candidates::COMMON {
        if let Some(why) = facts.refusal_of(common.program) {
            return Err(PlanError::Base(format!("{} is refused: {why}", common.hook.label())));
        }
    }
    Ok(())
}

/// How to get capabilities: the whole set for the file, since `setcap` replaces what was there.
fn grant(facts: &KernelFacts, missing: &[Capability]) -> String {
    let mut set =
        vec![Capability::Bpf, Capability::Perfmon, Capability::DacReadSearch, Capability::SysPtrace];
    set.extend(missing.iter().filter(|capability| !set.contains(capability)).copied().collect::<Vec<_>>());
    if locks_memory(facts) {
        set.push(Capability::SysResource);
    }
    let names: Vec<_> = set.iter().map(|capability| capability.name().to_ascii_lowercase()).collect();
    format!(
        "run it with sudo, or grant them once with `sudo setcap {}+ep {}`",
        names.join(","),
        shell_word(&facts.executable)
    )
}

/// A path as a word of a shell command; a path with odd bytes is shown escaped and does not run.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// Whether maps count against `RLIMIT_MEMLOCK`: before 5.11 (kernel commit "bpf: Eliminate rlimit-based memory
/// accounting"). Only a note depends on this.
fn locks_memory(facts: &KernelFacts) -> bool {
    let mut numbers = facts.release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (5, 11),
        _ => false,
    }
}
