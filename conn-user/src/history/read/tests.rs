//! Asking a history: what matches, in which order, counted, as SQL, and as a stream again.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::keys::{GroupKey, Sort, SortKey};
use super::pick::{Ask, matches};
use super::sql::{Database, SqlError};
use super::tail::Past;
use super::{Condition, History, Span, Value};
use crate::event::model::{Event, EventBody};
use crate::event::samples::{self, identity};
use crate::filter::Filter;
use crate::flow::model::{Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, Traffic};
use crate::history::tests::{Folder, START, at, open};
use crate::units::{BootNs, DurationNs, WallNs};

const SECOND: u64 = 1_000_000_000;

fn conn(number: u64, remote: &str, direction: Direction) -> ConnEvent {
    let mut conn = samples::outgoing();
    conn.id = ConnId(number);
    conn.direction = direction;
    conn.remote = remote.parse().expect("an address");
    conn.established = None;
    conn.begun = BootNs(0);
    conn
}

fn close(conn: &ConnEvent, bytes: u64) -> Change {
    let traffic = Traffic { bytes_in: bytes, bytes_out: 1, retransmits: None, srtt_us: 0 };
    let ending = Ending {
        how: EndedHow::LocalFin,
        errno: 0,
        closer: conn.owner.clone(),
        duration: Some(DurationNs(bytes)),
        traffic: Some(traffic),
    };
    Change::Close(conn.clone(), ending)
}

/// Connection N begins N seconds after the start: 1 is closed, 2 failed, 3 came from outside, 4 is open.
fn sample(folder: &Folder) -> Vec<Event> {
    let mut store = open(&folder.file(), 0);
    let one = conn(1, "192.0.2.1:443", Direction::Out);
    let two = conn(2, "192.0.2.2:81", Direction::Out);
    let three = conn(3, "198.51.100.3:50000", Direction::In);
    let four = conn(4, "[2001:db8::4]:443", Direction::Out);
    let failure = Failure { errno: 111, after: Some(DurationNs(5)) };
    let events = vec![
        at(1, SECOND, Change::Connect(one.clone())),
        at(2, 2 * SECOND, Change::Connect(two.clone())),
        at(3, 3 * SECOND, Change::Accept(three.clone())),
        at(4, 4 * SECOND, Change::Connect(four)),
        at(5, 5 * SECOND, Change::Failed(two, failure)),
        at(6, 6 * SECOND, close(&three, 300)),
        at(7, 7 * SECOND, close(&one, 100)),
    ];
    for event in &events {
        store.apply(event);
    }
    store.commit().expect("written");
    events
}

fn history(folder: &Folder) -> History {
    let history = History::open_for(&folder.0, Span::ALL).expect("a folder");
    assert!(history.refused.is_empty(), "{:?}", history.refused);
    history
}

fn span(since: u64, until: u64) -> Span {
    Span { since: WallNs(START.1.0 + since * SECOND), until: WallNs(START.1.0 + until * SECOND) }
}

/// The numbers of the connections that are found.
fn found(history: &History, span: Span, filter: &str, sort: Sort, limit: Option<u64>) -> Vec<u64> {
    let filter = Filter::new(filter).expect("a filter");
    let picked = history.pick(Ask { span, filter: &filter }, sort, limit).expect("an answer");
    let mut numbers = Vec::new();
    let each = &mut |shown: &super::pick::Shown| {
        numbers.push(shown.stored.row.connection().id.0);
        ControlFlow::Continue(())
    };
    picked.read(each).expect("rows");
    numbers
}

#[test]
fn connections_are_found_by_time_filter_and_in_order() {
    let folder = Folder::new("find");
    sample(&folder);
    let history = history(&folder);
    let all = |filter| found(&history, Span::ALL, filter, Sort::TIME, None);
    assert_eq!(all(""), [4, 2, 3, 1], "by the time of the event that is shown");
    for (filter, expected) in [
        ("raddr:192.0.2.1", &[1][..]),
        ("raddr:192.0.2.0/24", &[2, 1]),
        ("ip:2001:db8::4", &[4]),
        ("raddr:203.0.113.1", &[]),
        ("rport:443", &[4, 1]),
        ("port:400-500", &[4, 1]),
        ("rport:443 raddr:192.0.2.0/24", &[1]),
        ("-rport:443", &[2, 3]),
        ("kind:connect", &[4, 2, 1]),
        ("kind:failed", &[2]),
        ("end:local_fin", &[3, 1]),
        ("dir:in", &[3]),
        ("src:198.51.100.3", &[3]),
        ("dst:192.0.2.1,192.0.2.2", &[2, 1]),
        ("errno:ECONNREFUSED", &[2]),
        ("uid:4000000000", &[]),
    ] {
        assert_eq!(all(filter), expected, "{filter}");
    }
    let by = |key, reverse| found(&history, Span::ALL, "", Sort { key, reverse }, None);
    assert_eq!(by(SortKey::BytesIn, false), [1, 3, 2, 4], "what has none comes last");
    assert_eq!(by(SortKey::BytesIn, true)[..2], [3, 1]);
    assert_eq!(by(SortKey::Duration, false), [2, 1, 3, 4]);
    assert_eq!(found(&history, Span::ALL, "", Sort { key: SortKey::Time, reverse: true }, Some(2)), [1, 3]);
    assert_eq!(found(&history, Span::ALL, "dir:out", Sort::TIME, Some(1)), [4]);
}

#[test]
fn a_connection_is_in_a_span_if_it_was_open_in_it() {
    let folder = Folder::new("span");
    sample(&folder);
    let history = history(&folder);
    let within = |since, until| found(&history, span(since, until), "", Sort::TIME, None);
    assert_eq!(within(0, 0), [0_u64; 0]);
    assert_eq!(within(0, 1), [1]);
    assert_eq!(within(6, 6), [4, 3, 1]);
    assert_eq!(within(8, 9), [4], "what is open goes on");
    let kinds = found(&history, span(8, 9), "kind:connect", Sort::TIME, None);
    assert_eq!(kinds, [4], "with a filter that SQL does not know");
}

#[test]
fn what_was_open_at_the_end_of_a_run_is_not_open_later() {
    let folder = Folder::new("ended");
    sample(&folder);
    open(&folder.file(), 0).finish(WallNs(START.1.0 + 10 * SECOND), false).expect("written");
    let history = history(&folder);
    assert_eq!(found(&history, span(8, 9), "", Sort::TIME, None), [4]);
    assert_eq!(found(&history, span(11, 12), "", Sort::TIME, None), [0_u64; 0]);
    assert_eq!(found(&history, span(11, 12), "kind:connect", Sort::TIME, None), [0_u64; 0]);
    let filter = Filter::new("raddr:2001:db8::4").expect("a filter");
    let picked = history.pick(Ask { span: Span::ALL, filter: &filter }, Sort::TIME, None).expect("an answer");
    let mut ended = Vec::new();
    picked
        .read(&mut |shown| {
            ended.push(shown.run_ended);
            ControlFlow::Continue(())
        })
        .expect("rows");
    assert_eq!(ended, [Some(WallNs(START.1.0 + 10 * SECOND))]);
}

#[test]
fn what_goes_on_over_midnight_is_one_connection() {
    let folder = Folder::new("midnight");
    let events = sample(&folder);
    open(&folder.file(), 0).finish(WallNs(START.1.0 + 10 * SECOND), true).expect("written");
    let mut next = open(&folder.0.join("history-20261202.db"), 0);
    let four = events[3].clone();
    next.apply(&four);
    let EventBody::Flow(Change::Connect(conn)) = &four.body else { panic!("a connect") };
    next.apply(&at(8, 90_000 * SECOND, close(conn, 400)));
    next.commit().expect("written");
    let history = history(&folder);
    assert_eq!(found(&history, Span::ALL, "", Sort::TIME, None), [2, 3, 1, 4]);
    assert_eq!(found(&history, Span::ALL, "dport:443", Sort::TIME, None), [1, 4]);
    let seqs = seqs(&history, &Past::default());
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7, 8], "each event once");
}

fn groups(history: &History, filter: &str, keys: &[GroupKey]) -> Vec<(Vec<Value>, u64, u64)> {
    let filter = Filter::new(filter).expect("a filter");
    let groups = history.count(Ask { span: Span::ALL, filter: &filter }, keys, Sort::MOST, None);
    let groups = groups.expect("an answer").into_iter();
    groups.map(|(values, sum)| (values.to_vec(), sum.count, sum.bytes_in)).collect()
}

#[test]
fn connections_are_counted_by_keys() {
    let folder = Folder::new("count");
    sample(&folder);
    let history = history(&folder);
    let text = |text: &str| Value::Text(text.into());
    let number = Value::Number;
    assert_eq!(
        groups(&history, "", &[GroupKey::Rport]),
        [(vec![number(443)], 2, 100), (vec![number(81)], 1, 0), (vec![number(50_000)], 1, 300),]
    );
    assert_eq!(
        groups(&history, "", &[GroupKey::Dir, GroupKey::Kind, GroupKey::End]),
        [
            (vec![text("in"), text("close"), text("local_fin")], 1, 300),
            (vec![text("out"), text("close"), text("local_fin")], 1, 100),
            (vec![text("out"), text("connect"), Value::Null], 1, 0),
            (vec![text("out"), text("failed"), Value::Null], 1, 0),
        ]
    );
    let local = samples::outgoing().local;
    let dst = groups(&history, "dir:in", &[GroupKey::Dst, GroupKey::Dport, GroupKey::Src]);
    let own = text(&local.ip().to_string());
    assert_eq!(dst, [(vec![own, number(local.port().into()), text("198.51.100.3")], 1, 300)]);
    let process = groups(&history, "", &[GroupKey::Comm, GroupKey::Uid, GroupKey::Host]);
    let owner = samples::outgoing().owner.process.expect("a process");
    let comm = text(&String::from_utf8_lossy(&owner.comm));
    assert_eq!(process, [(vec![comm, number(owner.uid.into()), text(&identity().host)], 4, 400)]);
}

fn seqs(history: &History, past: &Past) -> Vec<u64> {
    let mut seqs = Vec::new();
    let each = &mut |_: &_, event: &Event| {
        seqs.push(event.seq);
        ControlFlow::Continue(())
    };
    history.events(past, each).expect("events");
    seqs
}

#[test]
fn events_come_back_in_their_order() {
    let folder = Folder::new("tail");
    let events = sample(&folder);
    let history = history(&folder);
    let mut lines = Vec::new();
    let each = &mut |run: &std::sync::Arc<_>, event: &Event| {
        assert_eq!(**run, identity());
        lines.push(crate::history::tests::line(event));
        ControlFlow::Continue(())
    };
    history.events(&Past::default(), each).expect("events");
    assert_eq!(lines, events.iter().map(crate::history::tests::line).collect::<Vec<_>>());
    let since = Some(WallNs(START.1.0 + 5 * SECOND));
    assert_eq!(seqs(&history, &Past { since, ..Past::default() }), [5, 6, 7]);
    assert_eq!(seqs(&history, &Past { last: Some(2), ..Past::default() }), [6, 7]);
    let run = format!("{}-{:x}", identity().boot8(), identity().agent_start.0);
    let up_to = Some((run, 4));
    assert_eq!(seqs(&history, &Past { up_to, last: Some(2), ..Past::default() }), [3, 4]);
}

#[test]
fn sql_reads_all_files_and_writes_none() {
    let folder = Folder::new("sql");
    sample(&folder);
    let mut next = open(&folder.0.join("history-20261202.db"), 0);
    next.apply(&at(8, 90_000 * SECOND, Change::Connect(conn(5, "192.0.2.5:443", Direction::Out))));
    next.commit().expect("written");
    let history = history(&folder);
    let database = Database::attach(&history).expect("attached");
    assert_eq!((database.files.len(), database.left_out), (2, 0));
    let run = |sql: &str| -> Result<Vec<i64>, SqlError> {
        let mut all = Vec::new();
        database.run(sql, &mut |_, values| {
            all.extend(values.into_iter().flatten().map(|value| value.as_i64().expect("a number")));
            ControlFlow::Continue(())
        })?;
        Ok(all)
    };
    assert_eq!(run("SELECT count(*) FROM conn").expect("rows"), [5]);
    assert_eq!(run("SELECT sum(count) FROM connection WHERE rport = 443").expect("rows"), [3]);
    let joined = "SELECT count(*) FROM conn JOIN addr ON addr.id = conn.raddr AND addr.file = conn.file";
    assert_eq!(run(joined).expect("rows"), [5]);
    for sql in [
        "DELETE FROM conn",
        "DROP VIEW connection",
        "CREATE TABLE more (a)",
        "UPDATE f0.conn SET rport = 1",
        "ATTACH '/tmp/conn-test-nothing.db' AS more",
        "VACUUM INTO '/tmp/conn-test-nothing.db'",
        "PRAGMA query_only = OFF",
        "BEGIN",
    ] {
        assert!(run(sql).is_err(), "{sql}");
    }
    assert!(matches!(run("SELECT 1; SELECT 2"), Err(SqlError::Several)));
    assert!(run("SELECT 1; DELETE FROM conn").is_err());
    let error = run("SELECT nothing FROM conn").expect_err("no column").to_string();
    assert!(error.contains("nothing"), "{error}");
    assert_eq!(run("SELECT count(*) FROM conn").expect("rows"), [5], "nothing was removed");
}

/// What a program prints, a line each; `None`: it is not installed.
fn printed(program: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {error}");
    Some(String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect())
}

/// Beside a writer as well as when it has finished.
#[test]
fn other_programs_read_the_same() {
    const SQL: &str =
        "SELECT raddr, rport, dir, end, seconds, bytes_in, count, comm FROM connection ORDER BY began";
    const PYTHON: &str = "import sqlite3, sys\n\
        db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)\n\
        for row in db.execute(sys.argv[2]): print('|'.join('' if value is None else str(value) for value in row))";
    let folder = Folder::new("others");
    let events = sample(&folder);
    let store = open(&folder.file(), 0);
    let comm =
        String::from_utf8_lossy(&samples::outgoing().owner.process.expect("a process").comm).into_owned();
    let expected = [
        format!("192.0.2.1|443|out|local_fin|1e-07|100|1|{comm}"),
        format!("192.0.2.2|81|out|failed|5e-09||1|{comm}"),
        format!("198.51.100.3|50000|in|local_fin|3e-07|300|1|{comm}"),
        format!("2001:db8::4|443|out||||1|{comm}"),
    ];
    let path = folder.file();
    let path = path.to_str().expect("UTF-8");
    let compare = || {
        // SQLite's own program writes numbers with a fraction in its way.
        let plain = |lines: Vec<String>| -> Vec<String> {
            lines
                .iter()
                .map(|line| {
                    line.replace("1.0e-07", "1e-07").replace("5.0e-09", "5e-09").replace("3.0e-07", "3e-07")
                })
                .collect()
        };
        let python = printed("python3", &["-c", PYTHON, path, SQL]).map(plain);
        let sqlite = printed("sqlite3", &["-readonly", path, SQL]).map(plain);
        for found in [python, sqlite].into_iter().flatten() {
            assert_eq!(found, expected);
        }
        let history = history(&folder);
        assert_eq!(found(&history, Span::ALL, "", Sort::TIME, None).len(), expected.len());
        let mut own = Vec::new();
        let database = Database::attach(&history).expect("attached");
        database
            .run(SQL, &mut |_, values| {
                own.extend(values.map(|values| values[0].as_str().expect("text").to_owned()));
                ControlFlow::Continue(())
            })
            .expect("rows");
        assert!(own.iter().zip(&expected).all(|(own, line)| line.split('|').next() == Some(own)), "{own:?}");
    };
    compare();
    store.finish(events[6].wall, false).expect("written");
    compare();
}

/// Whoever only may read does so beside a writer, after a crash, and where nothing can be made.
#[test]
fn a_finished_file_needs_no_file_beside_it() {
    let folder = Folder::new("beside");
    sample(&folder);
    open(&folder.file(), 0).finish(START.1, false).expect("written");
    let names: Vec<_> = std::fs::read_dir(&folder.0).expect("a folder").collect();
    assert_eq!(names.len(), 1);
    assert_eq!(found(&history(&folder), Span::ALL, "rport:81", Sort::TIME, None), [2]);
}

#[test]
fn files_before_the_span_are_not_opened() {
    let folder = Folder::new("before");
    sample(&folder);
    let later = |days: u64| Span { since: WallNs(START.1.0 + days * 86_400 * SECOND), ..Span::ALL };
    let files = |span| History::open_for(&folder.0, span).expect("a folder").files().len();
    assert_eq!((files(Span::ALL), files(later(1)), files(later(2))), (1, 1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What SQL leaves out does not match.
    #[test]
    fn conditions_leave_out_nothing_that_matches(
        all in proptest::collection::vec((0_u8..4, 0_u16..4, 0_u8..3), 1..12),
        filters in proptest::collection::vec((0_usize..8, 0_u8..4, 0_u16..4), 1..8),
    ) {
        let folder = Folder::new("push");
        let mut store = open(&folder.file(), 0);
        for (at_number, (host, port, direction)) in all.iter().enumerate() {
            let number = at_number as u64 + 1;
            let direction = [Direction::Out, Direction::In, Direction::Unknown][usize::from(*direction)];
            let conn = conn(number, &format!("192.0.2.{host}:{}", 440 + port), direction);
            store.apply(&at(number, number, Change::Connect(conn)));
        }
        store.commit().expect("written");
        let history = history(&folder);
        for (form, host, port) in filters {
            let text = match form {
                0 => format!("raddr:192.0.2.{host}"),
                1 => format!("ip:192.0.2.{host}/31"),
                2 => format!("dst:192.0.2.{host} dport:{}", 440 + port),
                3 => format!("src:192.0.2.{host}"),
                4 => format!("rport:{}-443 raddr:192.0.2.{host}/30", 440 + port),
                5 => format!("port:{} dir:in", 440 + port),
                6 => format!("-raddr:192.0.2.{host}"),
                _ => format!("uid:0-{port}"),
            };
            let filter = Filter::new(&text).expect("a filter");
            let mut expected = Vec::new();
            history.connections(Span::ALL, &Condition::default(), &mut |stored| {
                if matches(&stored.row, &filter) {
                    expected.push(stored.row.connection().id.0);
                }
                ControlFlow::Continue(())
            }).expect("rows");
            prop_assert_eq!(found(&history, Span::ALL, &text, Sort::TIME, None), expected.clone(), "{}", &text);
            let counted: u64 = groups(&history, &text, &[GroupKey::Raddr]).iter().map(|group| group.1).sum();
            prop_assert_eq!(counted, expected.len() as u64, "{}", &text);
        }
    }
}
