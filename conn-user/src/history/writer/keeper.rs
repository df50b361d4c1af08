//! Keeps the file of today: which one is written, what is done when it cannot be, and which are unlinked.

use std::mem;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{HistoryNotice, HistoryOptions, HistoryStats};
use crate::event::escape;
use crate::event::json::StreamIdentity;
use crate::event::model::Event;
use crate::event::read::{Reader, Recorded};
use crate::history::days::{self, BESIDE, Day};
use crate::history::error::HistoryError;
use crate::history::read::{Condition, File, Span, Stored};
use crate::history::retention;
use crate::history::store::Store;
use crate::units::{BootNs, WallNs};

/// How long after a failure the file is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often sizes are looked at while rows come.
const SWEEP: Duration = Duration::from_mins(1);
/// Most files of one day: each is one that could not be used.
const NUMBERS_MAX: u32 = 100;

pub(super) struct Keeper {
    options: HistoryOptions,
    of: StreamIdentity,
    /// The last event's instants: what a new file's clocks begin with.
    at: (BootNs, WallNs),
    store: Option<Store>,
    day: Day,
    /// When the file may be tried again.
    again: Option<Instant>,
    swept: Option<Instant>,
    /// Since it cannot be written, so many rows were dropped; `None`: it can.
    outage: Option<u64>,
    stats: HistoryStats,
    notices: Vec<HistoryNotice>,
}

impl Keeper {
    pub(super) fn new(options: HistoryOptions, of: StreamIdentity, at: (BootNs, WallNs)) -> Self {
        let mut keeper = Self {
            options,
            of,
            at,
            store: None,
            day: Day::of(at.1),
            again: None,
            swept: None,
            outage: None,
            stats: HistoryStats::default(),
            notices: Vec::new(),
        };
        keeper.open();
        keeper
    }

    pub(super) fn take_notices(&mut self) -> Vec<HistoryNotice> {
        mem::take(&mut self.notices)
    }

    pub(super) fn stats(&self) -> HistoryStats {
        self.stats.clone()
    }

    pub(super) fn waiting(&self) -> usize {
        self.store.as_ref().map_or(0, Store::waiting)
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.store.as_ref().is_some_and(Store::is_unsettled)
    }

    /// Whether it cannot be written at present.
    pub(super) const fn fails(&self) -> bool {
        self.outage.is_some()
    }

    pub(super) fn apply(&mut self, event: &Event) {
        let day = Day::of(event.wall);
        if day > self.day {
            self.turn_to(day);
        }
        self.at = (event.boot, event.wall);
        if self.store.is_none() && self.again.is_none_or(|again| Instant::now() >= again) {
            self.open();
        }
        match &mut self.store {
            Some(store) => store.apply(event),
            None => self.dropped(1),
        }
    }

    pub(super) fn commit(&mut self) {
        let Some(store) = &mut self.store else { return };
        let waiting = store.waiting() as u64;
        match store.commit() {
            Ok(written) => {
                self.stats.rows += written.rows;
                self.stats.last = Some(self.at.1);
                self.stats.collapsed += written.collapsed;
                if written.rows > 0
                    && let Some(dropped) = self.outage.take()
                {
                    self.notices.push(HistoryNotice::Works { dropped });
                }
                if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
                    self.sweep();
                }
            }
            Err(error) => {
                self.failed(&error);
                self.dropped(waiting);
                // A file that is full may be written again; any other is opened anew.
                if !error.is_full() {
                    self.store = None;
                    self.again = Some(Instant::now() + AGAIN);
                }
            }
        }
    }

    pub(super) fn finish(&mut self) {
        self.commit();
        if let Some(store) = self.store.take()
            && let Err(error) = store.finish(self.at.1, false)
        {
            self.failed(&error);
        }
    }

    fn dropped(&mut self, count: u64) {
        self.stats.dropped += count;
        if let Some(outage) = &mut self.outage {
            *outage += count;
        }
    }

    fn failed(&mut self, error: &HistoryError) {
        if self.outage.is_none() {
            self.outage = Some(0);
            self.notices.push(HistoryNotice::Fails(error.to_string()));
        }
    }

    fn note(&mut self, text: String) {
        self.notices.push(HistoryNotice::Note(text));
    }

    /// Begins the file of a later day. What is open goes on in it.
    fn turn_to(&mut self, day: Day) {
        self.commit();
        self.day = day;
        let Some(old) = self.store.take() else { return };
        self.open();
        if let Some(new) = &mut self.store
            && let Err(error) = carry(old.path(), &self.of, new)
        {
            self.failed(&error);
        }
        if let Err(error) = old.finish(self.at.1, true) {
            self.failed(&error);
        }
        self.sweep();
    }

    /// Opens the file of the day: the first that can be used.
    fn open(&mut self) {
        self.again = Some(Instant::now() + AGAIN);
        if let Err(error) = days::make_folder(&self.options.folder, self.options.group) {
            let path = self.options.folder.clone();
            return self.failed(&HistoryError::Io { path, error });
        }
        for number in 0..NUMBERS_MAX {
            let path = days::path(&self.options.folder, self.day, number);
            let made = days::make_file(&path, self.options.group);
            let opened = made
                .map_err(|error| HistoryError::Io { path: path.clone(), error })
                .and_then(|()| Store::open(&path, &self.of, self.at, self.options.rate));
            match opened {
                Ok(store) => {
                    self.stats.file.clone_from(&path);
                    self.store = Some(store);
                    self.again = None;
                    if self.swept.is_none() {
                        self.sweep();
                    }
                    return;
                }
                Err(error @ HistoryError::Newer { .. }) => {
                    let text = format!("{error}; the history goes on in another file");
                    self.note(text);
                }
                Err(error @ (HistoryError::Damaged { .. } | HistoryError::NotHistory(_))) => {
                    match set_aside(&path) {
                        Ok(aside) => self.note(format!("{error}; it is kept as {}", escape::path(&aside))),
                        Err(error) => return self.failed(&HistoryError::Io { path, error }),
                    }
                    // Its name is free now.
                    if number == 0 {
                        return self.open();
                    }
                }
                Err(error) => return self.failed(&error),
            }
        }
    }

    fn sweep(&mut self) {
        self.swept = Some(Instant::now());
        let current = self.stats.file.clone();
        match retention::sweep(&self.options.folder, self.options.keep, &current) {
            Ok(swept) => {
                (self.stats.bytes, self.stats.files) = (swept.bytes, swept.files);
                if self.stats.first.is_none() || !swept.unlinked.is_empty() {
                    self.stats.first = self.first();
                }
                if !swept.unlinked.is_empty() {
                    self.note(format!("history: unlinked {}", swept.unlinked.join(", ")));
                }
            }
            Err(error) => self.note(format!("cannot bound the history: {error}")),
        }
    }
}

impl Keeper {
    /// When the oldest file begins.
    fn first(&self) -> Option<WallNs> {
        let oldest = days::list(&self.options.folder).ok()?.into_iter().next()?;
        File::open(&oldest.path).ok()?.first().ok()?
    }
}

/// Moves a file that cannot be used out of the way, with what is beside it.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let free = |number: u32| {
        let aside = days::beside(path, &format!(".damaged-{number}"));
        (!aside.exists()).then_some(aside)
    };
    let aside = (1..).find_map(free).unwrap_or_else(|| days::beside(path, ".damaged"));
    std::fs::rename(path, &aside)?;
    for suffix in BESIDE {
        match std::fs::rename(days::beside(path, suffix), days::beside(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Copies what is open from a file to the next one.
fn carry(old: &Path, of: &StreamIdentity, new: &mut Store) -> Result<(), HistoryError> {
    let file = File::open(old)?;
    let open = Condition { sql: "ended IS NULL".to_owned(), values: Vec::new() };
    let mut each = |stored: Stored| {
        if *stored.run == *of {
            new.carry(stored.row);
        }
        ControlFlow::Continue(())
    };
    let _ = file.connections(Span::ALL, &open, &|_| false, &mut each)?;
    let mut reader = Reader::default();
    let mut failed = None;
    file.lines(
        "SELECT id >> 40, seq, listen FROM listener WHERE ended IS NULL AND listen IS NOT NULL",
        &[],
        &mut |run, _, line| {
            if **run == *of {
                match reader.read(line) {
                    Ok(Recorded::Event(event)) => new.apply(&event),
                    Ok(_) => {}
                    Err(error) => failed = Some(HistoryError::Line { path: old.to_owned(), error }),
                }
            }
        },
    )?;
    new.commit()?;
    failed.map_or(Ok(()), Err)
}
