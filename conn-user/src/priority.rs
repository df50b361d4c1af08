//! The priority of the thread that reads the ring.
//!
//! A local user who starts enough busy threads leaves an ordinary reader a small share of the processors, and the ring
//! overflows: the user has blinded the agent. So the reader may have real-time priority, which ordinary threads cannot take
//! a processor from. It is not the default yet: whoever is woken at once by what others do interrupts them in the midst of it, in BPF
//! programs too, which the kernel then skips for whoever comes next on that processor (`__bpf_prog_enter_recur`,
//! kernel/bpf/trampoline.c). The reader gives it back for the rest of a period in which it has used its budget, so that a storm of events cannot
//! make it take a processor from everybody else. Where real-time priority is refused, it asks for a better nice value. (With
//! `CONFIG_SCHED_AUTOGROUP` that counts within a session alone, sched(7): against many sessions it helps little.)

use std::fmt;
use std::io;
use std::time::Duration;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

/// The lowest real-time priority: above every ordinary thread, below every other real-time one (sched(7)).
const REALTIME: libc::c_int = 1;
/// The nice value where real-time priority is refused, and while the budget is used up: the weight of 29 ordinary threads
/// (`sched_prio_to_weight`, kernel/sched/core.c).
const NICE: libc::c_int = -15;
/// Of every period a thread may have so much of a processor at real-time priority. The kernel's own limit for all such threads
/// is 95 % (`sched_rt_runtime_us`).
const BUDGET: Duration = Duration::from_millis(70);
const PERIOD: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Real-time, within a budget; where that is refused, a better nice value.
    Realtime,
    /// A better nice value.
    Nice,
    /// That of the process.
    #[default]
    Normal,
}

/// What was granted.
#[derive(Debug)]
pub enum Granted {
    /// Real-time priority.
    Realtime,
    /// A better nice value; why not real-time priority, where that was asked for.
    Nice(Option<io::Error>),
    /// Nothing; why, where something was asked for.
    Normal(Option<io::Error>),
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realtime => {
                let (budget, period) = (BUDGET.as_millis(), PERIOD.as_millis());
                write!(f, "real-time, for {budget} of {period} ms at most")
            }
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
pub struct Held {
    /// `None`: not at real-time priority, which there is no budget for.
    budget: Option<Budget>,
}

impl Held {
    /// Gives the calling thread this priority, or the best that is granted. What it starts has the default one.
    pub fn begin(wanted: Priority) -> (Self, Granted) {
        let mut refused = None;
        if wanted != Priority::Normal {
            // At the default policy, too, it has this while the budget is used up. The policy is what it was, but not for others.
            let nice = set_ordinary().and_then(|()| set_nice(NICE));
            if wanted == Priority::Realtime {
                match set_realtime() {
                    Ok(()) => {
                        let budget = Budget::new(elapsed(ClockId::Monotonic), cpu());
                        return (Self { budget: Some(budget) }, Granted::Realtime);
                    }
                    Err(error) => refused = Some(error),
                }
            }
            match nice {
                Ok(()) => return (Self { budget: None }, Granted::Nice(refused)),
                Err(error) => refused = Some(error),
            }
        }
        (Self { budget: None }, Granted::Normal(refused))
    }

    /// Keeps the budget. To be called often, on the thread that began.
    pub fn keep_budget(&mut self) {
        let Some(budget) = &mut self.budget else { return };
        let realtime = match budget.at(elapsed(ClockId::Monotonic), cpu()) {
            Some(Step::GiveBack) => set_ordinary(),
            Some(Step::TakeAgain) => set_realtime(),
            None => return,
        };
        if realtime.is_err() {
            // It was granted before, and may be taken away: by a limit of the control group, or with the privilege.
            self.budget = None;
        }
    }
}

/// Gives the calling thread, whose work the reader waits for, a better nice value, where that is granted.
pub fn favour_thread() {
    let _ = set_nice(NICE);
}

/// What is to be done about the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    GiveBack,
    TakeAgain,
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

    /// Whatever is asked for and granted, what the thread starts has no better priority for it.
    #[test]
    fn a_command_does_not_inherit_it() {
        for wanted in [Priority::Realtime, Priority::Nice] {
            let nice = std::thread::spawn(move || {
                let (mut held, granted) = Held::begin(wanted);
                held.keep_budget();
                let out = Command::new("nice").output().expect("nice(1)");
                (String::from_utf8_lossy(&out.stdout).trim().to_owned(), granted.to_string())
            });
            let (shown, granted) = nice.join().expect("it ends");
            let nice: i32 = shown.parse().expect("a number");
            assert!(nice >= 0, "{nice}, granted: {granted}");
        }
    }
}
