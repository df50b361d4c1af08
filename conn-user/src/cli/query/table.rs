//! Rows with columns that are known only once they come: as a table, or as objects.

use std::io::{self, Write};

use rusqlite::types::ValueRef;

use crate::event::escape;
use crate::sockets::table::Cell;

/// Rows that decide how wide the columns are. A later one that is wider moves what follows it.
const MEASURED: usize = 1_000;
/// Blanks between two columns.
const BETWEEN: usize = 2;
/// The largest number that every reader of JSON keeps.
const EXACT: u64 = 1 << 53;

/// A table in the making.
#[derive(Default)]
pub(super) struct Table {
    /// The title of each column, and whether it stands on the right.
    columns: Vec<(String, bool)>,
    widths: Vec<usize>,
    /// Until it is known how wide the columns are.
    waiting: Vec<Vec<Cell>>,
    is_begun: bool,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(columns: impl IntoIterator<Item = (String, bool)>) -> Self {
        let columns: Vec<(String, bool)> =
            columns.into_iter().map(|(name, right)| (escape::string(name.as_bytes()), right)).collect();
        let widths = columns.iter().map(|(name, _)| name.chars().count()).collect();
        Self { columns, widths, ..Self::default() }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn row(&mut self, cells: Vec<Cell>, out: &mut impl Write) -> io::Result<()> {
        if self.is_begun {
            return self.line(&cells, out);
        }
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = cell.columns.max(*width);
        }
        self.waiting.push(cells);
        if self.waiting.len() >= MEASURED { self.begin(out) } else { Ok(()) }
    }

    /// Stands a column of numbers on the right, or not any more.
    pub(super) fn set_right(&mut self, at: usize, is_right: bool) {
        if let Some((_, right)) = self.columns.get_mut(at) {
            *right = is_right;
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(mut self, out: &mut impl Write) -> io::Result<()> {
        if self.is_begun { Ok(()) } else { self.begin(out) }
    }

    fn begin(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.is_begun = true;
        let titles: Vec<Cell> = self.columns.iter().map(|(name, _)| cell(name)).collect();
        self.line(&titles, out)?;
        for cells in std::mem::take(&mut self.waiting) {
            self.line(&cells, out)?;
        }
        Ok(())
    }

    fn line(&self, cells: &[Cell], out: &mut impl Write) -> io::Result<()> {
        let mut line = Vec::new();
        for (at, cell) in cells.iter().enumerate() {
            let is_right = self.columns.get(at).is_some_and(|(_, right)| *right);
            let pad = self.widths.get(at).map_or(0, |width| width.saturating_sub(cell.columns));
            let is_last = at + 1 == cells.len();
            if at > 0 {
                line.resize(line.len() + BETWEEN, b' ');
            }
            if is_right {
                line.resize(line.len() + pad, b' ');
            }
            line.extend_from_slice(&cell.bytes);
            if !is_right && !is_last {
                line.resize(line.len() + pad, b' ');
            }
        }
        line.truncate(line.trim_ascii_end().len());
        line.push(b'\n');
        out.write_all(&line)
    }
}

/// A cell of a text that is harmless.
pub(super) fn cell(text: &str) -> Cell {
    let mut cell = Cell::default();
    cell.text(text);
    cell
}

/// A cell of foreign bytes.
pub(super) fn foreign(bytes: &[u8]) -> Cell {
    let mut cell = Cell::default();
    cell.columns += escape::text(bytes, &mut cell.bytes);
    cell
}

/// A cell of a value of SQLite: NULL is empty, bytes are hexadecimal.
pub(super) fn sql_cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::default(),
        ValueRef::Integer(number) => cell(&number.to_string()),
        ValueRef::Real(number) => cell(&number.to_string()),
        ValueRef::Text(text) => foreign(text),
        ValueRef::Blob(bytes) => {
            let mut cell = Cell::default();
            cell.with(|out| escape::hex_bytes(bytes, out));
            cell
        }
    }
}

/// Appends a value of SQLite as JSON: numbers beyond 2^53 as text, like the instants of events; bytes as hexadecimal text.
pub(super) fn sql_json(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Integer(number) if number.unsigned_abs() > EXACT => {
            out.extend_from_slice(format!("\"{number}\"").as_bytes());
        }
        ValueRef::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        ValueRef::Real(number) if number.is_finite() => {
            out.extend_from_slice(format!("{number:?}").as_bytes());
        }
        ValueRef::Null | ValueRef::Real(_) => out.extend_from_slice(b"null"),
        ValueRef::Text(text) => escape::json_string(text, false, out),
        ValueRef::Blob(bytes) => {
            out.push(b'"');
            escape::hex_bytes(bytes, out);
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new([("name".to_owned(), false), ("count".to_owned(), true)]);
        let mut out = Vec::new();
        for (name, count) in [("a", "1"), ("nginx\u{1b}", "12345678")] {
            table.row(vec![foreign(name.as_bytes()), cell(count)], &mut out).expect("memory");
        }
        table.row(vec![Cell::default(), cell("7")], &mut out).expect("memory");
        table.finish(&mut out).expect("memory");
        let expected =
            "name          count\na                 1\nnginx\\x1b  12345678\n                  7\n";
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    }

    #[test]
    fn a_long_table_does_not_wait_for_its_end() {
        let mut table = Table::new([("n".to_owned(), true)]);
        let mut out = Vec::new();
        for number in 0..MEASURED {
            assert!(out.is_empty());
            table.row(vec![cell(&number.to_string())], &mut out).expect("memory");
        }
        assert!(!out.is_empty());
        table.row(vec![cell("12345")], &mut out).expect("memory");
        table.finish(&mut out).expect("memory");
        assert!(String::from_utf8_lossy(&out).ends_with("999\n12345\n"));
    }

    #[test]
    fn values_of_sqlite_are_harmless() {
        let json = |value| {
            let mut out = Vec::new();
            sql_json(value, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(json(ValueRef::Null), "null");
        assert_eq!(json(ValueRef::Integer(-5)), "-5");
        assert_eq!(json(ValueRef::Integer(1_795_491_687_123_456_789)), "\"1795491687123456789\"");
        assert_eq!(json(ValueRef::Real(1.0)), "1.0");
        assert_eq!(json(ValueRef::Real(f64::INFINITY)), "null");
        assert_eq!(json(ValueRef::Text(b"a\"\x1b\xff")), "\"a\\\"\\u001b\\\\xff\"");
        assert_eq!(json(ValueRef::Blob(b"\x00\xff")), "\"00ff\"");
        assert_eq!(sql_cell(ValueRef::Text(b"a\nb")).bytes, b"a\\x0ab");
    }
}
