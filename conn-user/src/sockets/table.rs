//! A table of words whose columns are as wide as they must be.

use crate::event::fold::fold;
pub(crate) use crate::event::words::Words as Cell;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// What stands above it.
    pub(crate) title: &'static str,
    /// Numbers stand on the right.
    pub(crate) right: bool,
    /// Where the terminal has no room for all, the columns with the highest number are left out first; with 0
    /// never.
    pub(crate) spare: u8,
}

/// Columns by which the last cell is set in where it stands below its row.
const INDENT: usize = 4;

/// A row: a cell for each column, and an SGR sequence for the whole line.
#[derive(Clone, Debug)]
pub(crate) struct Row<const N: usize> {
    pub(crate) cells: [Cell; N],
    pub(crate) color: Option<&'static [u8]>,
}

/// Appends the table, with a line of titles if `titles`; nothing without rows. A column that is empty in
/// every row is left out, and what does not fit into `width`: first columns that can be spared, then the last
/// cell of a row goes below it, and at last the row is broken between two columns.
pub(crate) fn write<const N: usize>(
    columns: &[Column; N],
    rows: &[Row<N>],
    titles: bool,
    width: Option<usize>,
    out: &mut Vec<u8>,
) {
    if rows.is_empty() {
        return;
    }
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = cell.columns.max(*width);
        }
    }
    let mut shown = widths.map(|width| width > 0);
    if titles {
        for (width, column) in widths.iter_mut().zip(columns) {
            *width = column.title.len().max(*width);
        }
    }
    let last = N - 1;
    let is_below = width.is_some_and(|width| spare(columns, &widths, &mut shown, width)) && shown[last];
    shown[last] &= !is_below;
    let shape = Shape { columns, widths, shown, width };
    if titles {
        shape.line(None, out, |at, out| {
            let title = columns[at].title;
            out.extend_from_slice(title.as_bytes());
            title.len()
        });
    }
    for row in rows {
        shape.line(row.color, out, |at, out| {
            out.extend_from_slice(&row.cells[at].bytes);
            row.cells[at].columns
        });
        let below = &row.cells[last];
        if is_below && !below.is_empty() {
            out.extend_from_slice(row.color.unwrap_or_default());
            let text = String::from_utf8_lossy(&below.bytes);
            fold(&format!("{:INDENT$}{text}", ""), width, out);
            out.extend_from_slice(if row.color.is_some() { b"\x1b[0m" } else { b"" });
            out.push(b'\n');
        }
    }
}

/// Leaves out columns that can be spared until the others fit; whether the last one then goes below.
fn spare<const N: usize>(
    columns: &[Column; N],
    widths: &[usize; N],
    shown: &mut [bool; N],
    width: usize,
) -> bool {
    let needed = |shown: &[bool; N], to: usize| {
        (0..to).filter(|at| shown[*at]).map(|at| widths[at] + 2).sum::<usize>()
    };
    if needed(shown, N) <= width + 2 {
        return false;
    }
    while needed(shown, N - 1) > width + 2 {
        let spared = (0..N - 1).filter(|at| shown[*at] && columns[*at].spare > 0);
        let Some(at) = spared.max_by_key(|at| columns[*at].spare) else { break };
        shown[at] = false;
    }
    true
}

/// The columns of a table as they are shown.
struct Shape<'c, const N: usize> {
    columns: &'c [Column; N],
    widths: [usize; N],
    shown: [bool; N],
    width: Option<usize>,
}

impl<const N: usize> Shape<'_, N> {
    fn line(&self, color: Option<&[u8]>, out: &mut Vec<u8>, cell: impl Fn(usize, &mut Vec<u8>) -> usize) {
        out.extend_from_slice(color.unwrap_or_default());
        let (mut missing, mut column) = (0, 0);
        for at in (0..N).filter(|at| self.shown[*at]) {
            let mut text = Vec::new();
            let used = cell(at, &mut text);
            let pad = self.widths[at].saturating_sub(used);
            let is_right = self.columns[at].right;
            let needed = if is_right { used + pad } else { used };
            if column > 0 && used > 0 && self.width.is_some_and(|width| column + needed > width) {
                trim(out);
                out.push(b'\n');
                (missing, column) = (INDENT, INDENT);
            }
            out.extend(std::iter::repeat_n(b' ', if is_right { missing + pad } else { missing }));
            out.extend_from_slice(&text);
            missing = if is_right { 2 } else { pad + 2 };
            column += self.widths[at] + 2;
        }
        trim(out);
        if color.is_some() {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b'\n');
    }
}

/// Takes spaces away from the end.
fn trim(out: &mut Vec<u8>) {
    while out.last() == Some(&b' ') {
        out.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(bytes: &[u8]) -> Cell {
        let mut cell = Cell::default();
        if !bytes.is_empty() {
            cell.word(bytes);
        }
        cell
    }

    #[test]
    fn columns_stay_put_and_empty_ones_go() {
        let columns = [("A", false), ("GONE", false), ("N", true), ("Z", false)]
            .map(|(title, right)| Column { title, right, spare: 0 });
        let row = |cells: [&str; 4]| Row { cells: cells.map(|text| cell(text.as_bytes())), color: None };
        let rows = [row(["x", "", "7", "end"]), row(["漢字", "", "1234", ""]), row(["", "", "", "end"])];
        let mut out = Vec::new();
        write(&columns, &rows, true, None, &mut out);
        let expected = "A        N  Z\nx        7  end\n漢字  1234\n            end\n";
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    }

    #[test]
    fn a_row_that_is_too_wide_is_broken() {
        let columns = [("A", false), ("N", true), ("LONG", false), ("Z", false)]
            .map(|(title, right)| Column { title, right, spare: 0 });
        let row = |cells: [&str; 4]| Row { cells: cells.map(|text| cell(text.as_bytes())), color: None };
        let rows =
            [row(["xxxx", "1234", "yyyyyyy", "end"]), row(["x", "7", "", ""]), row(["x", "7", "y", ""])];
        let mut out = Vec::new();
        write(&columns, &rows, true, Some(16), &mut out);
        let expected = "A        N  LONG\nxxxx  1234\n    yyyyyyy\n    end\nx        7\nx        7  y\n";
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    }

    #[test]
    fn no_rows_no_lines() {
        let mut out = Vec::new();
        write(&[Column { title: "A", right: false, spare: 0 }], &[], true, None, &mut out);
        assert_eq!(out, b"");
    }
}
