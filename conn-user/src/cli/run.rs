//! `conn run`: one command, traced from its first instruction, and whether it did what was expected.

use std::cell::RefCell;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus as WaitStatus};
use std::rc::Rc;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::args::{Exit, RuleChoice, RunArgs};
use super::signals::Forwarded;
use super::tail::not_started;
use super::{emit, machine};
use crate::agent::{self, Agent, AgentOptions, AtStart, Consumer, Limits};
use crate::clock::{Clock, boot_now};
use crate::event::degraded::Degradation;
use crate::event::escape;
use crate::event::model::Event;
use crate::kernel::load::LoadOptions;
use crate::learn::run::learn;
use crate::output::junit as junit_file;
use crate::priority::Priority;
use crate::process::info::ExitStatus;
use crate::rules::RuleSet;
use crate::run::report::{Loss, Report};
use crate::run::{Run, SharedTree, json, junit, text};
use crate::units::BootNs;

/// The ports that Linux chooses from if nobody says otherwise.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// Runs `conn run`.
///
/// # Errors
/// When the tracing breaks, or a report cannot be written.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(traced(args))
}

async fn traced(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let choice = if args.rules.is_empty() { RuleChoice::None } else { RuleChoice::of(&args.rules) };
    let rules = match choice.load() {
        Ok(rules) => rules,
        Err(exit) => return Ok(exit.into()),
    };
    if rules.as_ref().is_some_and(|rules| rules.rules.is_empty()) {
        emit(
            "no rule is active, so nothing would be expected; `conn run --learn FILE` makes rules of a good run",
        );
        return Ok(Exit::Usage.into());
    }
    for file in [&args.output, &args.json, &args.junit, &args.learn].into_iter().flatten() {
        if let Err(why) = can_be_written(file) {
            emit(format_args!("{} cannot be written: {why}", escape::path(file)));
            return Ok(Exit::Usage.into());
        }
    }
    let mut signals = Forwarded::new().context("installing signal handlers")?;
    let load = LoadOptions { backend: args.backend, ring_bytes: args.ring_size, log_level: None };
    // The agent judges nothing: only what the command does is judged, here.
    let hashes = args.json.is_some()
        || rules.as_ref().is_some_and(|rules| rules.rules.iter().any(|rule| rule.needs_hashes()));
    let options = AgentOptions {
        load,
        priority: Priority::default(),
        self_test: true,
        rules: None,
        at_start: AtStart::Nothing,
        heartbeat: None,
        hashes,
        health: false,
        memory: None,
    };
    let mut nobody = |_: &Event| {};
    let started = tokio::select! {
        (signal, _) = signals.next() => return Ok(not_run(signal)),
        started = agent::start(options, &mut nobody) => started,
    };
    let mut agent = match started {
        Ok(agent) => agent,
        Err(error) => return Ok(not_started(error).into()),
    };
    let tree = SharedTree::default();
    tree.borrow_mut().expect_root(agent.own.context("the self-test did not report who we are")?);
    let follow = Rc::clone(&tree);
    agent.pipeline.follow_forks(Box::new(move |creator, start, child| {
        follow.borrow_mut().on_fork(creator, start, child);
    }));
    // What was lost before it starts hides nothing of it.
    agent.audit(&mut |_| {});
    let before = unseen(&agent, rules.as_ref());
    let mut view = View {
        run: Run::new(rules.as_ref(), Rc::clone(&tree), boot_now()),
        tree: Rc::clone(&tree),
        ended: Rc::new(Notify::new()),
    };
    // A signal that came meanwhile would never reach the command.
    tokio::select! {
        biased;
        (signal, _) = signals.next() => return Ok(not_run(signal)),
        () = tokio::task::yield_now() => {}
    }
    // Nothing reads records between here and the loop: what the command does at once waits in the ring.
    let mut child = match spawn(args) {
        Ok(child) => child,
        Err(error) => {
            let program = args.command.first().map_or(Path::new(""), Path::new);
            emit(format_args!("cannot run {}: {error}", escape::path(program)));
            return Ok(ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 }));
        }
    };
    let ended = RefCell::new(None);
    let stop = until_ended(&mut child, &mut signals, args, &tree, Rc::clone(&view.ended), &ended);
    agent::run(&mut agent, &mut view, Limits::default(), stop).await.context("tracing")?;
    let now = boot_now();
    let (status, ended_at) = ended.take().context("the command did not end")?;
    let ended = (of_wait(status.context("waiting for the command")?), ended_at);
    let unseen = unseen(&agent, rules.as_ref()).since(before);
    let command = args.command.iter().map(|word| word.as_bytes().into()).collect();
    let report = view.run.finish(command, ended, now, unseen);
    let mut code = report.exit_code(args.allow_loss, args.exit_code);
    for error in write(args, &report).into_iter().filter_map(Result::err) {
        emit(format_args!("{error:#}"));
        code = if code == 0 { Exit::Error as u8 } else { code };
    }
    Ok(ExitCode::from(code))
}

/// The command, with our standard input, output and error.
fn spawn(args: &RunArgs) -> io::Result<Child> {
    let (program, words) = args.command.split_first().ok_or(ErrorKind::InvalidInput)?;
    Command::new(program).args(words).spawn()
}

/// Waits for the command; what is sent to us is sent on. What it leaves behind is waited for if that was asked for.
async fn until_ended(
    child: &mut Child,
    signals: &mut Forwarded,
    args: &RunArgs,
    tree: &SharedTree,
    all_ended: Rc<Notify>,
    ended: &RefCell<Option<(io::Result<WaitStatus>, BootNs)>>,
) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            (signal, by_process) = signals.next() => {
                if by_process {
                    send(child, signal);
                }
            }
        }
    };
    *ended.borrow_mut() = Some((status, boot_now()));
    if let Some(time) = args.wait_tree {
        let all = async {
            // Its first record may not have been read yet.
            while tree.borrow().is_empty() || tree.borrow().living() > 0 {
                all_ended.notified().await;
            }
        };
        tokio::select! {
            () = all => {}
            () = sleep(time) => {}
            _ = signals.next() => {}
        }
    }
    tree.borrow_mut().close(boot_now());
}

/// Sends a signal to the command, which has not been waited for: its id is its own.
fn send(child: &Child, signal: i32) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // SAFETY: kill passes no pointers. It fails only if the command has ended.
        unsafe { libc::kill(pid, signal) };
    }
}

/// What the agent knows to have missed since it started and does not report as events.
fn unseen(agent: &Agent, rules: Option<&RuleSet>) -> Loss {
    let stats = agent.pipeline.stats();
    // Of a hook with a backup program the kernel's count is a bound, and no gap is reported.
    let skipped = agent.session.skipped_runs();
    let skipped = skipped.iter().filter(|(hook, _)| !hook.backups().is_empty()).filter_map(|(_, runs)| *runs);
    let ask_facts = rules.is_some_and(|rules| rules.rules.iter().any(|rule| rule.needs_late_facts()));
    let always =
        [Degradation::Processes, Degradation::Connections, Degradation::Listeners, Degradation::HeldEvents];
    let of_facts = [Degradation::Inspections, Degradation::Files];
    let dropped = always.iter().chain(of_facts.iter().filter(|_| ask_facts)).map(|what| stats.dropped(*what));
    Loss { records: stats.undecoded + skipped.sum::<u64>(), not_followed: dropped.sum() }
}

/// Whether a report can be written there: better reported before a long run than after it. Nothing is written.
fn can_be_written(path: &Path) -> Result<(), &'static str> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (path.is_dir(), folder.is_dir()) {
        (true, _) => Err("it is a folder"),
        (_, false) => Err("its folder does not exist"),
        _ => Ok(()),
    }
}

fn of_wait(status: WaitStatus) -> ExitStatus {
    // Both are of eight bits.
    let byte = |of: i32| u8::try_from(of).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(byte(code)),
        (None, signal) => ExitStatus::Signal(signal.map_or(0, byte)),
    }
}

/// A signal came before the command was started.
fn not_run(signal: i32) -> ExitCode {
    emit("ended by a signal; the command was not run");
    u8::try_from(128 + signal).map_or(Exit::Error.into(), ExitCode::from)
}

/// Writes all reports that were asked for: one that cannot be written is no reason to do without the others.
fn write(args: &RunArgs, report: &Report) -> [anyhow::Result<()>; 4] {
    let mut shown_report = Vec::new();
    let width = if args.output.is_some() { None } else { machine::message_width() };
    text::write(report, width, &mut shown_report);
    let text = match &args.output {
        Some(path) => to_file(path, &shown_report),
        None => io::stderr().write_all(&shown_report).context("writing to standard error"),
    };
    let json = args.json.as_ref().map(|path| {
        let mut out = Vec::new();
        json::write(report, &machine::identity()?, Clock::now().wall(boot_now()), &mut out);
        to_file(path, &out)
    });
    let junit = args.junit.as_ref().map(|path| {
        junit_file::write(path, &report.command_line(), &junit::cases(report, args.allow_loss))
            .with_context(|| format!("cannot write {}", escape::path(path)))
    });
    let learnt = args.learn.as_ref().map(|path| write_learnt(path, report));
    [text, json.unwrap_or(Ok(())), junit.unwrap_or(Ok(())), learnt.unwrap_or(Ok(()))]
}

fn write_learnt(path: &Path, report: &Report) -> anyhow::Result<()> {
    if report.ended != ExitStatus::Code(0) {
        emit(format_args!("warning: {} is not written: the command failed", escape::path(path)));
        return Ok(());
    }
    let good = report.good_run(ephemeral().unwrap_or(EPHEMERAL));
    if good.lost > 0 {
        emit(format_args!("warning: {} is incomplete: records were lost; learn again", escape::path(path)));
    }
    to_file(path, learn(&good)?.as_bytes())
}

fn to_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", escape::path(path)))
}

/// The ports that the kernel chooses from.
fn ephemeral() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace();
    Some(words.next()?.parse().ok()?..=words.next()?.parse().ok()?)
}

struct View {
    run: Run,
    tree: SharedTree,
    ended: Rc<Notify>,
}

impl Consumer for View {
    fn on_event(&mut self, event: &Event) {
        self.run.on_event(event);
        if self.tree.borrow().living() == 0 {
            self.ended.notify_one();
        }
    }

    fn waits_for_facts(&self) -> bool {
        self.run.waits_for_facts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_needs_a_folder() {
        assert_eq!(can_be_written(Path::new("report.xml")), Ok(()));
        assert_eq!(can_be_written(&std::env::temp_dir().join("report.xml")), Ok(()));
        assert!(can_be_written(&std::env::temp_dir()).is_err_and(|why| why.contains("is a folder")));
        assert!(
            can_be_written(Path::new("/nonexistent/report.xml")).is_err_and(|why| why.contains("not exist"))
        );
    }

    #[test]
    fn ends_of_a_command() {
        let end = |raw| of_wait(WaitStatus::from_raw(raw));
        assert_eq!((end(0), end(7 << 8)), (ExitStatus::Code(0), ExitStatus::Code(7)));
        assert_eq!(
            (end(9), end(15 | 0x80)),
            (ExitStatus::Signal(9), ExitStatus::Signal(15)),
            "with a core or not"
        );
    }
}
