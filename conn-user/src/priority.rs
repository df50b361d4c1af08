//! The priority of the thread that reads the ring.
//!
//! A local user who starts enough busy threads leaves an ordinary reader a small share of the processors, and the ring
//! overflows: the user has blinded the agent. So the reader has a better nice value, with which it does not wait for the other
//! threads of its own session or control group, and takes real-time priority, which ordinary threads cannot take a processor
//! from, for as long as others keep it from the processor while records wait. (With `CONFIG_SCHED_AUTOGROUP` a nice value
//! counts within a session alone, sched(7): against many sessions it helps little.)
//!
//! Real-time priority not always: whoever is woken at once by what others do interrupts them in the midst of it, in BPF
//! programs too, which the kernel then skips for whoever comes next on that processor (`__bpf_prog_enter_recur`,
//! kernel/bpf/trampoline.c). The reader gives it back for the rest of a period in which it has used its budget, so that a
//! storm of events cannot make it take a processor from everybody else.

use std::fmt;
use std::io;
use std::time::Duration;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

/// The lowest real-time priority: above every ordinary thread, below every other real-time one (sched(7)).
const REALTIME: libc::c_int = 1;
/// The nice value, at the ordinary policy: the weight of 29 ordinary threads
/// (`sched_prio_to_weight`, kernel/sched/core.c).
const NICE: libc::c_int = -15;
/// Of every period a thread may have so much of a processor at real-time priority. The kernel's own limit for all such threads
/// is 95 % (`sched_rt_runtime_us`).
const BUDGET: Duration = Duration::from_millis(70);
const PERIOD: Duration = Duration::from_millis(100);
/// The reader is starved if, while much waits, it has had less of a processor than this share of so long a time or longer: more
/// than a processor's turns among a few threads make of it.
const SHARE: (u32, u32) = (3, 4);
const STARVED: Duration = Duration::from_millis(20);
/// How long real-time priority is kept after that. Whoever starves the reader again soon makes it keep it twice as long.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_LONGEST: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_mins(1);

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// A better nice value, and real-time while others keep the thread from the processor.
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
    /// A better nice value, and real-time priority when it is needed.
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
                "nice {NICE}, and real-time while others keep it from the processor, for {budget} of {period} ms at most"
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
    WhenStarved(OnDemand),
}

impl Held {
    /// Gives the calling thread this priority, or the best that is granted. What it starts has the default one.
    pub fn begin(wanted: Priority) -> (Self, Granted) {
        let mut refused = None;
        if matches!(wanted, Priority::Auto | Priority::Realtime) {
            let _ = set_ordinary().and_then(|()| set_nice(NICE));
            match set_realtime() {
                Ok(()) if wanted == Priority::Realtime => {
                    return (Self(Kind::Always(Budget::new(now(), cpu()))), Granted::Realtime);
                }
                Ok(()) => {
                    // A lower priority is always granted.
                    let _ = set_ordinary();
                    return (Self(Kind::WhenStarved(OnDemand::new(now(), cpu()))), Granted::WhenStarved);
                }
                Err(error) => refused = Some(error),
            }
        }
        if wanted == Priority::Normal {
            return (Self(Kind::Fixed { is_better: false }), Granted::Normal(None));
        }
        match set_ordinary().and_then(|()| set_nice(NICE)) {
            Ok(()) => (Self(Kind::Fixed { is_better: true }), Granted::Nice(refused)),
            Err(error) => (Self(Kind::Fixed { is_better: false }), Granted::Normal(Some(error))),
        }
    }

    /// Whether the thread has a better priority than that of the process, so that whom it waits for should have one too.
    pub fn is_better(&self) -> bool {
        match &self.0 {
            Kind::Fixed { is_better } => *is_better,
            Kind::Always(_) | Kind::WhenStarved(_) => true,
        }
    }

    /// Keeps the budget, and takes what is needed. To be called often, on the thread that began, before it does what waits.
    pub fn keep(&mut self, work: Work) {
        let step = match &mut self.0 {
            Kind::Fixed { .. } => return,
            Kind::Always(budget) => budget.at(now(), cpu()),
            Kind::WhenStarved(on_demand) => {
                if on_demand.is_calm(work) {
                    return;
                }
                on_demand.at(now(), cpu(), work)
            }
        };
        let done = match step {
            None => return,
            Some(Step::Raise | Step::TakeAgain) => set_realtime(),
            Some(Step::GiveBack | Step::Lower) => set_ordinary(),
        };
        if done.is_err() {
            // It was granted before, and may be taken away: by a limit of the control group, or with the privilege.
            self.0 = Kind::Fixed { is_better: true };
        }
    }
}

/// Gives the calling thread, whose work the reader waits for, a better nice value, where that is granted.
pub fn favour_thread() {
    let _ = set_nice(NICE);
}

/// What waits for the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Not much.
    Little,
    /// Much; the thread was doing such work until now.
    Much,
    /// Much, though the thread slept until something came: it was waked long ago, and did not get a processor.
    MuchAfterSleep,
}

impl Work {
    /// Of a thread that is behind or not, and slept until now or not.
    pub const fn of(is_behind: bool, slept: bool) -> Self {
        match (is_behind, slept) {
            (false, _) => Self::Little,
            (true, false) => Self::Much,
            (true, true) => Self::MuchAfterSleep,
        }
    }
}

/// What is to be done about the priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// To real-time priority, which is needed.
    Raise,
    /// To the ordinary one, for the rest of the period.
    GiveBack,
    /// Back to real-time priority, for the next period.
    TakeAgain,
    /// To the ordinary one: it is needed no more.
    Lower,
}

/// When real-time priority is needed, by clocks that are handed in.
#[derive(Debug)]
struct OnDemand {
    /// Since when much waits, at most for a period, and the thread's processor time then.
    behind: Option<(Duration, Duration)>,
    raised: Option<Raised>,
    /// For how long it is raised the next time.
    hold: Duration,
    lowered: Option<Duration>,
}

#[derive(Debug)]
struct Raised {
    until: Duration,
    budget: Budget,
}

impl OnDemand {
    /// The thread begins with work to do.
    const fn new(now: Duration, cpu: Duration) -> Self {
        Self { behind: Some((now, cpu)), raised: None, hold: HOLD, lowered: None }
    }

    /// Whether no clock needs to be read.
    fn is_calm(&mut self, work: Work) -> bool {
        if work == Work::Little {
            self.behind = None;
        }
        work == Work::Little && self.raised.is_none()
    }

    /// It is `now`, and the thread has had so much of a processor.
    fn at(&mut self, now: Duration, cpu: Duration, work: Work) -> Option<Step> {
        if let Some(raised) = &mut self.raised {
            if now < raised.until || work != Work::Little {
                return raised.budget.at(now, cpu);
            }
            self.raised = None;
            self.lowered = Some(now);
            return Some(Step::Lower);
        }
        if !self.is_starved(now, cpu, work) {
            return None;
        }
        let soon = self.lowered.is_some_and(|lowered| now.saturating_sub(lowered) < SOON);
        self.hold = if soon { (self.hold * 2).min(HOLD_LONGEST) } else { HOLD };
        self.raised = Some(Raised { until: now + self.hold, budget: Budget::new(now, cpu) });
        self.behind = None;
        Some(Step::Raise)
    }

    fn is_starved(&mut self, now: Duration, cpu: Duration, work: Work) -> bool {
        match work {
            Work::Little => {
                self.behind = None;
                return false;
            }
            Work::Much => {}
            Work::MuchAfterSleep => return true,
        }
        let (since, used) = *self.behind.get_or_insert((now, cpu));
        let (wall, used) = (now.saturating_sub(since), cpu.saturating_sub(used));
        if wall >= STARVED && used * SHARE.1 < wall * SHARE.0 {
            return true;
        }
        if wall >= PERIOD {
            self.behind = Some((now, cpu));
        }
        false
    }
}

/// How much of a period is used, by clocks that are handed in.
#[derive(Debug)]
struct Budget {
    /// When the period began, and the thread's processor time then.
    period: (Duration, Duration),
    is_given_back: bool,
}

impl Budget {
    const fn new(now: Duration, cpu: Duration) -> Self {
        Self { period: (now, cpu), is_given_back: false }
    }

    /// It is `now`, and the thread has had so much of a processor.
    fn at(&mut self, now: Duration, cpu: Duration) -> Option<Step> {
        if now.saturating_sub(self.period.0) >= PERIOD {
            self.period = (now, cpu);
            return std::mem::take(&mut self.is_given_back).then_some(Step::TakeAgain);
        }
        if !self.is_given_back && cpu.saturating_sub(self.period.1) >= BUDGET {
            self.is_given_back = true;
            return Some(Step::GiveBack);
        }
        None
    }
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

fn set_realtime() -> io::Result<()> {
    // Threads and processes that this one starts begin with the default priority: neither the work of others nor a traced
    // command is to have this one.
    set_policy(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, REALTIME)
}

fn set_ordinary() -> io::Result<()> {
    set_policy(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0)
}

fn set_policy(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the parameters are read during the call.
    result(unsafe { libc::sched_setscheduler(0, policy, &raw const param) })
}

fn set_nice(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers. In Linux a nice value is of a thread, and 0 the calling one (setpriority(2)).
    result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_budget_is_of_each_period() {
        let mut budget = Budget::new(MS(0), MS(0));
        let steps = [
            (50, 50, None),
            (70, 70, Some(Step::GiveBack)),
            (90, 80, None),
            (100, 85, Some(Step::TakeAgain)),
            (160, 145, None),
            // What was used at the ordinary priority counts in no period but its own.
            (175, 155, Some(Step::GiveBack)),
            (200, 160, Some(Step::TakeAgain)),
            (5_000, 160, None),
            (5_069, 229, None),
            (5_070, 230, Some(Step::GiveBack)),
        ];
        for (now, cpu, step) in steps {
            assert_eq!(budget.at(MS(now), MS(cpu)), step, "at {now} ms");
        }
    }

    #[test]
    fn who_is_kept_from_the_processor_takes_real_time_priority() {
        use Work::{Little, Much, MuchAfterSleep};
        let mut on_demand = OnDemand::new(MS(0), MS(0));
        // (now, processor time, what waits, what is done)
        let steps = [
            // All of the processor, and later two thirds of it.
            (100, 100, Much, None),
            (110, 104, Much, None),
            (130, 120, Much, Some(Step::Raise)),
            (200, 189, Much, None),
            (201, 190, Much, Some(Step::GiveBack)),
            (230, 200, Little, Some(Step::TakeAgain)),
            (10_130, 300, Much, None),
            (10_131, 301, Little, Some(Step::Lower)),
            // Nothing waits: it sleeps.
            (20_000, 301, Little, None),
            (20_001, 301, Much, None),
            (20_020, 301, Much, None),
            (20_021, 301, Much, Some(Step::Raise)),
            // The second time within a minute: twice as long.
            (40_020, 400, Little, None),
            (40_021, 400, Little, Some(Step::Lower)),
            (200_000, 400, Much, None),
            (200_100, 410, Much, Some(Step::Raise)),
            (210_100, 500, Little, Some(Step::Lower)),
            (400_000, 500, MuchAfterSleep, Some(Step::Raise)),
        ];
        for (now, cpu, work, step) in steps {
            assert_eq!(on_demand.at(MS(now), MS(cpu), work), step, "at {now} ms");
        }
    }

    /// Whatever is asked for and granted, what the thread starts has no better priority for it.
    #[test]
    fn a_command_does_not_inherit_it() {
        for wanted in [Priority::Auto, Priority::Realtime, Priority::Nice] {
            let nice = std::thread::spawn(move || {
                let (mut held, granted) = Held::begin(wanted);
                held.keep(Work::Much);
                let out = Command::new("nice").output().expect("nice(1)");
                (String::from_utf8_lossy(&out.stdout).trim().to_owned(), granted.to_string())
            });
            let (shown, granted) = nice.join().expect("it ends");
            let nice: i32 = shown.parse().expect("a number");
            assert!(nice >= 0, "{nice}, granted: {granted}");
        }
    }
}
