//! Runs the agent and reads what it says.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use conn_tests::event::{Event, Totals};
use conn_tests::expect::Backend;

use crate::preempted;
use crate::settings;

/// How the ready line begins; the name of the backend follows.
const READY: &str = "conn: tracing with backend ";

/// What the agent has said so far.
#[derive(Default)]
struct Said {
    events: Vec<Event>,
    /// Lines that are no events.
    bad: Vec<String>,
    stderr: Vec<String>,
    backend: Option<Backend>,
    stdout_open: bool,
    stderr_open: bool,
}

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` gives something, at most this long.
    fn wait<T>(&self, limit: Duration, mut done: impl FnMut(&mut Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut said = self.lock();
        loop {
            if let Some(value) = done(&mut said) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            said = self.changed.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What takes the agent's standard output.
pub(crate) enum Output {
    /// Each line becomes an [`Event`].
    Events,
    /// A function reads it to its end.
    Reader(Box<dyn FnOnce(ChildStdout) + Send>),
}

/// A running `conn tail`.
pub(crate) struct Agent {
    child: Child,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) backend: Backend,
}

/// An agent that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: Vec<String>,
    /// Everything it reported, what came at its end included.
    pub(crate) events: Vec<Event>,
}

impl Agent {
    /// Starts `conn tail --json` on the backend under test, with more arguments, and waits until it traces.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_with(arguments, Output::Events)
    }

    pub(crate) fn start_with(arguments: &[&str], output: Output) -> Result<Self> {
        Self::of(spawn(&mut Self::command(arguments)?)?, output)
    }

    /// Starts `conn tail --json` and waits until it traces, in a time namespace whose boot clock is ahead by
    /// so many seconds.
    pub(crate) fn start_shifted(seconds: u64) -> Result<Self> {
        let start = move || {
            // SAFETY: no pointers are passed; it concerns the children of this thread only.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWTIME) };
            ensure!(unshared == 0, "unshare(CLONE_NEWTIME): {}", std::io::Error::last_os_error());
            // SAFETY: gettid has no arguments and cannot fail.
            let offsets = format!("/proc/{}/timens_offsets", unsafe { libc::gettid() });
            std::fs::write(&offsets, format!("{} {seconds} 0\n", libc::CLOCK_BOOTTIME))
                .with_context(|| format!("write {offsets}"))?;
            let mut command = Self::command(&[])?;
            // SAFETY: it does nothing. With it the standard library forks; before 6.0 a child that shares the memory
            // (`posix_spawn`) may not change its time namespace (kernel: `copy_namespaces`).
            unsafe { command.pre_exec(|| Ok(())) };
            spawn(&mut command)
        };
        // Nor may this thread start others, for the same reason.
        let child = std::thread::spawn(start).join().map_err(|_| anyhow!("a thread panicked"))??;
        Self::of(child, Output::Events)
    }

    fn command(arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(settings::conn()?);
        command.args(["tail", "--json", "--backend", &settings::backend()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn of(mut child: Child, output: Output) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.change(|said| (said.stdout_open, said.stderr_open) = (true, true));
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut threads = Vec::new();
        let (for_out, for_err) = (Arc::clone(&shared), Arc::clone(&shared));
        threads.push(std::thread::spawn(move || {
            match output {
                Output::Events => read_events(stdout, &for_out),
                Output::Reader(read) => read(stdout),
            }
            for_out.change(|said| said.stdout_open = false);
        }));
        threads.push(std::thread::spawn(move || read_stderr(stderr, &for_err)));

        let wait = shared.wait(settings::seconds(60), |said| {
            (said.backend.is_some() || !said.stderr_open).then_some(said.backend)
        });
        let mut agent = Self { child, shared, threads, backend: Backend::Tracepoint };
        if let Some(Some(backend)) = wait {
            agent.backend = backend;
            return Ok(agent);
        }
        let stderr = agent.shared.lock().stderr.join("\n    ");
        let state = if wait.is_some() { "ended" } else { "said nothing for a minute" };
        let _ = agent.child.kill();
        let status = agent.child.wait().context("wait for the agent")?;
        bail!("the agent {state} before it was ready ({status}):\n    {stderr}")
    }

    /// How many events there are: a place to look from.
    pub(crate) fn mark(&self) -> usize {
        self.shared.lock().events.len()
    }

    /// The events from a place on.
    pub(crate) fn since(&self, mark: usize) -> Vec<Event> {
        self.shared.lock().events[mark..].to_vec()
    }

    /// Waits for an event after `mark`.
    pub(crate) fn wait_for(&self, mark: usize, what: &str, is: impl Fn(&Event) -> bool) -> Result<()> {
        let mut at = mark;
        let found = self.shared.wait(settings::seconds(20), |said| {
            let found = said.events[at..].iter().any(&is);
            at = said.events.len();
            (found || !said.stdout_open).then_some(found)
        });
        ensure!(
            found == Some(true),
            "the agent did not report {what}; stderr:\n    {}\n  the last events:\n    {}",
            self.stderr(),
            self.last_events(mark)
        );
        self.well()
    }

    /// The last events after `mark`, for a message.
    fn last_events(&self, mark: usize) -> String {
        const MOST: usize = 30;
        let said = self.shared.lock();
        let from = mark.max(said.events.len().saturating_sub(MOST));
        said.events[from..].iter().map(|event| event.raw.as_str()).collect::<Vec<_>>().join("\n    ")
    }

    /// Waits until there are more than `count` events in all, or the time is over.
    pub(crate) fn wait_for_more(&self, count: usize, limit: Duration) -> bool {
        self.shared.wait(limit, |said| (said.events.len() > count).then_some(())).is_some()
    }

    /// Makes a refused connection and waits until the agent reports it: what came before it in the kernel has then
    /// been reported too, for one ring keeps the order.
    pub(crate) fn fence(&self) -> Result<()> {
        let mark = self.mark();
        let port = refused_connection()?;
        let me = std::process::id();
        self.wait_for(mark, "the refused connection of the test itself", |e| {
            e.kind == "failed" && e.rport == Some(port) && e.process.as_ref().is_some_and(|p| p.pid == me)
        })
    }

    /// Nothing but events has come.
    fn well(&self) -> Result<()> {
        let said = self.shared.lock();
        ensure!(said.bad.is_empty(), "the agent wrote lines that are no events: {:?}", said.bad);
        Ok(())
    }

    fn stderr(&self) -> String {
        self.shared.lock().stderr.join("\n    ")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("pid")?;
        // SAFETY: no pointers are passed; the pid is our child's, whom nobody has waited for yet.
        let result = unsafe { libc::kill(pid, signal) };
        ensure!(result == 0, "kill: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Ctrl-C, then everything it still says.
    pub(crate) fn stop(self) -> Result<Ended> {
        self.signal(libc::SIGINT)?;
        self.end()
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(mut self) -> Result<Ended> {
        let ended = self
            .shared
            .wait(settings::seconds(60), |said| (!said.stdout_open && !said.stderr_open).then_some(()));
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!("the agent did not end within a minute; stderr:\n    {}", self.stderr());
        }
        let status = self.child.wait().context("wait for the agent")?;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.well()?;
        let said = self.shared.lock();
        let (stderr, events) = (said.stderr.clone(), said.events.clone());
        drop(said);
        Ok(Ended { status, stderr, events })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Does nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The totals, from the last line of standard error.
    pub(crate) fn totals(&self) -> Result<Totals> {
        let line = self.stderr.iter().rfind(|l| l.starts_with("{\"kind\":\"totals\","));
        let line = line.with_context(|| format!("no totals on stderr: {:?}", self.stderr))?;
        serde_json::from_str(line).with_context(|| format!("totals: {line}"))
    }

    /// Ended with success, and lost nothing but what the kernel skipped ([`preempted`]).
    pub(crate) fn lost_nothing(&self) -> Result<Totals> {
        let gaps: Vec<_> = self.events.iter().filter(|event| event.kind == "gap").cloned().collect();
        self.lost_nothing_but(&gaps)
    }

    /// Ended with success, and lost nothing but what the kernel skipped, where somebody else read the events:
    /// these are the gaps among them.
    pub(crate) fn lost_nothing_but(&self, gaps: &[Event]) -> Result<Totals> {
        ensure!(self.status.code() == Some(0), "the agent ended with {}: {:?}", self.status, self.stderr);
        let totals = self.totals()?;
        let skipped = gaps.iter().filter(|gap| preempted::accounts_for(gap));
        let gaps_left = totals.gaps - skipped.clone().count() as u64;
        for gap in skipped {
            eprintln!("the kernel skipped {:?} runs of {:?}, and the agent counted them", gap.lost, gap.hook);
        }
        ensure!(
            (totals.lost, gaps_left, totals.undecoded) == (0, 0, 0),
            "the agent lost {} records in {} gaps and did not understand {}; gaps:\n    {}",
            totals.lost,
            totals.gaps,
            totals.undecoded,
            gaps.iter().take(10).map(|gap| gap.raw.as_str()).collect::<Vec<_>>().join("\n    ")
        );
        Ok(totals)
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| format!("start {command:?}"))
}

fn read_events(stdout: ChildStdout, shared: &Shared) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        match Event::parse(&line) {
            Ok(event) => shared.change(|said| said.events.push(event)),
            Err(e) => shared.change(|said| said.bad.push(format!("{e}: {line}"))),
        }
    }
}

fn read_stderr(stderr: ChildStderr, shared: &Shared) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { break };
        let backend = line
            .strip_prefix(READY)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
            .and_then(Backend::from_name);
        shared.change(|said| {
            said.backend = said.backend.or(backend);
            said.stderr.push(line);
        });
    }
    shared.change(|said| said.stderr_open = false);
}

/// A connection to a port on which nobody listens: which port.
pub(crate) fn refused_connection() -> Result<u16> {
    let (_held, port) = bound_port()?;
    let refused = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    ensure!(refused.is_err(), "port {port} should refuse");
    Ok(port)
}

/// A socket that is bound but does not listen. While it lives nobody else can listen there, and no connect chooses the
/// port for itself (it would connect to itself).
fn bound_port() -> Result<(OwnedFd, u16)> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_in is plain data, for which all zeroes is a value.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
    let mut length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_in of that length.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "bind: {}", std::io::Error::last_os_error());
    // SAFETY: `address` has room for `length` bytes, and both outlive the call.
    let named = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    ensure!(named == 0, "getsockname: {}", std::io::Error::last_os_error());
    Ok((fd, u16::from_be(address.sin_port)))
}

/// Reads everything.
pub(crate) fn read_all(mut from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).context("read")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
