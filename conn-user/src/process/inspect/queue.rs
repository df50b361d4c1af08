//! Which executable is hashed next: each file once, whoever waits for it, users in turn, and of a user the one of which least is
//! left. Nobody's files keep those of another user waiting for longer than one part of a file takes.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::Arc;

use crate::process::digest::FileState;
use crate::process::files::{Begun, Budgets};
use crate::units::{BootNs, DurationNs};

/// Most files that wait; each is held open.
pub(super) const FILES_MAX: usize = 128;
/// Of these, most files of one user.
pub(super) const FILES_OF_USER: usize = 48;
/// Most requests that wait for room, without a file.
pub(super) const PARKED_MAX: usize = 4096;
/// Of these, most of one user.
pub(super) const PARKED_OF_USER: usize = 1024;
/// Most requests that wait for files.
pub(super) const WAITING_MAX: usize = 16_384;
/// What hashing may cost on behalf of one user: so much at once, which is some 2 GB, and then a tenth of the time.
const BURST: DurationNs = DurationNs(4_000_000_000);
const SHARE: u64 = 10;
/// How often a file is begun again whose reader did not answer in time, and when for the first time; then
/// twice as late each time. On a busy machine it may only have been slow; where a file system hangs, it is
/// refused by then.
const RETRIES: u32 = 3;
const RETRY_AFTER_NS: u64 = 1_000_000_000;
/// Most users whose turn is remembered.
const USERS_MAX: usize = 4096;

/// Files to hash. `W` is a request.
#[derive(Debug)]
pub(super) struct HashQueue<W> {
    files: Vec<Queued<W>>,
    parked: VecDeque<(u32, W)>,
    budgets: Budgets,
    /// When a user's turn was last.
    turns: HashMap<u32, u64>,
    turn: u64,
    numbers: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Queued<W> {
    number: u64,
    file: Arc<File>,
    state: FileState,
    left: u64,
    /// How often its reader did not answer in time.
    stuck: u32,
    /// It is not read before this instant.
    due: BootNs,
    /// `None` while a part of it is being hashed.
    begun: Option<Begun>,
    waiting: Vec<(u32, W)>,
    /// Users who wait, each once: there are fewer than requests.
    users: Vec<u32>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Next {
    /// Hash a part of this file.
    Hash(Part),
    /// Nothing before this instant: all users who wait have had their share.
    At(BootNs),
    /// Nothing waits.
    Idle,
}

/// A part of a file, at one user's expense.
#[derive(Debug)]
pub(super) struct Part {
    number: u64,
    pub(super) uid: u32,
    pub(super) file: Arc<File>,
    pub(super) state: FileState,
    pub(super) begun: Begun,
}

impl<W> Default for HashQueue<W> {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            parked: VecDeque::new(),
            budgets: Budgets::new(BURST, SHARE),
            turns: HashMap::new(),
            turn: 0,
            numbers: 0,
            waiting: 0,
        }
    }
}

impl<W> HashQueue<W> {
    /// Adds a request for a file. Without room for it the request comes back.
    pub(super) fn add(&mut self, uid: u32, file: File, state: FileState, request: W) -> Result<(), W> {
        if self.waiting >= WAITING_MAX {
            return Err(request);
        }
        let has_room = self.has_room(uid);
        match self.files.iter_mut().find(|queued| queued.state == state) {
            Some(queued) => {
                queued.waiting.push((uid, request));
                if !queued.is_of(uid) {
                    queued.users.push(uid);
                }
            }
            None if !has_room => return Err(request),
            None => {
                self.numbers += 1;
                self.files.push(Queued {
                    number: self.numbers,
                    file: Arc::new(file),
                    state,
                    left: state.size,
                    stuck: 0,
                    due: BootNs(0),
                    begun: Some(Begun::new(self.numbers)),
                    waiting: vec![(uid, request)],
                    users: vec![uid],
                });
            }
        }
        self.waiting += 1;
        Ok(())
    }

    fn has_room(&self, uid: u32) -> bool {
        let of_user = || self.files.iter().filter(|queued| queued.is_of(uid)).count();
        self.files.len() < FILES_MAX && of_user() < FILES_OF_USER
    }

    /// Keeps a request until there is room for a file of its user. Without room for it, it comes back.
    pub(super) fn park(&mut self, uid: u32, request: W) -> Result<(), W> {
        let of_user = self.parked.iter().filter(|(parked, _)| *parked == uid).count();
        if self.parked.len() >= PARKED_MAX || of_user >= PARKED_OF_USER {
            return Err(request);
        }
        self.parked.push_back((uid, request));
        Ok(())
    }

    /// A parked request for which there is room now.
    pub(super) fn unpark(&mut self) -> Option<W> {
        // Most are of few users.
        let mut rooms = HashMap::new();
        let mut has_room = |uid| *rooms.entry(uid).or_insert_with(|| self.has_room(uid));
        let at = self.parked.iter().position(|(uid, _)| has_room(*uid))?;
        self.parked.remove(at).map(|(_, request)| request)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.parked.is_empty()
    }

    /// What is next. A part that is taken has to come back by one of the calls below.
    pub(super) fn next(&mut self, now: BootNs) -> Next {
        let due = || self.files.iter().filter(|queued| queued.due <= now);
        let users = || due().flat_map(|queued| queued.users.iter().copied());
        let within = users().filter(|uid| !self.budgets.is_over(*uid, now));
        let Some(uid) = within.min_by_key(|uid| self.turns.get(uid).copied().unwrap_or(0)) else {
            let shares = users().map(|uid| self.budgets.until(uid, now));
            let later = self.files.iter().map(|queued| queued.due).filter(|due| *due > now);
            return shares.chain(later).min().map_or(Next::Idle, Next::At);
        };
        let of_user = self.files.iter_mut().filter(|queued| queued.due <= now && queued.is_of(uid));
        let Some(queued) = of_user.min_by_key(|queued| queued.left) else { return Next::Idle };
        let Some(begun) = queued.begun.take() else { return Next::Idle };
        let (file, state) = (Arc::clone(&queued.file), queued.state);
        let number = queued.number;
        self.turn += 1;
        if self.turns.len() >= USERS_MAX {
            self.turns.clear();
        }
        self.turns.insert(uid, self.turn);
        Next::Hash(Part { number, uid, file, state, begun })
    }

    /// So many bytes of a file were read, and there are more.
    pub(super) fn went_on(&mut self, part: Part, bytes: u64, cost: DurationNs, now: BootNs) {
        self.budgets.charge(part.uid, cost, now);
        if let Some(queued) = self.files.iter_mut().find(|queued| queued.number == part.number) {
            queued.left = queued.left.saturating_sub(bytes);
            queued.begun = Some(part.begun);
        }
    }

    /// Who reads a part did not answer in time. The file is begun again later; returns who waited for it when
    /// that was done often enough.
    pub(super) fn was_stuck(&mut self, part: &Part, cost: DurationNs, now: BootNs) -> Vec<W> {
        match self.files.iter_mut().find(|queued| queued.number == part.number) {
            Some(queued) if queued.stuck < RETRIES => {
                queued.due = BootNs(now.0.saturating_add(RETRY_AFTER_NS << queued.stuck));
                queued.stuck += 1;
                queued.left = queued.state.size;
                queued.begun = Some(Begun::new(queued.number));
                self.budgets.charge(part.uid, cost, now);
                Vec::new()
            }
            _ => self.ended(part, cost, now),
        }
    }

    /// A file is done with. Returns who waited for it.
    pub(super) fn ended(&mut self, part: &Part, cost: DurationNs, now: BootNs) -> Vec<W> {
        self.budgets.charge(part.uid, cost, now);
        let Some(at) = self.files.iter().position(|queued| queued.number == part.number) else {
            return Vec::new();
        };
        let waited = self.files.swap_remove(at).waiting;
        self.waiting -= waited.len();
        waited.into_iter().map(|(_, request)| request).collect()
    }

    /// Nothing is read on behalf of a part's user now. Returns that one's requests for the file; others wait on.
    pub(super) fn refused(&mut self, part: Part) -> Vec<W> {
        let Some(at) = self.files.iter().position(|queued| queued.number == part.number) else {
            return Vec::new();
        };
        let queued = &mut self.files[at];
        let waiting = std::mem::take(&mut queued.waiting);
        let (refused, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(uid, _)| *uid == part.uid);
        queued.waiting = others;
        queued.users.retain(|uid| *uid != part.uid);
        queued.begun = Some(part.begun);
        if queued.waiting.is_empty() {
            self.files.swap_remove(at);
        }
        self.waiting -= refused.len();
        refused.into_iter().map(|(_, request)| request).collect()
    }
}

impl<W> Queued<W> {
    fn is_of(&self, uid: u32) -> bool {
        self.users.contains(&uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanoseconds for a megabyte.
    const COST: u64 = 2_000_000;
    const MB: u64 = 1 << 20;
    /// What is read at once.
    const SLICE: u64 = 16 * MB;

    /// A queue of requests that are numbers, a clock, and a reader who needs [`COST`] for each megabyte.
    struct Rig {
        queue: HashQueue<u32>,
        now: BootNs,
        /// Bytes read.
        read: u64,
        /// Requests in the order in which they were answered, each with the bytes that were read by then.
        done: Vec<(u32, u64)>,
    }

    impl Rig {
        fn new() -> Self {
            Self { queue: HashQueue::default(), now: BootNs(1), read: 0, done: Vec::new() }
        }

        fn add(&mut self, uid: u32, inode: u64, size: u64, request: u32) -> Result<(), u32> {
            let file = File::open("/dev/null").expect("a file");
            self.queue.add(uid, file, FileState::of_words([1, inode, size, 0, 0, 0, 0]), request)
        }

        fn step(&mut self) -> bool {
            match self.queue.next(self.now) {
                Next::Idle => return false,
                Next::At(at) => {
                    assert!(at > self.now);
                    self.now = at;
                }
                Next::Hash(part) => {
                    let left = self.queue.files.iter().find(|it| it.number == part.number).expect("it").left;
                    let bytes = left.min(SLICE);
                    self.read += bytes;
                    let cost = DurationNs(bytes / MB * COST);
                    self.now.0 += cost.0;
                    if bytes == left {
                        let done = self.queue.ended(&part, cost, self.now);
                        self.done.extend(done.into_iter().map(|request| (request, self.read)));
                    } else {
                        self.queue.went_on(part, bytes, cost, self.now);
                    }
                }
            }
            true
        }

        fn all(&mut self) {
            while self.step() {}
        }
    }

    /// Before, 20 files of 512 MB delayed another user's by all of them.
    #[test]
    fn large_files_of_one_user_delay_no_other() {
        let mut rig = Rig::new();
        for file in 0..20 {
            rig.add(1000, file, 512 * MB, file as u32).expect("room");
        }
        rig.step();
        rig.add(0, 100, 30 * MB, 100).expect("room");
        let before = rig.read;
        while rig.done.is_empty() {
            rig.step();
        }
        assert_eq!(rig.done[0].0, 100);
        assert!(rig.read - before <= 30 * MB + 2 * SLICE, "{} MB", (rig.read - before) / MB);
        rig.all();
        assert_eq!((rig.done.len(), rig.read), (21, (20 * 512 + 30) * MB));
    }

    #[test]
    fn a_user_costs_its_share_of_the_time() {
        let mut rig = Rig::new();
        for file in 0..20 {
            rig.add(1000, file, 512 * MB, file as u32).expect("room");
        }
        rig.all();
        let (cost, took) = (20 * 512 * COST, rig.now.0);
        assert!(cost > BURST.0);
        let least = (cost - BURST.0 - SLICE / MB * COST) * SHARE;
        assert!(took >= least, "{took} ns for {cost} ns of work");
        // Another one is not held back meanwhile.
        rig.add(1000, 30, 512 * MB, 30).expect("room");
        rig.add(7, 31, MB, 31).expect("room");
        let before = rig.now;
        rig.step();
        assert_eq!((rig.done.last().map(|done| done.0), rig.now.since(before)), (Some(31), DurationNs(COST)));
    }

    #[test]
    fn a_file_whose_reader_is_slow_is_begun_again_later_and_keeps_nobody_waiting() {
        let mut rig = Rig::new();
        rig.add(7, 1, MB, 1).expect("room");
        for tries in 0..RETRIES {
            let Next::Hash(part) = rig.queue.next(rig.now) else { panic!("due") };
            let began = rig.now;
            assert_eq!(rig.queue.was_stuck(&part, DurationNs(0), rig.now), Vec::<u32>::new());
            rig.add(7, 2, MB, 2).expect("room");
            assert!(rig.step(), "another one is read meanwhile");
            assert_eq!(rig.done.pop().map(|done| done.0), Some(2));
            let Next::At(at) = rig.queue.next(rig.now) else { panic!("not due yet") };
            assert_eq!(at.since(began), DurationNs(RETRY_AFTER_NS << tries));
            rig.now = at;
        }
        let Next::Hash(part) = rig.queue.next(rig.now) else { panic!("due") };
        assert_eq!(rig.queue.was_stuck(&part, DurationNs(0), rig.now), [1], "often enough");
        assert!(rig.queue.is_empty());
    }

    #[test]
    fn small_files_of_a_user_come_first() {
        let mut rig = Rig::new();
        for (file, size) in [(1, 400), (2, 300), (3, 1), (4, 20)] {
            rig.add(7, file, size * MB, file as u32).expect("room");
        }
        rig.all();
        assert_eq!(rig.done.iter().map(|done| done.0).collect::<Vec<_>>(), [3, 4, 2, 1]);
    }

    /// Before, 129 of 300 processes of one file had its hash.
    #[test]
    fn a_file_is_hashed_once_for_all_who_wait() {
        let mut rig = Rig::new();
        for process in 0..300 {
            rig.add(process % 3, 1, 150 * MB, process).expect("room");
        }
        rig.all();
        assert_eq!((rig.done.len(), rig.read), (300, 150 * MB));
    }

    #[test]
    fn a_file_that_another_user_waits_for_goes_on_at_its_expense() {
        let mut rig = Rig::new();
        rig.queue.budgets.charge(1000, DurationNs(1 << 50), rig.now);
        rig.add(1000, 1, 20 * MB, 1).expect("room");
        assert!(matches!(rig.queue.next(rig.now), Next::At(_)));
        rig.add(7, 1, 20 * MB, 2).expect("room");
        rig.step();
        rig.step();
        assert_eq!((rig.done.len(), rig.read), (2, 20 * MB));
    }

    #[test]
    fn what_does_not_fit_waits_without_a_file() {
        let mut rig = Rig::new();
        let fits = |rig: &mut Rig, uid: u32| {
            (0..1000).take_while(|file| rig.add(uid, u64::from(uid) << 32 | file, MB, 0).is_ok()).count()
        };
        assert_eq!([1, 2, 3].map(|uid| fits(&mut rig, uid)), [48, 48, 32], "others have room");
        assert_eq!(rig.add(1, 1 << 32, MB, 5), Ok(()), "a file that waits already");
        assert_eq!(
            (0..10_000).take_while(|request| rig.queue.park(1, *request).is_ok()).count(),
            PARKED_OF_USER
        );
        assert_eq!(rig.queue.park(2, 7), Ok(()));
        assert_eq!(rig.queue.unpark(), None);
        rig.step();
        let next = rig.queue.unpark();
        assert!(next.is_some(), "asked again when there is room");
        rig.all();
        while let Some(request) = rig.queue.unpark() {
            rig.add(1, u64::from(request), MB, request).expect("room");
            rig.all();
        }
        assert_eq!((rig.queue.is_empty(), rig.queue.waiting), (true, 0));
        assert_eq!(rig.done.len(), 48 + 48 + 32 + 1 + PARKED_OF_USER);
    }

    #[test]
    fn a_refusal_concerns_one_user() {
        let mut rig = Rig::new();
        rig.add(1, 1, MB, 1).expect("room");
        rig.add(2, 1, MB, 2).expect("room");
        let Next::Hash(part) = rig.queue.next(rig.now) else { panic!("a part") };
        assert_eq!(part.uid, 1);
        assert_eq!(rig.queue.refused(part), [1]);
        rig.all();
        assert_eq!((rig.done.len(), rig.queue.waiting), (1, 0));
        rig.add(1, 2, MB, 3).expect("room");
        let Next::Hash(part) = rig.queue.next(rig.now) else { panic!("a part") };
        assert_eq!((rig.queue.refused(part), rig.queue.is_empty()), (vec![3], true));
    }
}
