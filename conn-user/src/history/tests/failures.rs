//! A disk that is full, files that cannot be used, clocks that jump, an agent that is killed.

use std::sync::Arc;

use rusqlite::Connection;

use super::*;
use crate::history::days;
use crate::history::error::HistoryError;
use crate::history::read::File;
use crate::history::retention::Keep;
use crate::history::schema::{self, APPLICATION_ID, VERSION};
use crate::history::writer::{HistoryNotice, HistoryOptions, HistoryWriter};

const DAY: u64 = 24 * 60 * 60 * 1_000_000_000;

fn connect(number: u64, after: u64) -> Event {
    let mut conn = samples::outgoing();
    conn.id = ConnId(number);
    conn.begun = BootNs(START.0.0 + after);
    at(number, after, Change::Connect(conn))
}

fn writer(folder: &Folder) -> HistoryWriter {
    let options = HistoryOptions { folder: folder.0.clone(), keep: Keep::default(), rate: 0, group: None };
    HistoryWriter::start(options, identity(), START, Arc::default()).expect("a thread")
}

/// What people have seen so far.
fn texts(writer: &HistoryWriter) -> Vec<String> {
    let text = |notice| match notice {
        HistoryNotice::Fails(error) => format!("fails: {error}"),
        HistoryNotice::Works { dropped } => format!("works, {dropped} dropped"),
        HistoryNotice::Overflows => "overflows".to_owned(),
        HistoryNotice::Note(text) => text,
    };
    writer.notices().into_iter().map(text).collect()
}

fn write(writer: &mut HistoryWriter, event: &Event) {
    writer.on_event(event);
    writer.flush();
    let _ = writer.commits().commit();
}

#[test]
fn a_full_disk_costs_rows_which_are_counted() {
    let folder = Folder::new("full");
    let mut store = open(&folder.file(), 0);
    store.apply(&connect(1, 10));
    store.commit().expect("written");
    store.limit_pages(Some(1));
    for number in 2..500 {
        store.apply(&connect(number, number * 10));
    }
    assert!(store.commit().expect_err("full").is_full());
    assert_eq!(rows(&folder).len(), 1, "all of it or nothing");
    store.limit_pages(None);
    store.apply(&connect(500, 5_000));
    store.commit().expect("written again");
    assert_eq!(rows(&folder).len(), 2);
}

#[tokio::test]
async fn what_cannot_be_written_is_reported_once_and_when_it_is_over() {
    let folder = Folder::new("outage");
    // A file in the place of the folder.
    let place = folder.0.join("history");
    fs::write(&place, "").expect("a file");
    let options = HistoryOptions { folder: place.clone(), keep: Keep::default(), rate: 0, group: None };
    let mut writer = HistoryWriter::start(options, identity(), START, Arc::default()).expect("a thread");
    for number in 1..4 {
        write(&mut writer, &connect(number, number * 10));
    }
    let reported = texts(&writer);
    assert!(reported.len() == 1 && reported[0].starts_with("fails: "), "{reported:?}");
    assert_eq!(writer.stats().dropped, 3);
    assert!(writer.commits().commit().is_err(), "and whoever asks gets an error");
    fs::remove_file(&place).expect("removed");
    // It is tried again after a second.
    let mut reported = Vec::new();
    let mut number = 4;
    while reported.is_empty() {
        write(&mut writer, &connect(number, number * 10));
        reported = texts(&writer);
        number += 1;
        tokio::task::yield_now().await;
    }
    let dropped = writer.stats().dropped;
    assert_eq!(reported, [format!("works, {dropped} dropped")]);
    writer.finish().await;
}

#[tokio::test]
async fn a_damaged_file_is_kept_and_another_one_begun() {
    let folder = Folder::new("damaged");
    fs::write(folder.file(), "this is no database, however long it is ".repeat(100)).expect("a file");
    let mut writer = writer(&folder);
    write(&mut writer, &connect(1, 10));
    let reported = texts(&writer);
    assert!(reported.len() == 1 && reported[0].contains("history-20261201.db.damaged-1"), "{reported:?}");
    writer.finish().await;
    assert_eq!(rows(&folder).len(), 1);
    assert!(folder.0.join("history-20261201.db.damaged-1").exists());
}

#[test]
fn a_file_that_is_damaged_is_left_out_by_who_reads() {
    let folder = Folder::new("readable");
    let mut store = open(&folder.file(), 0);
    store.apply(&connect(1, 10));
    store.finish(START.1, false).expect("finished");
    fs::write(folder.0.join("history-20261130.db"), "no database".repeat(1000)).expect("a file");
    fs::write(folder.0.join("history-20261129.db"), "").expect("a file");
    let history = History::open(&folder.0).expect("a folder");
    assert_eq!((history.files().len(), history.refused.len()), (1, 2));
    assert!(matches!(history.refused[1], HistoryError::Damaged { .. }), "{:?}", history.refused);
}

#[tokio::test]
async fn a_newer_file_is_not_touched() {
    let folder = Folder::new("newer");
    {
        let db = Connection::open(folder.file()).expect("a file");
        db.execute_batch("CREATE TABLE future (x)").expect("a table");
        db.pragma_update(None, "application_id", APPLICATION_ID).expect("an id");
        db.pragma_update(None, "user_version", VERSION + 1).expect("a version");
    }
    let before = fs::read(folder.file()).expect("a file");
    let mut writer = writer(&folder);
    write(&mut writer, &connect(1, 10));
    let reported = texts(&writer);
    assert!(reported.len() == 1 && reported[0].contains("a newer conn"), "{reported:?}");
    writer.finish().await;
    assert_eq!(fs::read(folder.file()).expect("a file"), before);
    assert!(matches!(File::open(&folder.file()), Err(HistoryError::Newer { .. })));
    assert!(File::open(&folder.0.join("history-20261201-1.db")).is_ok());
}

#[tokio::test]
async fn another_program_s_database_is_not_written() {
    let folder = Folder::new("foreign");
    Connection::open(folder.file()).and_then(|db| db.execute_batch("CREATE TABLE x (y)")).expect("a file");
    assert!(matches!(Store::open(&folder.file(), &identity(), START, 0), Err(HistoryError::NotHistory(_))));
}

/// A killed agent leaves what was committed, and its next run goes on in the same file.
#[test]
fn a_killed_run_leaves_what_was_committed() {
    let folder = Folder::new("killed");
    let mut store = open(&folder.file(), 0);
    store.apply(&connect(1, 10));
    store.commit().expect("written");
    store.apply(&connect(2, 20));
    // Its log stays, as after a crash.
    std::mem::forget(store);
    assert_eq!(rows(&folder).len(), 1);
    let next = crate::event::json::StreamIdentity { agent_start: BootNs(77), ..identity() };
    let mut store = Store::open(&folder.file(), &next, START, 0).expect("a store");
    store.apply(&connect(1, 30));
    store.finish(START.1, false).expect("finished");
    let history = History::open(&folder.0).expect("a folder");
    let mut runs = Vec::new();
    let mut each = |stored: crate::history::read::Stored| {
        runs.push(stored.run.agent_start);
        ControlFlow::Continue(())
    };
    history.connections(Span::ALL, &Condition::default(), &mut each).expect("rows");
    assert_eq!(runs, [identity().agent_start, BootNs(77)]);
}

/// What is open goes on in the file of the next day, and is one connection.
#[tokio::test]
async fn a_connection_over_midnight_is_in_both_files() {
    let folder = Folder::new("midnight");
    let mut writer = writer(&folder);
    write(&mut writer, &connect(1, 10));
    write(&mut writer, &connect(2, 20));
    let mut conn = samples::outgoing();
    conn.id = ConnId(1);
    conn.begun = BootNs(START.0.0 + 10);
    let close = at(9, DAY + 5, Change::Close(conn, ending()));
    write(&mut writer, &close);
    writer.finish().await;
    assert_eq!(texts(&writer), Vec::<String>::new());
    assert_eq!(days::list(&folder.0).expect("a folder").len(), 2);
    let rows = rows(&folder);
    assert_eq!(rows.len(), 2, "each once");
    let ended = rows.iter().find(|row| row.connection().id == ConnId(1)).expect("there");
    assert_eq!(ended.began(), WallNs(START.1.0 + 10), "with its beginning");
    assert_eq!(line(&ended.last_event()), line(&close));
    // The file of the day before has what it knew.
    let old = File::open(&folder.file()).expect("a file");
    let open: i64 = old
        .sqlite()
        .query_row("SELECT count(*) FROM conn WHERE goes_on = 1", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(open, 2);
}

/// A clock that is set a day ahead or back: rows have the times that they have, and nothing is unlinked.
#[tokio::test]
async fn a_clock_that_jumps_loses_nothing() {
    let folder = Folder::new("jump");
    let mut writer = writer(&folder);
    let jumped = |number: u64, after: u64, by: i64| {
        let event = connect(number, after);
        Event { wall: WallNs(event.wall.0.wrapping_add_signed(by)), ..event }
    };
    let day = DAY.cast_signed();
    let events = [
        jumped(1, 10, 0),
        jumped(2, 20, -day),
        jumped(3, 30, 400 * day),
        jumped(4, 40, 0),
        jumped(5, 50, -day),
    ];
    for event in &events {
        write(&mut writer, event);
    }
    writer.finish().await;
    let rows = rows(&folder);
    assert_eq!(rows.len(), events.len());
    for event in &events {
        let number = ConnId(event.seq);
        let row = rows.iter().find(|row| row.connection().id == number).expect("there");
        assert_eq!(line(&row.last_event()), line(event));
    }
    assert_eq!(days::list(&folder.0).expect("a folder").len(), 2, "never back to the file of a day before");
}

/// A file of the first version is read as it is, and brought up to date by who writes it.
#[test]
fn an_older_file_is_brought_up_to_date() {
    let folder = Folder::new("migration");
    let path = folder.file();
    {
        let mut db = Connection::open(&path).expect("a file");
        schema::migrate_to(&mut db, &path, 1).expect("the first version");
        db.execute_batch(
            "INSERT INTO run VALUES (1, '752b100f-1', 'db1', '752b100f-0000-0000-0000-000000000000', 1, 1796083200000000000, \
             1796083201000000000, NULL);
             INSERT INTO addr VALUES (1, '10.0.0.5'), (2, '2001:db8::7');
             INSERT INTO opened (id, first, dir, proto, netns, source, method, reason, mapped, kernel_socket) \
             VALUES (1, 'connect', 'out', 'tcp', 4026531840, 'live', 'unknown', 'kernel', 0, 0);
             INSERT INTO conn (id, began, raddr, rport, laddr, lport, opened, seq, skew) \
             VALUES ((1 << 40) | 5, 1796083201000000010, 2, 443, 1, 40000, 1, 3, 0);",
        )
        .expect("rows");
    }
    let first = |folder: &Folder| {
        let history = History::open(&folder.0).expect("a folder");
        let mut found = Vec::new();
        let mut each = |stored: crate::history::read::Stored| {
            found.push(stored.row);
            ControlFlow::Continue(())
        };
        history.connections(Span::ALL, &Condition::default(), &mut each).expect("rows");
        assert_eq!(found.len(), 1);
        found.remove(0)
    };
    let before = first(&folder);
    assert_eq!((before.connection().remote.to_string(), before.count()), ("[2001:db8::7]:443".to_owned(), 1));
    let version = |path: &Path| {
        let db = Connection::open(path).expect("a file");
        schema::version(&db, path).expect("a history")
    };
    assert_eq!(version(&path), 1, "reading changes nothing");
    open(&path, 0).finish(START.1, false).expect("finished");
    assert_eq!(version(&path), VERSION);
    assert_eq!(line(&first(&folder).last_event()), line(&before.last_event()));
}
