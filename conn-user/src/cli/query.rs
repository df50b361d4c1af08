//! `conn query`: the history of an agent, or recordings, asked.
//!
//! Everything is read here, by whoever asks, and never by the agent: that one is only asked to commit what waits.

mod output;
mod recording;
mod show;
mod table;

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::ZonedDateTime;
use rusqlite::types::ValueRef;

use self::output::Output;
use self::recording::Recordings;
use self::show::Show;
use self::table::{Table, sql_cell, sql_json};
use super::args::{Environment, Exit, QueryArgs};
use super::{emit, note};
use crate::event::escape;
use crate::event::human;
use crate::event::names::Named as _;
use crate::event::time::Rfc3339;
use crate::filter::Filter;
use crate::history::HistoryError;
use crate::history::read::keys::{Sort, SortKey};
use crate::history::read::pick::Ask;
use crate::history::read::sql::{Database, FILES_MAX, SqlError};
use crate::history::read::{History, Span, Sum, Value, Values};
use crate::service::client::Client;
use crate::service::protocol::{Request, Synced};
use crate::sockets::table::Cell;
use crate::units::WallNs;

/// Where the agent keeps its history unless it is configured otherwise.
const FOLDER: &str = "/var/lib/conn";

/// Runs `conn query`. This needs no privileges but to read the files.
///
/// # Errors
/// When nothing can be read, or the output cannot be written; wrong usage is reported here.
pub fn run(args: &QueryArgs) -> anyhow::Result<Exit> {
    let (filter, span) = match (args.filter(), args.span(&ZonedDateTime::now())) {
        (Ok(filter), Ok(span)) => (filter, span),
        (Err(error), _) => {
            emit(error);
            return Ok(Exit::Usage);
        }
        (_, Err(error)) => {
            emit(error);
            return Ok(Exit::Usage);
        }
    };
    let is_sorted_wrongly = |sort: Sort| {
        !args.by.is_empty() && sort.key == SortKey::Duration
            || (args.alerts || args.listeners) && sort.key != SortKey::Time
    };
    if args.sort.is_some_and(is_sorted_wrongly) {
        emit("--sort: groups have no duration, and listeners and alerts are sorted by time");
        return Ok(Exit::Usage);
    }
    if span.since > span.until {
        emit("--since is later than --until");
        return Ok(Exit::Usage);
    }
    let recordings = if args.from.is_empty() { None } else { Some(Recordings::read(&args.from)?) };
    let folder =
        recordings.as_ref().map_or_else(|| folder(args), |recordings| recordings.folder().to_owned());
    let history = open(&folder, span)?;
    for error in &history.refused {
        note(format_args!("left out: {error}"));
    }
    if history.files().is_empty() && history.refused.is_empty() {
        note(format_args!("there are no files of this time in {}", escape::path(&folder)));
    }
    let environment = Environment::of_process();
    let mut out = Output::open(environment.terminal && !args.json && !args.no_pager);
    let answered = Query { args, filter: &filter, span, history: &history, environment }.answer(&mut out);
    let finished = out.finish();
    match answered.and_then(|exit| finished.map(|()| exit).map_err(Into::into)) {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Done),
        answered => answered,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn open(folder: &std::path::Path, span: Span) -> anyhow::Result<History> {
    match History::open_for(folder, span) {
        Err(HistoryError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => anyhow::bail!(
            "no history in {}: `conn agent` writes one; --history DIR names another directory, --from FILE a recording",
            escape::path(folder)
        ),
        opened => Ok(opened?),
    }
}

/// Where the history is; the agent, if there is one, has committed what it reported so far.
fn folder(args: &QueryArgs) -> PathBuf {
    let synced = crate::service::default_socket().and_then(|socket| {
        let asked = Client::connect(&socket).and_then(|mut client| client.ask::<Synced>(&Request::Sync));
        match asked {
            Ok(synced) => synced.history,
            Err(error) if error.is_nobody() => None,
            Err(error) => {
                note(format_args!("what the agent has not written yet is missing: {error}"));
                None
            }
        }
    });
    args.history.clone().or_else(|| synced.map(PathBuf::from)).unwrap_or_else(|| FOLDER.into())
}

/// A query and what it is about.
struct Query<'q> {
    args: &'q QueryArgs,
    filter: &'q Filter,
    span: Span,
    history: &'q History,
    environment: Environment,
}

impl Query<'_> {
    fn answer(&self, out: &mut Output) -> anyhow::Result<Exit> {
        let args = self.args;
        if let Some(sql) = &args.sql {
            return self.sql(sql, out);
        }
        if !args.by.is_empty() {
            self.groups(out)?;
        } else if args.alerts || args.listeners {
            self.lines(out)?;
        } else {
            self.connections(out)?;
        }
        Ok(Exit::Done)
    }

    fn show(&self) -> Show {
        Show::new(self.args.json, self.environment.color(self.args.color), self.environment.terminal)
    }

    fn limit(&self) -> Option<u64> {
        self.args.limit.map(std::num::NonZero::get)
    }

    fn connections(&self, out: &mut Output) -> anyhow::Result<()> {
        let ask = Ask { span: self.span, filter: self.filter };
        let picked = self.history.pick(ask, self.args.sort.unwrap_or(Sort::TIME), self.limit())?;
        let mut show = self.show();
        let mut written = Ok(());
        picked.read(&mut |shown| {
            written = show.connection(shown, out);
            if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(written?)
    }

    fn lines(&self, out: &mut Output) -> anyhow::Result<()> {
        let mut show = self.show();
        let mut written = Ok(());
        let mut left = self.limit().unwrap_or(u64::MAX);
        let is_reversed = self.args.sort.is_some_and(|sort| sort.reverse);
        let mut all = Vec::new();
        let mut each = |line: crate::history::read::lines::StoredLine| {
            if is_reversed {
                all.push(line);
                return ControlFlow::Continue(());
            }
            written = show.line(&line, out);
            left -= 1;
            if written.is_err() || left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if self.args.alerts {
            self.history.alerts(self.span, self.filter, &mut each)?;
        } else {
            self.history.listeners(self.span, self.filter, &mut each)?;
        }
        written?;
        for line in all.iter().rev().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            show.line(line, out)?;
        }
        Ok(())
    }

    fn groups(&self, out: &mut Output) -> anyhow::Result<()> {
        let ask = Ask { span: self.span, filter: self.filter };
        let keys = &self.args.by;
        let groups = self.history.count(ask, keys, self.args.sort.unwrap_or(Sort::MOST), self.limit())?;
        if self.args.json {
            let mut time = Rfc3339::default();
            for group in &groups {
                let mut line = Vec::new();
                self.group_json(group, &mut time, &mut line);
                out.write_all(&line)?;
            }
            return Ok(());
        }
        let titles = keys.iter().map(|key| (key.name().to_owned(), key.is_number()));
        let sums =
            [("count", true), ("bytes_in", true), ("bytes_out", true), ("first", false), ("last", false)];
        let mut table = Table::new(titles.chain(sums.map(|(name, right)| (name.to_owned(), right))));
        let zone = ZonedDateTime::now().time_zone().clone();
        let at = |wall: WallNs| {
            let at = jiff::Timestamp::from_nanosecond(wall.0.into()).unwrap_or_default();
            table::cell(&at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        };
        for (values, sum) in &groups {
            let mut cells: Vec<Cell> = values.iter().map(value_cell).collect();
            cells.push(table::cell(&sum.count.to_string()));
            cells.extend([sum.bytes_in, sum.bytes_out].map(|bytes| {
                let mut cell = Cell::default();
                cell.with(|out| human::write_bytes(bytes, out));
                cell
            }));
            cells.extend([at(sum.first), at(sum.last)]);
            table.row(cells, out)?;
        }
        if groups.is_empty() { Ok(()) } else { Ok(table.finish(out)?) }
    }

    fn group_json(&self, (values, sum): &(Values, Sum), time: &mut Rfc3339, line: &mut Vec<u8>) {
        line.push(b'{');
        for (key, value) in self.args.by.iter().zip(values) {
            line.extend_from_slice(format!("\"{}\":", key.name()).as_bytes());
            match value {
                Value::Null => line.extend_from_slice(b"null"),
                Value::Number(number) => line.extend_from_slice(number.to_string().as_bytes()),
                Value::Text(text) => escape::json_string(text.as_bytes(), false, line),
            }
            line.push(b',');
        }
        let sums =
            format!("\"count\":{},\"bytes_in\":{},\"bytes_out\":{}", sum.count, sum.bytes_in, sum.bytes_out);
        line.extend_from_slice(sums.as_bytes());
        for (key, at) in [("first", sum.first), ("last", sum.last)] {
            line.extend_from_slice(format!(",\"{key}\":\"").as_bytes());
            time.write(at, line);
            line.push(b'"');
        }
        line.extend_from_slice(b"}\n");
    }

    fn sql(&self, sql: &str, out: &mut Output) -> anyhow::Result<Exit> {
        let database = Database::attach(self.history).context("opening the files for --sql")?;
        if database.left_out > 0 {
            note(format_args!(
                "one statement reads {FILES_MAX} files: {} older ones are left out; choose the days by --since and --until",
                database.left_out
            ));
        }
        let mut table: Option<Table> = None;
        let mut written = Ok(());
        let result = database.run(sql, &mut |names, values| {
            let Some(values) = values else {
                table = Some(Table::new(names.iter().map(|name| (name.clone(), false))));
                return ControlFlow::Continue(());
            };
            written = match &mut table {
                Some(table) if !self.args.json => {
                    let numbers = values.iter().enumerate().filter(|(_, value)| is_number(**value));
                    numbers.for_each(|(at, _)| table.set_right(at, true));
                    table.row(values.iter().map(|value| sql_cell(*value)).collect(), out)
                }
                _ => out.write_all(&object(names, values)),
            };
            if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        written?;
        match result {
            Ok(()) => {}
            Err(error @ (SqlError::NotReading | SqlError::Several)) => {
                emit(format_args!("--sql: {error}"));
                return Ok(Exit::Usage);
            }
            Err(error) => {
                emit(format_args!("--sql: {}", escape::string(error.to_string().as_bytes())));
                return Ok(Exit::Usage);
            }
        }
        if let (Some(table), false) = (table, self.args.json) {
            table.finish(out)?;
        }
        Ok(Exit::Done)
    }
}

const fn is_number(value: ValueRef<'_>) -> bool {
    matches!(value, ValueRef::Integer(_) | ValueRef::Real(_))
}

/// A row as a line of JSON.
fn object(names: &[String], values: &[ValueRef<'_>]) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, (name, value)) in names.iter().zip(values).enumerate() {
        line.push(if at == 0 { b'{' } else { b',' });
        escape::json_string(name.as_bytes(), false, &mut line);
        line.push(b':');
        sql_json(*value, &mut line);
    }
    line.extend_from_slice(b"}\n");
    line
}

fn value_cell(value: &Value) -> Cell {
    match value {
        Value::Null => table::cell("-"),
        Value::Number(number) => table::cell(&number.to_string()),
        // As JSON has it; a process shows its bytes as text.
        Value::Text(text) => table::foreign(text.as_bytes()),
    }
}
