//! The machine sleeps while connections are open. Only in a virtual machine of our own, which says so.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conn_tests::clock::{boot_now, monotonic_now};
use conn_tests::event::Event;

use crate::agent::Agent;

/// How long the alarm clock waits.
const SLEEP_S: u64 = 4;
/// The alarm has whole seconds, and falling asleep takes its time too: it sleeps for less.
const ASLEEP_AT_LEAST_NS: u64 = 1_000_000_000;

/// Why it cannot be tried, if so: nobody wants a test to send a machine to sleep that is in use.
pub(crate) fn refusal() -> Option<&'static str> {
    std::env::var_os("CONN_MAY_SUSPEND").is_none().then_some("nobody said that this machine may sleep")
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    port: u16,
    /// Boot clock before and after it was made.
    begun: (u64, u64),
}

impl Pair {
    fn open(listener: &TcpListener) -> Result<Self> {
        let before = boot_now();
        let client = TcpStream::connect(listener.local_addr()?).context("connect")?;
        let server = listener.accept().context("accept")?.0;
        let port = client.local_addr()?.port();
        Ok(Self { client, server, port, begun: (before, boot_now()) })
    }

    /// Closes it and returns the bounds of its life by the boot clock.
    fn close(self) -> (u64, u64) {
        let least = boot_now() - self.begun.1;
        drop(self.client);
        drop(self.server);
        (least, boot_now() - self.begun.0)
    }
}

/// Seconds after which a connection is open for long: the machine sleeps then.
const LEVEL_S: u64 = 8;
/// How long the alarm clock waits for it: the deadline passes in the sleep.
const LONG_SLEEP_S: u64 = 10;
/// How long nothing happens after the wake-up, on the clock that stood still: less than what was left of the level on it.
const QUIET: Duration = Duration::from_secs(4);

/// Sleeps; by how much the boot clock was then ahead.
fn sleep(alarm_s: u64) -> Result<u64> {
    let asleep = || {
        let monotonic = monotonic_now();
        boot_now() - monotonic
    };
    let before = asleep();
    fs::write("/sys/class/rtc/rtc0/wakealarm", format!("+{alarm_s}")).context("set the alarm")?;
    fs::write("/sys/power/state", "mem").context("go to sleep")?;
    Ok(asleep() - before)
}

fn closed_by_client(events: &[Event], port: u16) -> Result<Event> {
    let close = events.iter().find(|event| event.kind == "close" && event.lport == Some(port));
    close.cloned().with_context(|| format!("the close of port {port} is not reported"))
}

/// Durations and ages are of the clock that goes on in sleep.
pub(crate) fn is_counted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let old = Pair::open(&listener)?;
    let watching = Agent::start(&[])?;
    let seen = Pair::open(&listener)?;
    watching.fence()?;
    let slept = sleep(SLEEP_S)?;
    ensure!(slept >= ASLEEP_AT_LEAST_NS, "the machine slept for {slept} ns only");
    watching.fence().context("after the sleep")?;

    let late = Agent::start(&["--no-rules"])?;
    let (seen_port, old_port) = (seen.port, old.port);
    let (seen_life, old_life) = (seen.close(), old.close());
    watching.fence()?;
    late.fence()?;
    let watching = watching.stop()?;
    watching.lost_nothing()?;
    let late = late.stop()?;

    let close = closed_by_client(&watching.events, seen_port)?;
    let duration = close.duration_ns.context("no duration")?;
    ensure!(
        (seen_life.0..=seen_life.1).contains(&duration) && duration >= slept,
        "it lived between {seen_life:?} ns, of which the machine slept {slept}; reported was {duration}"
    );
    for events in [&watching.events, &late.events] {
        let close = closed_by_client(events, old_port)?;
        let age = close.age.with_context(|| format!("no age: {}", close.raw))?;
        let is_bound = age.at_least_ns <= old_life.1 && age.at_most_ns.is_none_or(|most| old_life.0 <= most);
        ensure!(
            is_bound,
            "it lived between {old_life:?} ns, the machine slept {slept}; reported was {age:?}"
        );
        ensure!(age.at_most_ns.is_some(), "no upper bound: {}", close.raw);
    }
    eprintln!("the machine slept {slept} ns");
    Ok(())
}

/// A deadline that falls due in the sleep of an idle agent is kept right after it, without an event that would wake it.
pub(crate) fn deadlines_fall_due() -> Result<()> {
    let rules = std::env::temp_dir().join(format!("conn-suspend-{}.toml", std::process::id()));
    let text = format!(
        "[[rule]]\nid = \"v.asleep\"\nkind = \"long\"\nmatch = 'dir:out'\nlevels = [\"{LEVEL_S}s\"]\n"
    );
    fs::write(&rules, text).with_context(|| format!("write {}", rules.display()))?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let agent = Agent::start(&["--rules", &rules.to_string_lossy()])?;
    let pair = Pair::open(&listener)?;
    agent.fence()?;
    let slept = sleep(LONG_SLEEP_S)?;
    let awake = boot_now();
    ensure!(
        awake >= pair.begun.1 + LEVEL_S * 1_000_000_000,
        "the machine slept for {slept} ns only: the level was not reached"
    );
    // Nothing happens that could wake it up.
    std::thread::sleep(QUIET);
    let later = boot_now();
    agent.fence()?;
    drop(pair);
    let reported = agent.stop()?;
    reported.lost_nothing()?;
    let is_it = |event: &&Event| {
        event.alert.as_ref().is_some_and(|alert| alert.rule == "v.asleep" && alert.phase == "raised")
    };
    let alert = reported.events.iter().find(is_it).context("the alert was not raised")?;
    ensure!(
        alert.read_ns < later,
        "raised {} ns after the event that came {} ns after the wake-up: {}",
        alert.read_ns.saturating_sub(later),
        later - awake,
        alert.raw
    );
    fs::remove_file(&rules).context("remove the rules")
}
