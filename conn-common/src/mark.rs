//! How a backup program knows whether the first program at its place ran for the same hit.
//!
//! The kernel skips a tracing program that is already running on the CPU, so each place has two. The first leaves a mark
//! of the hit, the second takes it and reports only where it finds none. Either may be skipped, so a mark may stay behind;
//! it must never be taken for that of a later hit, or the later event would be lost without a trace. So a mark also names
//! the moment: the task and how often it was switched out. If the first program is skipped, another task is suspended in
//! it on this CPU, and that task cannot have got there without a switch since the mark was left.
//!
//! Runs of the second program without a mark are counted: less these, the runs of the first that the kernel skipped are what both
//! missed. A task that is switched out between the two programs must not count, or it would hide a loss. So each task has a mark of its own
//! (as far as [`SLOTS`] allows), which others do not take away: one of the same task for the same thing, with another count of switches, says
//! that the first program ran.

/// Marks of a place on a CPU. Tasks share one by their addresses.
pub const SLOTS: usize = 8;

/// What one hit of a hook is about, and when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The object (socket, task). A number that nothing is mixed into: the verifier refuses to compute with pointers.
    pub object: u64,
    /// What happens to it, and the running task, mixed.
    pub what: u64,
    /// How often the task was switched out.
    pub switches: u64,
}

/// What the second program finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The first program ran for this hit.
    Same,
    /// The first program ran, and the task was switched out since: for this hit, or, if the second program was skipped then, for an earlier
    /// one that was alike.
    Switched,
    /// Nothing: the first program was skipped.
    Nothing,
}

impl Hit {
    /// A hit in `task` (its address as a number), which was switched out `switches` times: `what` happens to `object`.
    #[inline]
    pub const fn new(object: u64, what: u8, task: u64, switches: u64) -> Self {
        // The high bits of kernel addresses are all alike.
        Self { object, what: task ^ (what as u64) << 56, switches }
    }

    /// No mark.
    pub const NONE: Self = Self { object: 0, what: 0, switches: 0 };

    /// Returns the slot of a task (its address as a number).
    #[inline]
    pub const fn slot(task: u64) -> usize {
        // The three highest bits of a Fibonacci hash.
        (task.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize
    }

    /// Leaves the mark of this hit.
    #[inline]
    pub const fn leave(self, mark: &mut Self) {
        *mark = self;
    }

    /// Takes the mark away.
    #[inline]
    pub const fn take(self, mark: &mut Self) -> Found {
        let is_alike = mark.object == self.object && mark.what == self.what;
        let is_same = mark.switches == self.switches;
        *mark = Self::NONE;
        match (is_alike, is_same) {
            (true, true) => Found::Same,
            (true, false) => Found::Switched,
            (false, _) => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with one place, and tasks that hit it. Each task walks through the same steps; the schedule says whose turn it is.
    #[derive(Default)]
    struct Cpu {
        /// By task, or the first one for all of them.
        marks: [Hit; TASKS],
        /// The tasks that are suspended in the first and in the second program.
        active: [Option<usize>; 2],
        running: usize,
        switches: [u64; TASKS],
        /// Each hit is about another object, numbered by this; `None`: all are about one.
        objects: Option<u64>,
    }

    const TASKS: usize = 3;

    /// How marks are made.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Marks {
        /// Of each task apart.
        OfTasks,
        /// All tasks share one.
        Shared,
        /// As these, without the moment.
        WithoutMoment,
    }

    /// The address of the object of every hit: the allocator hands out the same one again and again.
    const OBJECT: u64 = 0xffff_8880_1234_5678;

    #[derive(Clone, Copy, Default)]
    struct Task {
        step: u8,
        object: u64,
        /// For the current hit: whether the first program ran, and who reported.
        first_ran: bool,
        reports: u8,
        suppressed: bool,
    }

    #[derive(Default, Debug, PartialEq, Eq)]
    struct Outcome {
        hits: u32,
        lost: u32,
        /// Lost although one of the programs ran for the hit.
        lost_by_mark: u32,
        /// Runs of the first program that were skipped.
        missed: u32,
        /// Runs of the second one that found no mark.
        unmarked: u32,
    }

    impl Cpu {
        fn hit(&self, task: usize, object: u64, marks: Marks) -> Hit {
            let address = 0xffff_8881_0000_0000 + task as u64 * 0x1000;
            match marks {
                Marks::OfTasks | Marks::Shared => Hit::new(object, 0, address, self.switches[task]),
                Marks::WithoutMoment => Hit { object, what: 0, switches: 0 },
            }
        }

        fn slot(task: usize, marks: Marks) -> usize {
            if marks == Marks::OfTasks { task } else { 0 }
        }

        fn switch_to(&mut self, task: usize) {
            if self.running != task {
                self.switches[self.running] += 1;
                self.running = task;
            }
        }

        /// One step of a task: enter the first program, leave it, enter the second, leave it, begin the next hit.
        fn step(&mut self, task: &mut Task, id: usize, marks: Marks, outcome: &mut Outcome) {
            let slot = Self::slot(id, marks);
            match task.step {
                0 => {
                    *task = Task { object: OBJECT, ..Task::default() };
                    if let Some(number) = &mut self.objects {
                        *number += 1;
                        task.object = *number;
                    }
                    if self.active[0].is_none() {
                        self.active[0] = Some(id);
                        task.first_ran = true;
                        self.hit(id, task.object, marks).leave(&mut self.marks[slot]);
                        task.reports += 1;
                    } else {
                        outcome.missed += 1;
                    }
                }
                1 if task.first_ran => self.active[0] = None,
                2 if self.active[1].is_none() => {
                    self.active[1] = Some(id);
                    let found = self.hit(id, task.object, marks).take(&mut self.marks[slot]);
                    task.suppressed = found == Found::Same;
                    task.reports += u8::from(found != Found::Same);
                    outcome.unmarked += u32::from(found == Found::Nothing);
                }
                3 if self.active[1] == Some(id) => self.active[1] = None,
                4 => {
                    outcome.hits += 1;
                    outcome.lost += u32::from(task.reports == 0);
                    outcome.lost_by_mark += u32::from(task.suppressed && !task.first_ran);
                }
                _ => {}
            }
            task.step = (task.step + 1) % 5;
        }
    }

    /// Many schedules of three tasks, the same at every run.
    fn run(marks: Marks, objects: Option<u64>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let (mut cpu, mut tasks) = (Cpu { objects, ..Cpu::default() }, [Task::default(); TASKS]);
            for _ in 0..60 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // A task keeps the CPU three times of four.
                if random.is_multiple_of(4) {
                    cpu.switch_to((random >> 8) as usize % TASKS);
                }
                let id = cpu.running;
                cpu.step(&mut tasks[id], id, marks, &mut outcome);
            }
            // What has begun ends.
            for _ in 0..5 {
                for (id, task) in tasks.iter_mut().enumerate().filter(|(_, task)| task.step != 0) {
                    cpu.switch_to(id);
                    cpu.step(task, id, marks, &mut outcome);
                }
            }
        }
        outcome
    }

    #[test]
    fn a_mark_that_stayed_behind_suppresses_nothing() {
        let with = run(Marks::OfTasks, None);
        assert_eq!(with.lost_by_mark, 0, "{with:?}");
        assert!(with.lost > 0, "both programs are skipped now and then: {with:?}");
        // What the moment is for: without it the same schedules lose events for which the second program ran.
        let without = run(Marks::WithoutMoment, None);
        assert!(without.lost_by_mark > 0, "{without:?}");
        assert!(without.lost > with.lost, "{without:?} {with:?}");
    }

    /// A task that is switched out between the programs hides no loss of another one.
    #[test]
    fn what_both_missed_is_counted() {
        let counted = |of: &Outcome| of.missed.saturating_sub(of.unmarked);
        let of_tasks = run(Marks::OfTasks, Some(0));
        assert_eq!(counted(&of_tasks), of_tasks.lost, "{of_tasks:?}");
        assert!(of_tasks.lost > 0, "{of_tasks:?}");
        // Where the same comes again and again, a mark that stayed behind makes it more, never less.
        let of_one = run(Marks::OfTasks, None);
        assert!(counted(&of_one) >= of_one.lost, "{of_one:?}");
        let shared = run(Marks::Shared, Some(0));
        assert!(counted(&shared) < shared.lost, "{shared:?}");
    }

    #[test]
    fn tasks_have_all_slots() {
        let used: std::collections::BTreeSet<usize> =
            (0..64).map(|nth| Hit::slot(0xffff_8881_0123_4000 + nth * 0x1d80)).collect();
        assert_eq!(used.len(), SLOTS);
    }

    #[test]
    fn a_mark_is_taken_once() {
        let hit = Hit::new(1, 0, 2, 3);
        let mut mark = Hit::NONE;
        assert_eq!(hit.take(&mut mark), Found::Nothing, "nothing was left");
        hit.leave(&mut mark);
        assert_eq!(hit.take(&mut mark), Found::Same);
        assert_eq!(hit.take(&mut mark), Found::Nothing);
        hit.leave(&mut mark);
        assert_eq!(Hit::new(1, 0, 2, 4).take(&mut mark), Found::Switched, "the task was switched out since");
        assert_eq!(hit.take(&mut mark), Found::Nothing, "whoever looks takes it away");
        hit.leave(&mut mark);
        assert_eq!(Hit::new(1, 9, 2, 3).take(&mut mark), Found::Nothing, "something else happened to it");
    }
}
