//! The history as a whole: what goes in comes out, whatever happens to the file.

mod failures;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::read::{Condition, History, Span};
use super::row::ConnRow;
use super::store::Store;
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventBody};
use crate::event::samples::{self, identity};
use crate::flow::model::{Change, ConnId, Ending, Failure};
use crate::units::{BootNs, DurationNs, WallNs};

/// A folder of a test, removed with it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("conn-history-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Where the first file of a history lies.
    pub(super) fn file(&self) -> PathBuf {
        self.0.join("history-20261201.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The instant at which the samples' run began.
pub(super) const START: (BootNs, WallNs) = (BootNs(1_000_000_000), WallNs(1_796_083_201_000_000_000));

pub(super) fn open(path: &Path, rate: u32) -> Store {
    Store::open(path, &identity(), START, rate).expect("a store")
}

/// An event some nanoseconds after the start.
pub(super) fn at(seq: u64, after: u64, change: Change) -> Event {
    let (boot, wall) = (BootNs(START.0.0 + after), WallNs(START.1.0 + after));
    Event { seq, boot, wall, body: EventBody::Flow(change) }
}

pub(super) fn line(event: &Event) -> Value {
    let mut out = Vec::new();
    JsonEncoder::new(&identity()).encode(event, &mut out);
    let mut line: Value = serde_json::from_slice(&out).expect("JSON");
    // One that was read is the owner itself if it has the same text.
    if line["closer"]["process"].is_string() {
        line["closer"]["process"] = line["process"].clone();
    }
    line
}

/// The connections of a folder, in order.
pub(super) fn rows(folder: &Folder) -> Vec<ConnRow> {
    let history = History::open(&folder.0).expect("a folder");
    assert!(history.refused.is_empty(), "{:?}", history.refused);
    let mut rows = Vec::new();
    let mut each = |stored: super::read::Stored| {
        assert_eq!(*stored.run, identity());
        rows.push(stored.row);
        ControlFlow::Continue(())
    };
    history.connections(Span::ALL, &Condition::default(), &mut each).expect("rows");
    rows
}

/// The connections that the samples have, each with its events.
fn connections(events: &[Event]) -> BTreeMap<u64, Vec<&Event>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for event in events {
        if let EventBody::Flow(change) = &event.body
            && let Some(conn) = change.connection()
        {
            all.entry(conn.id.0).or_default().push(event);
        }
    }
    all
}

#[test]
fn a_connection_is_there_while_it_is_open_and_complete_at_its_end() {
    let folder = Folder::new("life");
    let mut store = open(&folder.file(), 0);
    let mut conn = samples::outgoing();
    conn.begun = BootNs(START.0.0 + 10);
    let connect = at(1, 10, Change::Connect(conn.clone()));
    conn.established = Some(BootNs(START.0.0 + 30));
    let established = at(2, 30, Change::Established(conn.clone()));
    let ending = Ending { duration: Some(DurationNs(70)), ..ending() };
    let close = at(9, 100, Change::Close(conn, ending));
    for (event, last) in [(&connect, &connect), (&established, &established), (&close, &close)] {
        store.apply(event);
        store.commit().expect("written");
        let rows = rows(&folder);
        assert_eq!(rows.len(), 1);
        assert_eq!(line(&rows[0].last_event()), line(last));
    }
    let events: Vec<Value> = rows(&folder)[0].events().map(|event| line(&event)).collect();
    assert_eq!(events, [line(&connect), line(&established), line(&close)]);
}

pub(super) fn ending() -> Ending {
    samples::all()
        .into_iter()
        .find_map(|event| match event.body {
            EventBody::Flow(Change::Close(_, ending)) => Some(ending),
            _ => None,
        })
        .expect("a sample")
}

/// All samples of connections, alerts and notes, in one commit and with one for each.
#[test]
fn the_samples_are_the_same() {
    for commits in [false, true] {
        let folder = Folder::new("samples");
        let events = samples::all();
        let mut store = open(&folder.file(), 0);
        for event in &events {
            store.apply(event);
            if commits {
                store.commit().expect("written");
            }
        }
        store.finish(START.1, false).expect("finished");
        assert!(!super::days::beside(&folder.file(), "-wal").exists(), "one file");
        let rows = rows(&folder);
        let expected = connections(&events);
        assert_eq!(rows.len(), expected.len());
        for row in &rows {
            let last = expected[&row.connection().id.0].last().expect("an event");
            assert_eq!(line(&row.last_event()), line(last));
        }
        let history = History::open(&folder.0).expect("a folder");
        let mut lines = Vec::new();
        for table in ["alert", "note"] {
            let sql = format!("SELECT run, seq, line FROM {table} ORDER BY seq");
            let mut each =
                |_: &_, _, line: &str| lines.push(serde_json::from_str::<Value>(line).expect("JSON"));
            history.files()[0].lines(&sql, &[], &mut each).expect("lines");
        }
        let is_line =
            |event: &&Event| !matches!(event.body, EventBody::Flow(_)) && Store::keeps(event.body.kind());
        for event in events.iter().filter(is_line) {
            assert!(lines.contains(&line(event)), "{}", line(event));
        }
    }
}

/// A connection with arbitrary events.
fn any_connection() -> impl Strategy<Value = Vec<Event>> {
    let conn = samples::any_event().prop_filter_map("a connection", |event| match event.body {
        EventBody::Flow(change) => change.connection().cloned(),
        _ => None,
    });
    let end = samples::any_event().prop_filter_map("an end", |event| match event.body {
        EventBody::Flow(Change::Close(_, ending)) => Some(Ok(ending)),
        EventBody::Flow(Change::Failed(_, failure)) => Some(Err(failure)),
        _ => None,
    });
    let times = (1..1_000_000_u64, 0..1_000_000_u64, 0..1_000_000_u64, -500..500_i64);
    (conn, end, times, 0..3_u8, any::<bool>()).prop_map(
        |(mut conn, end, (first, second, third, skew), kinds, ends)| {
            let stamp = |after: u64| BootNs(START.0.0 + after);
            let moved =
                |event: Event| Event { wall: WallNs(event.wall.0.wrapping_add_signed(skew)), ..event };
            (conn.begun, conn.established) = (BootNs(0), None);
            let mut events = Vec::new();
            if kinds < 2 {
                conn.begun = stamp(first);
                events.push(at(1, first, Change::Connect(conn.clone())));
            }
            if kinds > 0 {
                conn.established = Some(stamp(first + second));
                events.push(moved(at(2, first + second, Change::Established(conn.clone()))));
            }
            if ends {
                let change = match end {
                    Ok(ending) => Change::Close(conn, ending),
                    Err(failure) => Change::Failed(conn, Failure { ..failure }),
                };
                events.push(moved(at(3, first + second + third, change)));
            }
            events
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_connection_is_the_same(connections in vec((any_connection(), any::<bool>()), 1..4)) {
        let folder = Folder::new("any");
        let mut store = open(&folder.file(), 0);
        let mut expected = BTreeMap::new();
        for (number, (events, commits)) in (7..).zip(connections) {
            for mut event in events {
                if let EventBody::Flow(change) = &mut event.body {
                    let (Change::Connect(conn)
                    | Change::Established(conn)
                    | Change::Failed(conn, _)
                    | Change::Close(conn, _)
                    | Change::Accept(conn)) = change
                    else {
                        continue;
                    };
                    conn.id = ConnId(number);
                }
                store.apply(&event);
                if commits {
                    store.commit().expect("written");
                }
                expected.insert(number, event);
            }
        }
        store.commit().expect("written");
        let rows = rows(&folder);
        prop_assert_eq!(rows.len(), expected.len());
        for row in rows {
            prop_assert_eq!(line(&row.last_event()), line(&expected[&row.connection().id.0]));
        }
    }
}

#[test]
fn identical_short_connections_that_come_too_fast_are_one_row() {
    let folder = Folder::new("collapse");
    let mut store = open(&folder.file(), 3);
    let ending = Ending { duration: Some(DurationNs(50)), ..ending() };
    let bytes = ending.traffic.expect("traffic").bytes_in;
    for number in 0..10 {
        let mut conn = samples::outgoing();
        conn.id = ConnId(number);
        conn.begun = BootNs(START.0.0 + number * 100);
        store.apply(&at(2 * number, number * 100, Change::Connect(conn.clone())));
        store.apply(&at(2 * number + 1, number * 100 + 60, Change::Close(conn, ending.clone())));
    }
    let written = store.commit().expect("written");
    assert_eq!((written.rows, written.collapsed), (4, 7));
    let rows = rows(&folder);
    assert_eq!(rows.iter().map(ConnRow::count).collect::<Vec<_>>(), [1, 1, 1, 7]);
    let many = rows[3].last_event();
    assert_eq!((rows[3].began(), many.wall), (WallNs(START.1.0 + 300), WallNs(START.1.0 + 960)));
    let EventBody::Flow(Change::Close(_, sum)) = many.body else { panic!("a close") };
    assert_eq!(sum.traffic.expect("traffic").bytes_in, 7 * bytes);
}

#[test]
fn what_becomes_known_of_a_process_later_is_in_its_row() {
    let folder = Folder::new("facts");
    let mut store = open(&folder.file(), 0);
    let process = std::sync::Arc::new(crate::process::info::ProcessInfo {
        identity: crate::process::identity::Identity::default(),
        ..(*samples::curl()).clone()
    });
    let mut conn = samples::outgoing();
    conn.owner.process = Some(std::sync::Arc::clone(&process));
    store.apply(&at(1, 10, Change::Connect(conn)));
    store.commit().expect("written");
    assert!(store.is_unsettled());
    process.identity.set_sha256(Some([7; 32]));
    process.identity.settle();
    store.commit().expect("written");
    assert!(!store.is_unsettled());
    let row = &rows(&folder)[0];
    let known = row.connection().owner.process.as_ref().expect("a process");
    assert_eq!(known.identity.sha256(), Some(&[7; 32]));
}
