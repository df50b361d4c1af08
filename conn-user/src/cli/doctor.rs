//! `conn doctor`: what this kernel offers, what conn makes of it, and what would help.

use std::fmt::{self, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use super::args::{DoctorArgs, Exit};
use super::machine;
use crate::event::fold::fold;
use crate::kernel::btf::Btf;
use crate::kernel::facts::{Capability, KernelFacts, Lockdown, Probe, Tracefs, TracepointId};
use crate::kernel::load::{LoadError, Loader};
use crate::kernel::plan::{
    Backend, BackendChoice, Plan, PlanError, PlannedProgram, Role, TracefsUse, assess, plan,
};
use crate::priority::{Held, Priority};

/// What became of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Chosen,
    Available,
    Refused,
    /// What no backend can do without is missing.
    Blocked,
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Available => "available",
            Self::Refused => "no",
            Self::Blocked => "blocked, see above",
        }
    }
}

#[derive(Serialize)]
struct BackendReport {
    backend: Backend,
    label: &'static str,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    version: &'static str,
    works: bool,
    backend: Option<&'static str>,
    error: Option<String>,
    permission: bool,
    /// What is granted to the thread that reads.
    priority: &'a str,
    backends: Vec<BackendReport>,
    plan: Option<&'a Plan>,
    facts: &'a KernelFacts,
}

fn backends(facts: &KernelFacts, outcome: &Result<Plan, PlanError>) -> Vec<BackendReport> {
    let report = |backend: Backend| {
        let (verdict, reason) = match (assess(facts, backend), outcome) {
            (Err(refusal), outcome) if !matches!(outcome, Err(PlanError::Btf(_))) => {
                (Verdict::Refused, Some(refusal.to_string()))
            }
            (Ok(_), Ok(plan)) if plan.backend == backend => (Verdict::Chosen, None),
            (Ok(_), Ok(_)) => (Verdict::Available, None),
            // Without BTF no function is known either, which says nothing about the backend.
            _ => (Verdict::Blocked, None),
        };
        BackendReport { backend, label: backend.label(), verdict, reason }
    };
    Backend::ALL.into_iter().map(report).collect()
}

/// Runs `conn doctor`: asks the kernel by trying, and reports.
///
/// # Errors
/// When the report cannot be written.
pub fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let btf = Btf::from_sys_fs();
    let mut facts = KernelFacts::gather(&btf);
    match Loader::new(&btf) {
        Ok(loader) => loader.probe(&mut facts)?,
        Err(error @ LoadError::Exhausted { .. }) => return Err(error.into()),
        // Without the offsets nothing can be loaded to try; the facts hold the reason.
        Err(_) => {}
    }
    let outcome = plan(&facts, BackendChoice::Auto);
    let priority = priority()?;
    let mut report = if args.json {
        json(&facts, &outcome, &priority)?
    } else {
        text(&facts, &outcome, &priority, args.verbose)
    };
    if !report.ends_with('\n') {
        report.push('\n');
    }
    let mut shown = Vec::new();
    fold(&report, machine::terminal_width().filter(|_| !args.json), &mut shown);
    super::print(&shown)?;
    Ok(match outcome {
        Ok(_) => Exit::Done,
        Err(error) if error.is_permission() => Exit::NotPermitted,
        Err(_) => Exit::Unsupported,
    })
}

/// What the thread that reads would have: asked for on a thread of its own, which ends.
fn priority() -> anyhow::Result<String> {
    let asking = std::thread::Builder::new().spawn(|| Held::begin(Priority::default()).1.to_string());
    asking.context("starting a thread")?.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
}

/// The report as one JSON object.
///
/// # Errors
/// Only if the facts cannot be written as JSON.
pub fn json(
    facts: &KernelFacts,
    outcome: &Result<Plan, PlanError>,
    priority: &str,
) -> serde_json::Result<String> {
    let plan = outcome.as_ref().ok();
    let error = outcome.as_ref().err();
    serde_json::to_string(&Report {
        kind: "doctor",
        version: env!("CARGO_PKG_VERSION"),
        works: plan.is_some(),
        backend: plan.map(|plan| plan.backend.key()),
        error: error.map(ToString::to_string),
        permission: error.is_some_and(PlanError::is_permission),
        priority,
        backends: backends(facts, outcome),
        plan,
        facts,
    })
}

/// The report for people: begins with a line that says whether tracing works here, or why not and what to do. `verbose`: with
/// the hooks of the chosen backend.
pub fn text(facts: &KernelFacts, outcome: &Result<Plan, PlanError>, priority: &str, verbose: bool) -> String {
    let mut page = Page::default();
    match outcome {
        Ok(plan) if facts.tp_btf == Probe::NotTried => page.line(format_args!(
            "conn should trace here with the backend {}; nothing was loaded to test it.",
            plan.backend
        )),
        Ok(plan) => page.line(format_args!("conn traces here with the backend {}.", plan.backend)),
        Err(error) => page.line(format_args!("conn cannot trace here: {error}.")),
    }
    page.line("");
    let release = if facts.release.is_empty() { "unknown" } else { &facts.release };
    page.fact("Kernel", format_args!("{release} ({})", facts.machine));
    page.fact("BTF", btf(facts));
    page.fact("Lockdown", lockdown(facts.lockdown));
    page.fact("Privilege", privilege(facts));
    page.fact("kprobes", kprobes(facts));
    page.fact("tracefs", tracefs(facts, outcome.as_ref().ok()));
    page.fact("Load test", load_tests(facts));
    page.fact("Priority", priority);

    page.heading("Backends");
    for report in backends(facts, outcome) {
        let reason = report.reason.map_or_else(String::new, |reason| format!(": {reason}"));
        page.item(report.label, 20, format_args!("{}{reason}", report.verdict.label()));
    }
    // Without a plan there are no notes about it, but missing members are known.
    let notes = match outcome {
        Ok(plan) => plan.notes.clone(),
        Err(_) => facts.btf.missing.iter().map(ToString::to_string).collect(),
    };
    if !notes.is_empty() {
        page.heading("What is less exact here");
        for note in notes {
            page.line(format_args!("  - {note}"));
        }
    }
    match outcome {
        Ok(plan) if verbose => {
            page.heading(&format!("Hooks of the backend {}", plan.backend));
            for role in Role::ALL {
                hooks(&mut page, plan, role);
            }
        }
        Ok(_) => page.heading("`conn doctor --verbose` lists the hooks."),
        Err(_) => {}
    }
    page.0
}

fn hooks(page: &mut Page, plan: &Plan, role: Role) {
    let mut programs = plan.of_role(role).filter(|planned| !planned.hook.is_backup()).peekable();
    if programs.peek().is_none() {
        page.item(role.label(), 8, instead(plan, role));
    }
    for program in programs {
        page.item(role.label(), 8, format_args!("{}: {}", program.hook.label(), program.reason));
        passed_over(page, program);
    }
}

fn passed_over(page: &mut Page, program: &PlannedProgram) {
    for (label, why) in &program.passed_over {
        page.item("", 8, format_args!("  not {label}: {why}"));
    }
}

/// What stands in for the hook of a role that has none.
fn instead(plan: &Plan, role: Role) -> &'static str {
    match (plan.backend, role) {
        (Backend::Tracepoint, Role::Connect) => {
            "tp_btf:inet_sock_set_state: CLOSE to SYN_SENT runs in the connecting task, before the port is chosen"
        }
        (Backend::Tracepoint, Role::Close) => {
            "tp_btf:inet_sock_set_state: the transitions that a closing task causes itself"
        }
        (_, Role::Listen) => {
            "tp_btf:inet_sock_set_state: CLOSE to LISTEN, before an automatic bind has its port"
        }
        (_, Role::Accept) => "tp_btf:inet_sock_set_state: the listener's owner stands for the acceptor",
        _ => "none",
    }
}

fn btf(facts: &KernelFacts) -> String {
    let btf = &facts.btf;
    match (&btf.error, btf.present, btf.fatal.len(), btf.missing.len()) {
        (_, false, ..) => "missing (CONFIG_DEBUG_INFO_BTF)".to_owned(),
        (Some(error), ..) => format!("cannot be used: {error}"),
        (None, true, 0, 0) => "present, with every member that conn reads".to_owned(),
        (None, true, 0, optional) => format!("present; members that conn can do without missing: {optional}"),
        (None, true, fatal, _) => format!("present; members that conn needs missing: {fatal}"),
    }
}

const fn lockdown(lockdown: Lockdown) -> &'static str {
    match lockdown {
        Lockdown::Unknown => "not shown (no lockdown module, or securityfs is not mounted)",
        Lockdown::None => "none",
        Lockdown::Integrity => "integrity: no hindrance",
        Lockdown::Confidentiality => "confidentiality: BPF programs may not read kernel memory",
    }
}

fn privilege(facts: &KernelFacts) -> String {
    let privilege = facts.privilege;
    let list = |has: bool| {
        let names: Vec<_> = Capability::ALL
            .into_iter()
            .filter(|&capability| privilege.capabilities.has(capability) == has)
            .map(Capability::name)
            .collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let namespace = match privilege.initial_user_namespace {
        Some(false) => "; in a user namespace of its own",
        _ => "",
    };
    format!("uid {}; has {}; lacks {}{namespace}", privilege.uid, list(true), list(false))
}

fn kprobes(facts: &KernelFacts) -> &'static str {
    match (facts.kprobes.supported, facts.kprobes.symbols.is_some()) {
        (false, _) => "not in this kernel",
        (true, true) => "supported",
        (true, false) => "supported; /proc/kallsyms cannot be read",
    }
}

fn tracefs(facts: &KernelFacts, plan: Option<&Plan>) -> String {
    match &facts.tracefs {
        Tracefs::Mounted { path, sys_exit_accept, sys_exit_accept4 } => {
            let id = |id: &TracepointId| match id {
                TracepointId::Readable => "readable".to_owned(),
                TracepointId::Absent => "absent".to_owned(),
                TracepointId::Refused { errno } => format!("refused with errno {errno}"),
            };
            format!(
                "mounted at {}; sys_exit_accept {}, sys_exit_accept4 {}",
                path.display(),
                id(sys_exit_accept),
                id(sys_exit_accept4)
            )
        }
        Tracefs::NotMounted if plan.is_some_and(|plan| plan.tracefs == TracefsUse::OwnMount) => {
            "not mounted; conn uses a mount of its own that nobody else sees".to_owned()
        }
        Tracefs::NotMounted => "not mounted".to_owned(),
        Tracefs::Unsupported => "not in this kernel".to_owned(),
    }
}

fn load_tests(facts: &KernelFacts) -> String {
    let probe = |probe: &Probe| match probe {
        Probe::NotTried => "not tried".to_owned(),
        Probe::Works => "works".to_owned(),
        refused @ Probe::Refused { .. } => format!("refused: {}", refused.refusal().unwrap_or_default()),
    };
    let cookie = match facts.cookie_helper {
        None => "not tried",
        Some(true) => "works",
        Some(false) => "refused",
    };
    [
        ("tp_btf", probe(&facts.tp_btf)),
        ("fentry", probe(&facts.fentry)),
        ("kprobe", probe(&facts.kprobe)),
        ("tracepoint", probe(&facts.tracepoint)),
        ("socket cookie", cookie.to_owned()),
    ]
    .map(|(name, result)| format!("{name} {result}"))
    .join("; ")
}

/// Text in columns. Control characters, which a file name may contain, are escaped.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: impl fmt::Display) {
        for c in text.to_string().chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.0.push('\n');
        self.line(text);
    }

    fn fact(&mut self, name: &str, value: impl fmt::Display) {
        self.line(format_args!("{name:<11}{value}"));
    }

    fn item(&mut self, name: &str, width: usize, value: impl fmt::Display) {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write!(line, "  {name:<width$} {value}");
        self.line(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::facts::Capabilities;
    use crate::kernel::offsets::MissingMember;
    use crate::kernel::plan::fixtures::{debian_5_10, debian_6_12, micro_vm_6_18, no_btf, unprivileged};
    use crate::kernel::plan::{BackendChoice, plan};

    fn report(facts: &KernelFacts) -> String {
        text(facts, &plan(facts, BackendChoice::Auto), "real-time", true)
    }

    fn has(report: &str, lines: &[&str]) {
        for line in lines {
            assert!(report.lines().any(|l| l == *line), "missing: {line}\n{report}");
        }
    }

    #[test]
    fn the_whole_report() {
        let expected = "\
conn traces here with the backend tracepoint (tp_btf).

Kernel     6.18.44-fc (x86_64)
BTF        present, with every member that conn reads
Lockdown   not shown (no lockdown module, or securityfs is not mounted)
Privilege  uid 0; has CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_RESOURCE; lacks none
kprobes    not in this kernel
tracefs    not mounted; conn uses a mount of its own that nobody else sees
Load test  tp_btf works; fentry refused: EPERM (load of fentry:tcp_close: Operation not permitted); \
kprobe refused: ENOENT (attach of kprobe:tcp_close); tracepoint works; socket cookie works
Priority   real-time

Backends
  fentry               no: the kernel refuses it although no capability is missing: EPERM (load of fentry:tcp_close: Operation not permitted)
  kprobe               no: this kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)
  tracepoint (tp_btf)  chosen

What is less exact here
  - connect: the local port is chosen after the hook; an unanswered SYN is reported 20 ms late, with the port that sock_diag reports
  - accept: calls through io_uring are attributed to the listener's owner

Hooks of the backend tracepoint (tp_btf)
  state    tp_btf:inet_sock_set_state: outcome and end of every connection: failure, reset and timeout are seen nowhere else
  connect  tp_btf:inet_sock_set_state: CLOSE to SYN_SENT runs in the connecting task, before the port is chosen
  accept   tracepoint:sys_exit_accept: reports who accepted, from the descriptor that the call returned
  accept   tracepoint:sys_exit_accept4: reports who accepted, from the descriptor that the call returned
  close    tp_btf:inet_sock_set_state: the transitions that a closing task causes itself
  listen   tp_btf:inet_sock_set_state: CLOSE to LISTEN, before an automatic bind has its port
  process  tp_btf:sched_process_fork: who made whom
  process  tp_btf:sched_process_exec: path and arguments, also of a process that lives for a millisecond
  process  tp_btf:sched_process_exit: the end of a process
";
        assert_eq!(report(&micro_vm_6_18()), expected);
        let facts = micro_vm_6_18();
        let short = text(&facts, &plan(&facts, BackendChoice::Auto), "real-time", false);
        let (before, _) = expected.split_once("\nHooks").expect("hooks");
        assert_eq!(short, format!("{before}\n`conn doctor --verbose` lists the hooks.\n"));
    }

    #[test]
    fn every_choice_is_explained() {
        let report = report(&debian_5_10());
        has(
            &report,
            &[
                "  fentry               chosen",
                "  kprobe               available",
                "  tracepoint (tp_btf)  available",
                "  accept   fentry:security_sock_graft: sees every accept; called when the new socket gets its file",
                "             not fentry:__inet_accept: this kernel has no function __inet_accept",
                "conn traces here with the backend fentry.",
            ],
        );
        assert!(report.contains("What is less exact here\n  - bpf_get_socket_cookie"), "{report}");
    }

    #[test]
    fn a_problem_comes_first_with_its_remedy() {
        let facts = unprivileged();
        let report = report(&facts);
        has(&report, &["  fentry               blocked, see above"]);
        let first = report.lines().next().expect("a verdict");
        assert!(first.starts_with("conn cannot trace here: CAP_BPF, CAP_PERFMON missing"), "{first}");
        assert!(first.contains("sudo setcap cap_bpf,"), "{first}");
        assert!(!report.contains("Hooks of the backend"), "{report}");
    }

    #[test]
    fn missing_type_information() {
        let report = report(&no_btf());
        has(
            &report,
            &["BTF        missing (CONFIG_DEBUG_INFO_BTF)", "  fentry               blocked, see above"],
        );

        let mut facts = debian_6_12();
        facts.btf.missing.push(MissingMember {
            container: "task_struct".to_owned(),
            path: "loginuid.val".to_owned(),
            found: "struct task_struct has no member loginuid".to_owned(),
            loses: "the login uid is not shown".to_owned(),
        });
        let report = self::report(&facts);
        has(&report, &["BTF        present; members that conn can do without missing: 1"]);
        assert!(report.contains("loginuid.val: struct task_struct has no member loginuid; the login uid is"));
        facts.privilege.capabilities = Capabilities::default();
        assert!(self::report(&facts).contains("the login uid is not shown"), "also without a plan");
    }

    #[test]
    fn what_was_not_tried_is_not_promised() {
        let facts = KernelFacts { tp_btf: Probe::NotTried, ..debian_6_12() };
        has(
            &report(&facts),
            &["conn should trace here with the backend fentry; nothing was loaded to test it."],
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut facts = unprivileged();
        facts.executable = "/tmp/\x1b[31mred\nx".to_owned();
        facts.release = "6.12\x07".to_owned();
        let report = report(&facts);
        assert!(!report.chars().any(|c| c.is_control() && c != '\n'), "{report:?}");
        has(&report, &["Kernel     6.12\\u{7} (x86_64)"]);
    }

    #[test]
    fn json_has_the_same() {
        let facts = micro_vm_6_18();
        let outcome = plan(&facts, BackendChoice::Auto);
        let value: serde_json::Value =
            serde_json::from_str(&json(&facts, &outcome, "real-time").expect("plain data")).expect("JSON");
        assert_eq!(value["works"], true);
        assert_eq!(value["backend"], "tracepoint");
        assert_eq!(value["backends"][0]["verdict"], "refused");
        assert_eq!(value["backends"][2]["verdict"], "chosen");
        assert_eq!(value["plan"]["tracefs"], "own_mount");
        assert_eq!(value["plan"]["programs"][0]["hook"], "tp_btf:inet_sock_set_state");
        assert_eq!(value["facts"]["fentry"]["errno"], 1);

        let facts = unprivileged();
        let outcome = plan(&facts, BackendChoice::Auto);
        let value: serde_json::Value =
            serde_json::from_str(&json(&facts, &outcome, "real-time").expect("plain data")).expect("JSON");
        assert_eq!((&value["works"], &value["permission"]), (&false.into(), &true.into()));
        assert!(value["plan"].is_null() && value["error"].as_str().is_some_and(|e| e.contains("setcap")));
    }
}
