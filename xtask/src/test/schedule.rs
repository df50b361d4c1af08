//! Which step runs when: lanes that work side by side, each through its own steps and then through those of all.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::step::Step;

/// A step to do.
pub(crate) struct Task<'a> {
    name: String,
    estimate: Duration,
    work: Box<dyn FnOnce() -> Result<Step> + Send + 'a>,
}

impl<'a> Task<'a> {
    /// A step with how long it will take, as far as that is known.
    pub(crate) fn new(
        name: String,
        estimate: Duration,
        work: impl FnOnce() -> Result<Step> + Send + 'a,
    ) -> Self {
        Self { name, estimate, work: Box::new(work) }
    }
}

/// The steps of a run.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// What each lane does first, in this order.
    pub(crate) lanes: Vec<VecDeque<Task<'a>>>,
    /// What any lane does that has nothing of its own left.
    pub(crate) shared: Vec<Task<'a>>,
}

/// The plan while it is carried out.
struct State<'a> {
    lanes: Vec<VecDeque<Task<'a>>>,
    shared: VecDeque<Task<'a>>,
    /// Of each lane: when its step began, and its estimate.
    running: Vec<Option<(Instant, Duration)>>,
    steps: usize,
    done: Vec<Step>,
}

/// Carries a plan out; prints each step when it is done, and how much time is left.
pub(crate) fn run(plan: Plan<'_>) -> Vec<Step> {
    let Plan { lanes, mut shared } = plan;
    // The longest first: what is short fills the end up.
    shared.sort_by_key(|task| std::cmp::Reverse(task.estimate));
    let steps = lanes.iter().map(VecDeque::len).sum::<usize>() + shared.len();
    let running = lanes.iter().map(|_| None).collect();
    let count = lanes.len();
    let state = State { lanes, shared: shared.into(), running, steps, done: Vec::new() };
    println!("xtask: {steps} steps, about {}", spoken(state.left()));
    let state = Mutex::new(state);
    std::thread::scope(|scope| {
        for lane in 0..count {
            let state = &state;
            scope.spawn(move || work(lane, state));
        }
    });
    let mut done = state.into_inner().unwrap_or_else(PoisonError::into_inner).done;
    done.sort_by(|a, b| a.name.cmp(&b.name));
    done
}

/// Does the steps of a lane. A poisoned lock means that another lane panicked, which the scope passes on.
fn work(lane: usize, state: &Mutex<State<'_>>) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let next = lock().next(lane);
        let Some(task) = next else { return };
        let start = Instant::now();
        let step = (task.work)().unwrap_or_else(|error| Step::broken(&task.name, start.elapsed(), &error));
        let mut state = lock();
        state.running[lane] = None;
        state.done.push(step);
        state.print_last();
    }
}

impl<'a> State<'a> {
    fn next(&mut self, lane: usize) -> Option<Task<'a>> {
        let task = self.lanes[lane].pop_front().or_else(|| self.shared.pop_front())?;
        self.running[lane] = Some((Instant::now(), task.estimate));
        Some(task)
    }

    fn print_last(&self) {
        let Some(step) = self.done.last() else { return };
        let left = if self.done.len() < self.steps {
            format!("; about {} left", spoken(self.left()))
        } else {
            String::new()
        };
        println!("xtask: [{}/{}] {}{left}", self.done.len(), self.steps, step.line());
        print!("{}", step.report);
    }

    fn left(&self) -> Duration {
        let of_lane = |lane: usize| {
            let running =
                self.running[lane].map(|(start, estimate)| estimate.saturating_sub(start.elapsed()));
            let own: Duration = self.lanes[lane].iter().map(|task| task.estimate).sum();
            running.unwrap_or_default() + own
        };
        let lanes = (0..self.lanes.len()).map(of_lane).collect();
        let shared: Vec<Duration> = self.shared.iter().map(|task| task.estimate).collect();
        time_left(lanes, &shared)
    }
}

/// How long it takes until all is done: `lanes` are busy for so long with what is theirs, and then take what is shared.
fn time_left(mut lanes: Vec<Duration>, shared: &[Duration]) -> Duration {
    for step in shared {
        if let Some(first) = lanes.iter_mut().min() {
            *first += *step;
        }
    }
    lanes.into_iter().max().unwrap_or_default()
}

/// "40 s", "9 min".
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Counts;

    fn seconds(seconds: &[u64]) -> Vec<Duration> {
        seconds.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn the_lane_that_is_free_first_takes_the_next_step() {
        assert_eq!(time_left(seconds(&[100, 40]), &seconds(&[90, 80, 10])), Duration::from_mins(3));
        assert_eq!(time_left(seconds(&[5, 0]), &[]), Duration::from_secs(5));
        assert_eq!(time_left(vec![], &[]), Duration::ZERO);
        assert_eq!(spoken(Duration::from_secs(99)), "99 s");
        assert_eq!(spoken(Duration::from_secs(569)), "9 min");
    }

    /// Steps that note in which order they were begun.
    fn noting<'a>(order: &'a Mutex<Vec<String>>, name: &str, estimate: u64) -> Task<'a> {
        let noted = name.to_owned();
        let work = move || {
            order.lock().expect("not poisoned").push(noted.clone());
            let counts = Counts { passed: 1, ..Counts::default() };
            Ok(Step { name: noted, counts, ..Step::default() })
        };
        Task::new(name.to_owned(), Duration::from_secs(estimate), work)
    }

    #[test]
    fn a_lane_does_its_own_steps_and_then_the_longest_of_the_others() {
        let order = Mutex::new(Vec::new());
        let own = VecDeque::from([noting(&order, "own-1", 1), noting(&order, "own-2", 9)]);
        let shared = vec![noting(&order, "short", 1), noting(&order, "long", 8)];
        let steps = run(Plan { lanes: vec![own], shared });
        assert_eq!(*order.lock().expect("not poisoned"), ["own-1", "own-2", "long", "short"]);
        let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["long", "own-1", "own-2", "short"]);
    }

    #[test]
    fn a_step_that_cannot_be_done_is_a_failure() {
        let broken = Task::new("6.1/kprobe".to_owned(), Duration::ZERO, || anyhow::bail!("no QEMU"));
        let steps = run(Plan { lanes: vec![VecDeque::from([broken]), VecDeque::new()], shared: vec![] });
        assert_eq!(steps[0].counts.failed, 1);
        assert_eq!(
            (steps[0].name.as_str(), steps[0].failures[0].message.as_str()),
            ("6.1/kprobe", "no QEMU")
        );
    }
}
