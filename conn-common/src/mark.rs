//! How a backup program knows whether a program before it at its place ran for the same hit.
//!
//! The kernel skips a tracing program that is already running on the CPU, so each place has several. Each but the last leaves a
//! mark of the hit; each but the first takes those of the ones before it, and reports only where it finds none. Any of them may be skipped,
//! so a mark may stay behind; it must never be taken for that of a later hit, or the later event would be lost without a
//! trace. So a mark also names the moment: the task and how often it was switched out. If a program is skipped, another
//! task is suspended in it on this CPU, and that task cannot have got there without a switch since the mark was left. For the same reason
//! each program has marks of its own: that of the first for an earlier hit must not pass for one of the second for this hit.
//!
//! Runs of backup programs without a mark are counted: less these, the runs of the first that the kernel skipped are what all
//! missed. A task that is switched out between two programs must not count, or it would hide a loss. So each task has a mark
//! of its own (as far as [`SLOTS`] allows), which others do not take away: one of the same task for the same thing, with
//! another count of switches, says that the program ran.

/// Marks of a place on a CPU. Tasks share one by their addresses.
pub const SLOTS: usize = 8;

/// The marks of a place on a CPU, by task.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Those of the first program.
    pub first: [Hit; SLOTS],
    /// Those of the second one.
    pub second: [Hit; SLOTS],
}

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

/// What a backup program finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A program before it ran for this hit.
    Same,
    /// One ran, and the task was switched out since: for this hit, or, if those after it were skipped then, for an
    /// earlier one that was alike.
    Switched,
    /// Nothing: those before it were skipped.
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

    /// Takes away the mark of the program before and, where that was skipped, the one of the program before that.
    #[inline]
    pub const fn take_either(self, nearest: &mut Self, other: &mut Self) -> Found {
        let found = self.take(nearest);
        if matches!(found, Found::Same) {
            return found;
        }
        match (found, self.take(other)) {
            (Found::Switched, Found::Nothing) => Found::Switched,
            (_, earlier) => earlier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with one place, and tasks that hit it. Each task walks through the same steps; the schedule says whose turn it is.
    #[derive(Default)]
    struct Cpu {
        /// How many programs the place has, 2 or 3.
        programs: usize,
        /// By program, then by task, or the first one for all of them.
        marks: [[Hit; TASKS]; 2],
        /// The tasks that are suspended in the programs.
        active: [Option<usize>; 3],
        running: usize,
        switches: [u64; TASKS],
        /// Each hit is about another object, numbered by this; `None`: all are about one.
        objects: Option<u64>,
    }

    const TASKS: usize = 4;

    /// How marks are made.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Kind {
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
        step: usize,
        object: u64,
        /// For the current hit: which programs ran, and how many reported.
        ran: [bool; 3],
        reports: u8,
    }

    #[derive(Default, Debug, PartialEq, Eq)]
    struct Outcome {
        hits: u32,
        lost: u32,
        /// Lost although one of the programs ran for the hit.
        lost_by_mark: u32,
        /// Runs of the first program that were skipped.
        missed: u32,
        /// Runs of the backup programs that found no mark.
        unmarked: u32,
    }

    impl Cpu {
        fn hit(&self, task: usize, object: u64, kind: Kind) -> Hit {
            let address = 0xffff_8881_0000_0000 + task as u64 * 0x1000;
            match kind {
                Kind::OfTasks | Kind::Shared => Hit::new(object, 0, address, self.switches[task]),
                Kind::WithoutMoment => Hit { object, what: 0, switches: 0 },
            }
        }

        fn switch_to(&mut self, task: usize) {
            if self.running != task {
                self.switches[self.running] += 1;
                self.running = task;
            }
        }

        /// A program begins for a hit. What it finds; the first one looks for nothing.
        fn runs(&mut self, program: usize, hit: Hit, slot: usize) -> Found {
            let [first, second] = &mut self.marks;
            let (first, second) = (&mut first[slot], &mut second[slot]);
            match program {
                0 => {
                    hit.leave(first);
                    Found::Nothing
                }
                1 => {
                    let found = hit.take(first);
                    if self.programs > 2 {
                        hit.leave(second);
                    }
                    found
                }
                _ => hit.take_either(second, first),
            }
        }

        /// One step of a task: it enters a program or leaves it, one after the other, and then begins the next hit.
        fn step(&mut self, task: &mut Task, id: usize, kind: Kind, outcome: &mut Outcome) {
            let (program, is_entry) = (task.step / 2, task.step.is_multiple_of(2));
            if task.step == 0 {
                *task = Task { object: OBJECT, ..Task::default() };
                if let Some(number) = &mut self.objects {
                    *number += 1;
                    task.object = *number;
                }
            }
            if program == self.programs {
                outcome.hits += 1;
                outcome.lost += u32::from(task.reports == 0);
                outcome.lost_by_mark += u32::from(task.reports == 0 && task.ran.contains(&true));
                task.step = 0;
                return;
            }
            if !is_entry {
                if task.ran[program] {
                    self.active[program] = None;
                }
            } else if self.active[program].is_none() {
                self.active[program] = Some(id);
                task.ran[program] = true;
                let hit = self.hit(id, task.object, kind);
                let found = self.runs(program, hit, if kind == Kind::OfTasks { id } else { 0 });
                task.reports += u8::from(found != Found::Same);
                outcome.unmarked += u32::from(program > 0 && found == Found::Nothing);
            } else {
                outcome.missed += u32::from(program == 0);
            }
            task.step += 1;
        }
    }

    /// Many schedules of a few tasks, the same at every run.
    fn run(programs: usize, kind: Kind, objects: Option<u64>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut cpu = Cpu { programs, objects, ..Cpu::default() };
            let mut tasks = [Task::default(); TASKS];
            for _ in 0..80 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // A task keeps the CPU three times of four.
                if random.is_multiple_of(4) {
                    cpu.switch_to((random >> 8) as usize % TASKS);
                }
                let id = cpu.running;
                cpu.step(&mut tasks[id], id, kind, &mut outcome);
            }
            // What has begun ends.
            for _ in 0..=2 * programs {
                for (id, task) in tasks.iter_mut().enumerate().filter(|(_, task)| task.step != 0) {
                    cpu.switch_to(id);
                    cpu.step(task, id, kind, &mut outcome);
                }
            }
        }
        outcome
    }

    #[test]
    fn a_mark_that_stayed_behind_suppresses_nothing() {
        for programs in [2, 3] {
            let with = run(programs, Kind::OfTasks, None);
            assert_eq!(with.lost_by_mark, 0, "{programs}: {with:?}");
            assert!(with.lost > 0, "all programs are skipped now and then: {with:?}");
            // What the moment is for: without it the same schedules lose events for which a backup program ran.
            let without = run(programs, Kind::WithoutMoment, None);
            assert!(without.lost_by_mark > 0, "{programs}: {without:?}");
            assert!(without.lost > with.lost, "{without:?} {with:?}");
        }
    }

    /// A task that is switched out between the programs hides no loss of another one.
    #[test]
    fn what_all_missed_is_counted() {
        let counted = |of: &Outcome| of.missed.saturating_sub(of.unmarked);
        for programs in [2, 3] {
            let of_tasks = run(programs, Kind::OfTasks, Some(0));
            assert_eq!(counted(&of_tasks), of_tasks.lost, "{programs}: {of_tasks:?}");
            assert!(of_tasks.lost > 0, "{of_tasks:?}");
            // Where the same comes again and again, a mark that stayed behind makes it more, never less.
            let of_one = run(programs, Kind::OfTasks, None);
            assert!(counted(&of_one) >= of_one.lost, "{programs}: {of_one:?}");
            let shared = run(programs, Kind::Shared, Some(0));
            assert!(counted(&shared) < shared.lost, "{programs}: {shared:?}");
        }
    }

    #[test]
    fn a_second_backup_program_misses_much_less() {
        let (one, two) = (run(2, Kind::OfTasks, Some(0)), run(3, Kind::OfTasks, Some(0)));
        let rate = |of: &Outcome| f64::from(of.lost) / f64::from(of.hits);
        assert!(rate(&two) < rate(&one) / 3.0, "{one:?} {two:?}");
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
