//! How a backup program knows whether the first program at its place ran for the same hit.
//!
//! The kernel skips a tracing program that is already running on the CPU, so each place has two. The first leaves a mark
//! of the hit, the second takes it and reports only where it finds none. Either may be skipped, so a mark may stay behind;
//! it must never be taken for that of a later hit, or the later event would be lost without a trace. So a mark also names
//! the moment: the task and how often it was switched out. If the first program is skipped, another task is suspended in
//! it on this CPU, and that task cannot have got there without a switch since the mark was left.

/// What one hit of a hook is about, and when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The object (socket, task). A number that nothing is mixed into: the verifier refuses to compute with pointers.
    pub object: u64,
    /// What happens to it, the running task, and its number of context switches, mixed.
    pub moment: u64,
}

impl Hit {
    /// A hit in `task` (its address as a number), which was switched out `switches` times: `what` happens to `object`.
    #[inline]
    pub const fn new(object: u64, what: u8, task: u64, switches: u64) -> Self {
        // The high bits of kernel addresses are all alike.
        Self { object, moment: task ^ (switches << 24) ^ (switches >> 40) ^ (what as u64) << 56 }
    }

    /// No mark.
    pub const NONE: Self = Self { object: 0, moment: 0 };

    /// Leaves the mark of this hit.
    #[inline]
    pub const fn leave(self, mark: &mut Self) {
        *mark = self;
    }

    /// Takes the mark away; whether it is that of this hit.
    #[inline]
    pub const fn take(self, mark: &mut Self) -> bool {
        let is_same = mark.object == self.object && mark.moment == self.moment;
        *mark = Self::NONE;
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with one place, and tasks that hit it. Each task walks through the same steps; the schedule says whose turn it is.
    #[derive(Default)]
    struct Cpu {
        mark: Hit,
        /// The tasks that are suspended in the first and in the second program.
        active: [Option<usize>; 2],
        running: usize,
        switches: [u64; TASKS],
    }

    const TASKS: usize = 3;
    /// The address of the object of every hit: the allocator hands out the same one again and again.
    const OBJECT: u64 = 0xffff_8880_1234_5678;

    #[derive(Clone, Copy, Default)]
    struct Task {
        step: u8,
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
    }

    impl Cpu {
        fn hit(&self, task: usize, with_moment: bool) -> Hit {
            let address = 0xffff_8881_0000_0000 + task as u64 * 0x1000;
            if with_moment {
                Hit::new(OBJECT, 0, address, self.switches[task])
            } else {
                Hit { object: OBJECT, moment: 0 }
            }
        }

        fn switch_to(&mut self, task: usize) {
            if self.running != task {
                self.switches[self.running] += 1;
                self.running = task;
            }
        }

        /// One step of a task: enter the first program, leave it, enter the second, leave it, begin the next hit.
        fn step(&mut self, task: &mut Task, id: usize, with_moment: bool, outcome: &mut Outcome) {
            match task.step {
                0 => {
                    *task = Task::default();
                    if self.active[0].is_none() {
                        self.active[0] = Some(id);
                        task.first_ran = true;
                        self.hit(id, with_moment).leave(&mut self.mark);
                        task.reports += 1;
                    }
                }
                1 if task.first_ran => self.active[0] = None,
                2 if self.active[1].is_none() => {
                    self.active[1] = Some(id);
                    if self.hit(id, with_moment).take(&mut self.mark) {
                        task.suppressed = true;
                    } else {
                        task.reports += 1;
                    }
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
    fn run(with_moment: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let (mut cpu, mut tasks) = (Cpu::default(), [Task::default(); TASKS]);
            for _ in 0..60 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // A task keeps the CPU three times of four.
                if random.is_multiple_of(4) {
                    cpu.switch_to((random >> 8) as usize % TASKS);
                }
                let id = cpu.running;
                cpu.step(&mut tasks[id], id, with_moment, &mut outcome);
            }
        }
        outcome
    }

    #[test]
    fn a_mark_that_stayed_behind_suppresses_nothing() {
        let with = run(true);
        assert_eq!(with.lost_by_mark, 0, "{with:?}");
        assert!(with.lost > 0, "both programs are skipped now and then: {with:?}");
        // What the moment is for: without it the same schedules lose events for which the second program ran.
        let without = run(false);
        assert!(without.lost_by_mark > 0, "{without:?}");
        assert!(without.lost > with.lost, "{without:?} {with:?}");
    }

    #[test]
    fn a_mark_is_taken_once() {
        let hit = Hit::new(1, 0, 2, 3);
        let mut mark = Hit::NONE;
        assert!(!hit.take(&mut mark), "nothing was left");
        hit.leave(&mut mark);
        assert!(hit.take(&mut mark));
        assert!(!hit.take(&mut mark));
        hit.leave(&mut mark);
        assert!(!Hit::new(1, 0, 2, 4).take(&mut mark), "the task was switched out since");
        assert!(!hit.take(&mut mark), "whoever looks takes it away");
        hit.leave(&mut mark);
        assert!(!Hit::new(1, 9, 2, 3).take(&mut mark), "something else happened to it");
    }
}
