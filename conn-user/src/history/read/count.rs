//! Connections counted by what they have in common, without making events of rows: only the columns that are needed are read.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Row;
use smallvec::SmallVec;

use super::file::File;
use super::group::{Groups, Sum, Value, Values};
use super::keys::{GroupKey, Sort, SortKey};
use super::pick::{Ask, QueryError, within};
use super::{History, push};
use crate::history::error::HistoryError;
use crate::units::WallNs;

/// What stands for "not known" among the numbers of a file.
const NULL: i64 = i64::MIN;

/// The values of a group as a file numbers them.
type Raw = SmallVec<[i64; 3]>;

/// The columns of `conn` that every group needs.
const COLUMNS: &str = "id, began, ended, bytes_in, bytes_out, count, goes_on";
/// How many those are.
const FIRST: usize = 7;

impl History {
    /// Counts the connections that match by some keys.
    ///
    /// # Errors
    /// When a file cannot be read on, or there are too many groups.
    pub fn count(
        &self,
        ask: Ask<'_>,
        keys: &[GroupKey],
        sort: Sort,
        limit: Option<u64>,
    ) -> Result<Vec<(Values, Sum)>, QueryError> {
        let mut groups = Groups::default();
        if push::is_exact(ask.filter) {
            let ends = self.run_ends();
            for (at, file) in self.files.iter().enumerate() {
                let is_left_out = |row: &Counted| {
                    let Some(run) = file.runs.get(&(row.id >> 40)) else { return false };
                    let end = ends.get(&run.name).copied().flatten().filter(|_| row.is_open);
                    (row.goes_on && self.is_later(at, &run.name))
                        || end.is_some_and(|end| end.0 < ask.span.since.0)
                };
                let condition = within(ask.span, &push::condition(file, ask.filter)?);
                let mut counter = Counter::new(file, keys)?;
                counter.add_rows(&condition, &is_left_out)?;
                counter.finish(&mut groups)?;
            }
        } else {
            let mut found: HashMap<u32, Vec<i64>> = HashMap::new();
            self.visit(ask, SortKey::Count, &mut |file, id, _| {
                found.entry(file).or_default().push(id);
                Ok(())
            })?;
            for (at, ids) in found {
                let Some(file) = self.files.get(at as usize) else { continue };
                let mut counter = Counter::new(file, keys)?;
                for id in ids {
                    counter.add_rows(&format!("id = {id}"), &|_| false)?;
                }
                counter.finish(&mut groups)?;
            }
        }
        Ok(groups.sorted(sort, limit))
    }
}

/// A row as it is counted.
struct Counted {
    id: i64,
    is_open: bool,
    goes_on: bool,
    sum: Sum,
}

impl Counted {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get::<_, Option<i64>>(at).map(|number| number.map(i64::cast_unsigned));
        let (began, ended) = (number(1)?.unwrap_or(0), number(2)?);
        let sum = Sum {
            count: number(5)?.unwrap_or(1),
            bytes_in: number(3)?.unwrap_or(0),
            bytes_out: number(4)?.unwrap_or(0),
            first: WallNs(began),
            last: WallNs(ended.unwrap_or(began)),
        };
        Ok(Self { id: row.get(0)?, is_open: ended.is_none(), goes_on: number(6)?.is_some(), sum })
    }
}

/// What `opened` says.
struct Opened {
    first: i64,
    is_in: bool,
    is_out: bool,
    dir: i64,
    proto: i64,
    netns: i64,
}

/// Counts the rows of a file.
struct Counter<'f> {
    file: &'f File,
    keys: &'f [GroupKey],
    sql: String,
    texts: Vec<Arc<str>>,
    known: HashMap<Arc<str>, i64>,
    opened: HashMap<i64, Opened>,
    closed: HashMap<i64, (i64, i64)>,
    /// By key, then by row of `process`.
    processes: Vec<HashMap<i64, i64>>,
    runs: HashMap<i64, (i64, i64)>,
    groups: HashMap<Raw, Sum>,
}

impl<'f> Counter<'f> {
    fn new(file: &'f File, keys: &'f [GroupKey]) -> Result<Self, QueryError> {
        let mut counter = Self {
            file,
            keys,
            sql: String::new(),
            texts: Vec::new(),
            known: HashMap::new(),
            opened: HashMap::new(),
            closed: HashMap::new(),
            processes: Vec::new(),
            runs: HashMap::new(),
            groups: HashMap::new(),
        };
        counter.load().map_err(|error| HistoryError::sqlite(&file.path, error))?;
        Ok(counter)
    }

    /// Reads the small tables that the keys need.
    fn load(&mut self) -> rusqlite::Result<()> {
        let (file, keys) = (self.file, self.keys);
        let mut columns: Vec<&str> = vec![COLUMNS];
        columns.extend(keys.iter().map(|key| column_of(*key)));
        self.sql = format!("SELECT {} FROM conn WHERE ", columns.join(", "));
        for (id, run) in &file.runs {
            let (name, host) = (self.text(&run.name), self.text(&run.identity.host));
            self.runs.insert(*id, (name, host));
        }
        let mut opened = file.db.prepare("SELECT id, first, dir, proto, netns FROM opened")?;
        let mut rows = opened.query([])?;
        while let Some(row) = rows.next()? {
            let dir = row.get_ref(2)?.as_str()?;
            let (is_in, is_out) = (dir == "in", dir == "out");
            let (first, dir) = (self.text(row.get_ref(1)?.as_str()?), self.text(dir));
            let proto = self.text(row.get_ref(3)?.as_str()?);
            self.opened.insert(row.get(0)?, Opened { first, is_in, is_out, dir, proto, netns: row.get(4)? });
        }
        let mut closed = file.db.prepare("SELECT id, how FROM closed")?;
        let mut rows = closed.query([])?;
        while let Some(row) = rows.next()? {
            let how = row.get_ref(1)?.as_str()?;
            let of =
                if how == "failed" { (NULL, self.text(how)) } else { (self.text(how), self.text("close")) };
            self.closed.insert(row.get(0)?, of);
        }
        for key in keys {
            let mut all = HashMap::new();
            if let Some(column) = process_column(*key) {
                let mut ask = file.db.prepare(&format!("SELECT id, {column} FROM process"))?;
                let mut rows = ask.query([])?;
                while let Some(row) = rows.next()? {
                    let value = match row.get_ref(1)? {
                        rusqlite::types::ValueRef::Integer(number) => number,
                        rusqlite::types::ValueRef::Text(text) => self.text(&String::from_utf8_lossy(text)),
                        _ => NULL,
                    };
                    all.insert(row.get(0)?, value);
                }
            }
            self.processes.push(all);
        }
        Ok(())
    }

    /// The number of a text.
    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let number = i64::try_from(self.texts.len()).unwrap_or(i64::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.known.insert(text, number);
        number
    }

    fn add_rows(
        &mut self,
        condition: &str,
        is_left_out: &dyn Fn(&Counted) -> bool,
    ) -> Result<(), QueryError> {
        let failed = |error| HistoryError::sqlite(&self.file.path, error);
        let file = self.file;
        let mut statement = file.db.prepare(&format!("{}{condition}", self.sql)).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let counted = Counted::of(row).map_err(failed)?;
            if is_left_out(&counted) {
                continue;
            }
            let raw = self.raw(&counted, row).map_err(failed)?;
            let is_full = self.groups.len() >= super::GROUPS_MAX;
            match self.groups.get_mut(&raw) {
                Some(sum) => sum.add(&counted.sum),
                None if is_full => return Err(super::TooMany.into()),
                None => drop(self.groups.insert(raw, counted.sum)),
            }
        }
        Ok(())
    }

    /// The values of a row, as numbers.
    fn raw(&self, counted: &Counted, row: &Row<'_>) -> rusqlite::Result<Raw> {
        let mut next = FIRST;
        let value = |(at, key): (usize, &GroupKey)| {
            let place = next;
            next += if is_sided(*key) { 3 } else { 1 };
            let own = row.get::<_, Option<i64>>(place)?;
            let opened = |row: i64| self.opened.get(&row);
            Ok(match key {
                GroupKey::Raddr | GroupKey::Laddr => own.unwrap_or(NULL),
                // Port 0 is a port that is not known.
                GroupKey::Rport | GroupKey::Lport => own.filter(|port| *port != 0).unwrap_or(NULL),
                GroupKey::Src | GroupKey::Dst | GroupKey::Sport | GroupKey::Dport => {
                    match own.and_then(opened) {
                        Some(opened) => side(*key, opened, row, place)?,
                        None => NULL,
                    }
                }
                GroupKey::Dir => own.and_then(opened).map_or(NULL, |opened| opened.dir),
                GroupKey::Proto => own.and_then(opened).map_or(NULL, |opened| opened.proto),
                GroupKey::Netns => own.and_then(opened).map_or(NULL, |opened| opened.netns),
                GroupKey::End => own.and_then(|row| self.closed.get(&row)).map_or(NULL, |of| of.0),
                GroupKey::Kind => match own {
                    Some(closed) if closed >= 0 => self.closed.get(&closed).map_or(NULL, |of| of.1),
                    // Open: the negative row of `opened`.
                    own => own.and_then(|row| opened(-row)).map_or(NULL, |opened| opened.first),
                },
                GroupKey::Host => self.runs.get(&(counted.id >> 40)).map_or(NULL, |run| run.1),
                GroupKey::Run => self.runs.get(&(counted.id >> 40)).map_or(NULL, |run| run.0),
                GroupKey::Comm
                | GroupKey::Exe
                | GroupKey::Sha256
                | GroupKey::Unit
                | GroupKey::Container
                | GroupKey::User
                | GroupKey::Uid
                | GroupKey::Pid => {
                    own.and_then(|row| self.processes.get(at)?.get(&row)).copied().unwrap_or(NULL)
                }
            })
        };
        self.keys.iter().enumerate().map(value).collect()
    }

    /// Adds what was counted to the groups of all files.
    fn finish(self, groups: &mut Groups) -> Result<(), QueryError> {
        let failed = |error| HistoryError::sqlite(&self.file.path, error);
        let mut ask = self.file.db.prepare("SELECT text FROM addr WHERE id = ?1").map_err(failed)?;
        for (raw, sum) in &self.groups {
            let mut values = Values::new();
            for (key, number) in self.keys.iter().zip(raw) {
                values.push(match key {
                    _ if *number == NULL => Value::Null,
                    GroupKey::Raddr | GroupKey::Laddr | GroupKey::Src | GroupKey::Dst => {
                        let text: String = ask.query_row([number], |row| row.get(0)).map_err(failed)?;
                        Value::Text(text.into())
                    }
                    key if key.is_number() => Value::Number(*number),
                    _ => {
                        let text = usize::try_from(*number).ok().and_then(|at| self.texts.get(at));
                        text.map_or(Value::Null, |text| Value::Text(Arc::clone(text)))
                    }
                });
            }
            groups.add(values, sum)?;
        }
        Ok(())
    }
}

/// Whether a key asks for an end by its role: then its columns are `opened`, the remote and the local end.
const fn is_sided(key: GroupKey) -> bool {
    matches!(key, GroupKey::Src | GroupKey::Dst | GroupKey::Sport | GroupKey::Dport)
}

/// An end by its role; nobody knows who opened a connection without a direction.
fn side(key: GroupKey, opened: &Opened, row: &Row<'_>, place: usize) -> rusqlite::Result<i64> {
    let is_of_opener = matches!(key, GroupKey::Src | GroupKey::Sport);
    let is_remote = match (opened.is_in, opened.is_out) {
        (true, _) => is_of_opener,
        (_, true) => !is_of_opener,
        _ => return Ok(NULL),
    };
    let value: i64 = row.get(if is_remote { place + 1 } else { place + 2 })?;
    let is_port = matches!(key, GroupKey::Sport | GroupKey::Dport);
    Ok(if is_port && value == 0 { NULL } else { value })
}

/// The column of `conn` that a key needs.
const fn column_of(key: GroupKey) -> &'static str {
    match key {
        GroupKey::Raddr => "raddr",
        GroupKey::Rport => "rport",
        GroupKey::Laddr => "laddr",
        GroupKey::Lport => "lport",
        GroupKey::Src | GroupKey::Dst => "opened, raddr, laddr",
        GroupKey::Sport | GroupKey::Dport => "opened, rport, lport",
        GroupKey::Dir | GroupKey::Proto | GroupKey::Netns => "opened",
        GroupKey::End => "closed",
        GroupKey::Kind => "ifnull(closed, -opened)",
        GroupKey::Host | GroupKey::Run => "NULL",
        GroupKey::Comm
        | GroupKey::Exe
        | GroupKey::Sha256
        | GroupKey::Unit
        | GroupKey::Container
        | GroupKey::User
        | GroupKey::Uid
        | GroupKey::Pid => "process",
    }
}

const fn process_column(key: GroupKey) -> Option<&'static str> {
    Some(match key {
        GroupKey::Comm => "comm",
        GroupKey::Exe => "exe",
        GroupKey::Sha256 => "sha256",
        GroupKey::Unit => "unit",
        GroupKey::Container => "container",
        GroupKey::User => "user",
        GroupKey::Uid => "uid",
        GroupKey::Pid => "pid",
        _ => return None,
    })
}
