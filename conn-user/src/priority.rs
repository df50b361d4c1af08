//! The priority of the thread that reads the ring.
//!
//! A local user who starts enough busy threads leaves an ordinary reader a small share of the processors, and the ring
//! overflows: the user has blinded the agent. So the reader takes real-time priority, which ordinary threads cannot take a
//! processor from, for as long as others keep it from the processor while records wait.
//!
//! Not always: whoever is woken at once by what others do interrupts them in the midst of it, in BPF programs too, which the
//! kernel then skips for whoever comes next on that processor (`__bpf_prog_enter_recur`, kernel/bpf/trampoline.c); and each
//! interruption costs who is traced. For the same reason it has a better nice value only where real-time priority is refused,
//! or needed. (With `CONFIG_SCHED_AUTOGROUP` a nice value counts within a session alone, sched(7): against many sessions it
//! helps little.) The reader gives it back for the rest of a period in which it has used its budget, so that a storm of events
//! cannot make it take a processor from everybody else.

mod on_demand;
mod watch;

use std::fmt;
use std::io;
use std::time::Duration;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use self::on_demand::{BUDGET, Budget, OnDemand, PERIOD, Step};
pub use self::watch::Gauge;
use self::watch::Watch;

/// The lowest real-time priority: above every ordinary thread, below every other real-time one (sched(7)).
const REALTIME: libc::c_int = 1;
/// The nice value, at the ordinary policy: the weight of 29 ordinary threads
/// (`sched_prio_to_weight`, kernel/sched/core.c).
const NICE: libc::c_int = -15;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// That of the process, and real-time while others keep the thread from the processor; where that is refused, a better
    /// nice value.
    #[default]
    Auto,
    /// Real-time, within a budget; where that is refused, a better nice value.
    Realtime,
    /// A better nice value.
    Nice,
    /// That of the process.
    Normal,
}

/// What was granted.
#[derive(Debug)]
pub enum Granted {
    /// Real-time priority when it is needed.
    WhenStarved,
    /// Real-time priority.
    Realtime,
    /// A better nice value; why not real-time priority, where that was asked for.
    Nice(Option<io::Error>),
    /// Nothing; why, where something was asked for.
    Normal(Option<io::Error>),
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (budget, period) = (BUDGET.as_millis(), PERIOD.as_millis());
        match self {
            Self::WhenStarved => write!(
                f,
                "real-time while others keep it from the processor, for {budget} of {period} ms at most"
            ),
            Self::Realtime => write!(f, "real-time, for {budget} of {period} ms at most"),
            Self::Nice(None) => write!(f, "nice {NICE}"),
            Self::Nice(Some(why)) => write!(f, "nice {NICE}; real-time priority is refused: {why}"),
            Self::Normal(None) => f.write_str("that of the process"),
            Self::Normal(Some(why)) => write!(
                f,
                "that of the process: {why}; busy processes can keep the reader from the processor, and records are lost \
                 then; CAP_SYS_NICE or `ulimit -r 1` lets it have real-time priority"
            ),
        }
    }
}

/// The priority of a thread, while it keeps its budget.
#[derive(Debug)]
pub struct Held(Kind);

#[derive(Debug)]
enum Kind {
    /// It stays as it is: a better one was granted, or not.
    Fixed { is_better: bool },
    /// Real-time.
    Always(Budget),
    /// Real-time when it is needed.
    WhenStarved {
        on_demand: OnDemand,
        watch: Option<Watch>,
        /// The nice value when it is not needed.
        nice: libc::c_int,
    },
}

impl Held {
    /// Gives the calling thread this priority, or the best that is granted. What it starts has the default one.
    pub fn begin(wanted: Priority) -> (Self, Granted) {
        let mut refused = None;
        if matches!(wanted, Priority::Auto | Priority::Realtime) {
            let nice = nice();
            match raise(0) {
                Ok(()) if wanted == Priority::Realtime => {
                    return (Self(Kind::Always(Budget::new(now(), cpu()))), Granted::Realtime);
                }
                Ok(()) => {
                    // A lower priority is always granted.
                    let _ = set_ordinary().and_then(|()| set_nice(0, nice));
                    let on_demand = OnDemand::new(now(), cpu());
                    return (Self(Kind::WhenStarved { on_demand, watch: None, nice }), Granted::WhenStarved);
                }
                Err(error) => refused = Some(error),
            }
        }
        if wanted == Priority::Normal {
            return (Self(Kind::Fixed { is_better: false }), Granted::Normal(None));
        }
        match set_ordinary().and_then(|()| set_nice(0, NICE)) {
            Ok(()) => (Self(Kind::Fixed { is_better: true }), Granted::Nice(refused)),
            Err(error) => (Self(Kind::Fixed { is_better: false }), Granted::Normal(Some(error))),
        }
    }

    /// Whether the thread has a better priority than that of the process, so that whom it waits for should have one too.
    pub fn is_better(&self) -> bool {
        match &self.0 {
            Kind::Fixed { is_better } => *is_better,
            Kind::Always(_) => true,
            Kind::WhenStarved { on_demand, .. } => on_demand.is_raised(),
        }
    }

    /// Has the thread given what it needs also while it cannot run itself. To be called on the thread that began.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&mut self, gauge: impl Gauge) -> io::Result<()> {
        if let Kind::WhenStarved { watch, .. } = &mut self.0 {
            *watch = Some(Watch::start(gauge)?);
        }
        Ok(())
    }

    /// Keeps the budget, and takes what is needed. To be called often, on the thread that began, before it does what waits;
    /// `is_behind`: that is much.
    pub fn keep(&mut self, is_behind: bool) {
        let (step, nice) = match &mut self.0 {
            Kind::Fixed { .. } => return,
            Kind::Always(budget) => (budget.at(now(), cpu()), NICE),
            Kind::WhenStarved { on_demand, watch, nice } => {
                if let Some(watch) = watch {
                    watch.touch();
                    if watch.has_raised() {
                        on_demand.raise(now(), cpu());
                    }
                }
                if on_demand.is_calm(is_behind) {
                    return;
                }
                let step = on_demand.at(now(), cpu(), is_behind);
                match (step, watch, on_demand.next_period()) {
                    (Some(Step::GiveBack), Some(watch), Some(again)) => watch.pause(again),
                    (Some(Step::TakeAgain), Some(watch), _) => watch.resume(),
                    _ => {}
                }
                (step, *nice)
            }
        };
        let done = match step {
            None => return,
            Some(Step::Raise) => raise(0),
            Some(Step::GiveBack) => set_ordinary(),
            Some(Step::TakeAgain) => set_realtime(0),
            Some(Step::Lower) => set_ordinary().and_then(|()| set_nice(0, nice)),
        };
        if done.is_err() {
            // It was granted before, and may be taken away: by a limit of the control group, or with the privilege.
            self.0 = Kind::Fixed { is_better: true };
        }
    }
}

/// Gives the calling thread, whose work the reader waits for, a better nice value, where that is granted.
pub fn favour_thread() {
    let _ = set_nice(0, NICE);
}

fn now() -> Duration {
    elapsed(ClockId::Monotonic)
}

fn elapsed(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The processor time of the calling thread.
fn cpu() -> Duration {
    elapsed(ClockId::ThreadCPUTime)
}

/// Of the thread with this id; 0: the calling one.
fn set_realtime(thread: libc::pid_t) -> io::Result<()> {
    // Threads and processes that this one starts begin with the default priority: neither the work of others nor a traced
    // command is to have this one.
    set_policy(thread, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, REALTIME)
}

fn set_ordinary() -> io::Result<()> {
    set_policy(0, libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0)
}

fn set_policy(thread: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are read during the call.
    result(unsafe { libc::sched_setscheduler(thread, policy, &raw const param) })
}

/// Gives the thread with this id real-time priority, and a better nice value for the rest of each period. The two are granted
/// apart: a limit on real-time priority (`RLIMIT_RTPRIO`) allows no nice value.
fn raise(thread: libc::pid_t) -> io::Result<()> {
    let _ = set_nice(thread, NICE);
    set_realtime(thread)
}

/// The nice value of the calling thread.
fn nice() -> libc::c_int {
    // SAFETY: no pointers. 0 is the calling thread, which exists, so that no result is an error.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

fn set_nice(thread: libc::pid_t, nice: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers. In Linux a nice value is of a thread, and 0 the calling one (setpriority(2)).
    result(unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.unsigned_abs(), nice) })
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Whatever is asked for and granted, what the thread starts has no better priority for it.
    #[test]
    fn a_command_does_not_inherit_it() {
        for wanted in [Priority::Auto, Priority::Realtime, Priority::Nice] {
            let nice = std::thread::spawn(move || {
                let (mut held, granted) = Held::begin(wanted);
                held.keep(true);
                let out = Command::new("nice").output().expect("nice(1)");
                (String::from_utf8_lossy(&out.stdout).trim().to_owned(), granted.to_string())
            });
            let (shown, granted) = nice.join().expect("it ends");
            let nice: i32 = shown.parse().expect("a number");
            assert!(nice >= 0, "{nice}, granted: {granted}");
        }
    }
}
