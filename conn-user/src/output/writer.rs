//! Lines into an output: a bounded queue, and a thread that writes.
//!
//! Who makes the lines never waits for whoever takes them. A file that is on a hung file system, or a pipe whose reader
//! sleeps, costs its own lines and nothing else. What does not fit is counted. Of the queue a part is kept for the lines that must not be
//! dropped for the others.

mod thread;

use std::fmt;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that wait at most; [`Class::Event`]s beyond are dropped and counted.
    pub waiting: usize,
    /// So much more may wait of what is of [`Class::Important`].
    pub reserve: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { waiting: 64 << 20, reserve: 16 << 20 }
    }
}

/// Largest buffer that is kept.
const KEPT_MAX: usize = 4 << 20;
/// How long the end waits for a target that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a [`Writer`] writes.
pub trait Target: Send {
    /// Writes lines, each with its newline. May block.
    fn write(&mut self, lines: &[u8]) -> Written;

    /// Opens it anew, where it has a name: a log was rotated. What cannot be opened leaves the old one.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether nobody reads it any more, by this error: then nothing is written any more.
    fn is_gone(&self, _error: &io::Error) -> bool {
        false
    }
}

/// What became of lines.
#[derive(Debug, Default)]
pub struct Written {
    /// Lines that were not written, or only in part.
    pub dropped: u64,
    /// Why.
    pub error: Option<io::Error>,
}

/// What a line is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may be dropped where too many wait.
    Event,
    /// There is room for it when there is none for events: an alert, a gap, what the agent says of itself.
    Important,
}

/// Something that happened to an output, to be reported to people.
#[derive(Debug)]
pub enum Notice {
    /// It cannot be written. From here on lines are dropped.
    Fails(io::Error),
    /// It can be written again; so many lines were dropped meanwhile.
    Works {
        /// How many.
        dropped: u64,
    },
    /// It takes lines more slowly than they come: from here on events are dropped.
    Overflows,
    /// It could not be opened anew: the file from before is written on.
    NotReopened(io::Error),
}

#[derive(Default)]
struct State {
    /// Whole lines that wait, and how many.
    lines: Vec<u8>,
    count: u64,
    /// Lines that the thread has taken and not yet written.
    in_hand: u64,
    /// Chunks that were written: it gets on.
    chunks: u64,
    reopen: bool,
    /// Nothing comes any more, or nobody reads it: the thread ends.
    is_closed: bool,
    gone: Option<io::Error>,
    notices: Vec<Notice>,
    /// Lines that were not written since it cannot be; `None`: it can.
    outage: Option<u64>,
    overflows: bool,
    dropped: u64,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Bytes in [`State::lines`] and in the thread's hands.
    waiting: AtomicUsize,
    /// Whoever owns the writer has to look at it.
    changed: Arc<Notify>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded queue of lines and the thread that writes them.
pub struct Writer {
    name: Arc<str>,
    shared: Arc<Shared>,
    room: Room,
    /// Lines since the last [`Self::flush`], and how many did not fit.
    lines: Vec<u8>,
    count: u64,
    refused: u64,
    /// The end has waited in vain after so many chunks.
    stuck: Option<u64>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Has an output opened anew ([`Target::reopen`]). What waits goes to the new one.
#[derive(Clone)]
pub struct Reopener(Arc<Shared>);

impl Reopener {
    /// See the type.
    pub fn reopen(&self) {
        self.0.state().reopen = true;
        self.0.work.notify_one();
    }
}

impl Writer {
    /// A writer to a target, which is called so, escaped, where it is reported. `changed` is notified when there is something to
    /// take: a notice, the end of its reader.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        name: impl Into<Arc<str>>,
        target: impl Target + 'static,
        changed: Arc<Notify>,
    ) -> io::Result<Self> {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { state, work: Condvar::new(), waiting: AtomicUsize::new(0), changed });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("conn-write".to_owned())
            .spawn(move || thread::write_all(&own, target))?;
        let (name, room) = (name.into(), Room::default());
        Ok(Self { name, shared, room, lines: Vec::new(), count: 0, refused: 0, stuck: None })
    }

    /// With another bound on what waits.
    #[must_use]
    pub fn with_room(mut self, room: Room) -> Self {
        self.room = room;
        self
    }

    /// What it is called, escaped.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Resolves when there may be something to take. May be cancelled.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Where it can be opened anew from.
    pub fn reopener(&self) -> Reopener {
        Reopener(Arc::clone(&self.shared))
    }

    /// Whether there is room for another line of this class.
    pub fn has_room(&self, class: Class) -> bool {
        let room = self.room.waiting + if class == Class::Important { self.room.reserve } else { 0 };
        self.shared.waiting.load(Ordering::Relaxed) + self.lines.len() < room
    }

    /// Takes a line, which `encode` appends with its newline. Never waits. Returns whether there was room.
    pub fn line(&mut self, class: Class, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let has_room = self.has_room(class);
        if has_room {
            encode(&mut self.lines);
            self.count += 1;
        } else {
            self.refused += 1;
        }
        has_room
    }

    /// Hands the lines over. Never waits.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() && self.refused == 0 {
            return Ok(());
        }
        let mut state = self.shared.state();
        if let Some(error) = &state.gone {
            return Err(error.kind().into());
        }
        let refused = mem::take(&mut self.refused);
        state.dropped += refused;
        if refused > 0 && !state.overflows && state.outage.is_none() {
            state.overflows = true;
            state.notices.push(Notice::Overflows);
            self.shared.changed.notify_one();
        }
        self.shared.waiting.fetch_add(self.lines.len(), Ordering::Relaxed);
        if state.lines.is_empty() {
            mem::swap(&mut state.lines, &mut self.lines);
        } else {
            state.lines.append(&mut self.lines);
        }
        state.count += mem::take(&mut self.count);
        drop(state);
        self.lines.shrink_to(KEPT_MAX);
        self.shared.work.notify_one();
        Ok(())
    }

    /// What happened since the last call.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn notices(&self) -> io::Result<Vec<Notice>> {
        let mut state = self.shared.state();
        match &state.gone {
            Some(error) => Err(error.kind().into()),
            None => Ok(mem::take(&mut state.notices)),
        }
    }

    /// How many lines were dropped in all.
    pub fn dropped(&self) -> u64 {
        self.shared.state().dropped + self.refused
    }

    /// Waits until all is written, however long that takes: for who can wait. May be cancelled.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub async fn drain(&mut self) -> io::Result<()> {
        self.flush()?;
        loop {
            {
                let state = self.shared.state();
                if let Some(error) = &state.gone {
                    return Err(error.kind().into());
                }
                if state.lines.is_empty() && state.in_hand == 0 {
                    return Ok(());
                }
            }
            self.changed().await;
        }
    }

    /// Waits until all is written, as long as the target gets on. The rest is dropped and counted, and a second call does not wait
    /// for it again. May be cancelled.
    pub async fn finish(&mut self) {
        self.finish_within(PATIENCE).await;
    }

    /// Waits until all is written, as long as the target takes a chunk within `patience`.
    async fn finish_within(&mut self, patience: Duration) {
        if self.flush().is_err() {
            return;
        }
        let mut seen = self.shared.state().chunks;
        let mut deadline = Instant::now() + patience;
        loop {
            {
                let mut state = self.shared.state();
                if state.gone.is_some() || state.lines.is_empty() && state.in_hand == 0 {
                    return;
                }
                if self.stuck == Some(state.chunks) {
                    state.dropped += mem::take(&mut state.count);
                    state.lines.clear();
                    return;
                }
                if state.chunks != seen {
                    (seen, deadline) = (state.chunks, Instant::now() + patience);
                } else if Instant::now() >= deadline {
                    state.dropped += mem::take(&mut state.count) + state.in_hand;
                    state.lines.clear();
                    self.stuck = Some(seen);
                    return;
                }
            }
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.work.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::thread::CHUNK;
    use super::*;

    /// Takes chunks when the test lets it, and shows them.
    struct Slow {
        allow: Receiver<Written>,
        taken: Sender<Vec<u8>>,
    }

    impl Target for Slow {
        fn write(&mut self, lines: &[u8]) -> Written {
            let _ = self.taken.send(lines.to_vec());
            self.allow.recv().unwrap_or_default()
        }

        fn is_gone(&self, error: &io::Error) -> bool {
            error.kind() == io::ErrorKind::BrokenPipe
        }
    }

    fn slow() -> (Writer, Sender<Written>, Receiver<Vec<u8>>) {
        let ((allowed, allow), (taken, all)) = (channel(), channel());
        let writer = Writer::start("slow", Slow { allow, taken }, Arc::default()).expect("a thread");
        (writer, allowed, all)
    }

    fn line(writer: &mut Writer, class: Class, line: &str) {
        writer.line(class, |out| out.extend_from_slice(line.as_bytes()));
    }

    fn failed(kind: io::ErrorKind) -> Written {
        Written { dropped: 1, error: Some(kind.into()) }
    }

    #[test]
    fn an_important_line_has_room_where_events_have_none() {
        let (mut writer, _allowed, taken) = slow();
        line(&mut writer, Class::Event, "first\n");
        writer.flush().expect("it is read");
        assert_eq!(taken.recv().expect("written"), b"first\n", "and there it hangs");
        let long = "x".repeat(1 << 20) + "\n";
        for _ in 0..100 {
            line(&mut writer, Class::Event, &long);
            writer.flush().expect("it is read");
        }
        assert_eq!(writer.dropped(), 36);
        for _ in 0..15 {
            line(&mut writer, Class::Important, &long);
        }
        writer.flush().expect("it is read");
        assert_eq!(writer.dropped(), 36, "the reserve");
        for _ in 0..100 {
            line(&mut writer, Class::Important, &long);
        }
        assert!(writer.dropped() > 100, "it has an end, too");
        let notices = writer.notices().expect("it is read");
        assert!(matches!(notices[..], [Notice::Overflows]), "{notices:?}");
    }

    /// What was dropped once is no news with each later line.
    #[tokio::test]
    async fn an_overflow_is_reported_once() {
        let (mut writer, allowed, taken) = slow();
        line(&mut writer, Class::Event, "first\n");
        writer.flush().expect("it is read");
        taken.recv().expect("written");
        let long = "x".repeat(Room::default().waiting) + "\n";
        for text in [&*long, "refused\n"] {
            line(&mut writer, Class::Event, text);
        }
        for _ in 0..4 {
            allowed.send(Written::default()).expect("it lives");
        }
        writer.drain().await.expect("it is read");
        for _ in 0..2 {
            line(&mut writer, Class::Event, "later\n");
            writer.drain().await.expect("it is read");
        }
        let notices = writer.notices().expect("it is read");
        assert!(matches!(notices[..], [Notice::Overflows]), "{notices:?}");
        assert_eq!(writer.dropped(), 1);
    }

    #[tokio::test]
    async fn the_end_waits_for_a_slow_target_and_not_for_one_that_hangs() {
        let (mut writer, allowed, taken) = slow();
        let long = "x".repeat(CHUNK - 1) + "\n";
        for _ in 0..3 {
            line(&mut writer, Class::Event, &long);
        }
        // Two of three chunks are taken.
        allowed.send(Written::default()).expect("it lives");
        allowed.send(Written::default()).expect("it lives");
        writer.flush().expect("it is read");
        for _ in 0..3 {
            taken.recv().expect("written");
        }
        line(&mut writer, Class::Event, "last\n");
        writer.finish_within(Duration::ZERO).await;
        assert_eq!(writer.dropped(), 2, "what hangs, and what waits behind it");
        line(&mut writer, Class::Important, "more\n");
        writer.finish().await;
        assert_eq!(writer.dropped(), 3, "it was waited for already");
    }

    #[tokio::test]
    async fn an_outage_is_reported_once_and_when_it_is_over() {
        let (mut writer, allowed, _taken) = slow();
        for error in [Some(io::ErrorKind::StorageFull), Some(io::ErrorKind::StorageFull), None] {
            allowed.send(error.map(failed).unwrap_or_default()).expect("it lives");
            line(&mut writer, Class::Event, "line\n");
            writer.drain().await.expect("it is read");
        }
        let notices = writer.notices().expect("it is read");
        assert!(matches!(notices[..], [Notice::Fails(_), Notice::Works { dropped: 2 }]), "{notices:?}");
        assert_eq!(writer.dropped(), 2);
    }

    #[tokio::test]
    async fn a_reader_that_went_away_ends_it() {
        let (mut writer, allowed, _taken) = slow();
        allowed.send(failed(io::ErrorKind::BrokenPipe)).expect("it lives");
        line(&mut writer, Class::Event, "line\n");
        assert_eq!(writer.drain().await.expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
        line(&mut writer, Class::Event, "line\n");
        assert_eq!(writer.flush().expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    /// The order of lines stays, and a chunk has whole lines.
    #[tokio::test]
    async fn chunks_are_of_whole_lines() {
        let (mut writer, allowed, taken) = slow();
        let lines: Vec<String> = (0..50_000).map(|at| format!("line {at}\n")).collect();
        for text in &lines {
            line(&mut writer, Class::Event, text);
        }
        let longest = "y".repeat(2 * CHUNK) + "\n";
        line(&mut writer, Class::Event, &longest);
        for _ in 0..10 {
            allowed.send(Written::default()).expect("it lives");
        }
        writer.drain().await.expect("it is read");
        let chunks: Vec<Vec<u8>> = taken.try_iter().collect();
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.ends_with(b"\n")));
        assert_eq!(chunks.concat(), (lines.concat() + &longest).into_bytes());
    }
}
