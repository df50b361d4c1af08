//! What a line has room for.

use crate::event::words::Words;

/// Columns by which a line that goes on below is set in.
const INDENT: usize = 4;
/// The same of the details below an alert, whose labels stand out.
const DETAIL_INDENT: usize = 16;

/// How much a line shows, by the width of the terminal. Whatever it leaves out `--json` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Of a second.
    pub(super) decimals: usize,
    /// Of the column with the process.
    pub(super) process_columns: usize,
    /// Columns for the direction, the user and both ends; else the arrow says the direction, and of a
    /// connection the other end stands alone, with the own port where that is the service.
    pub(super) is_wide: bool,
}

impl Layout {
    /// Without a terminal nothing limits the width.
    pub(super) const fn of(width: Option<usize>) -> Self {
        // A comm of 15 bytes and a pid of seven digits fit.
        let wide = Self { decimals: 3, process_columns: 24, is_wide: true };
        let medium = Self { process_columns: 17, is_wide: false, ..wide };
        match width {
            Some(..100) => Self { decimals: 0, ..medium },
            Some(..160) => medium,
            _ => wide,
        }
    }
}

impl Words {
    /// Appends the line with its newline, in this colour. One that is wider than the terminal goes on below,
    /// set in, and is broken between two details: an address or a path stays whole.
    pub(super) fn finish(&mut self, width: Option<usize>, color: Option<&[u8]>, out: &mut Vec<u8>) {
        self.fold_from(0, INDENT, width, color, out);
    }

    /// The same, of a line that is set in below another one.
    pub(super) fn finish_detail(&mut self, width: Option<usize>, out: &mut Vec<u8>) {
        self.fold_from(INDENT, DETAIL_INDENT, width, None, out);
    }

    fn fold_from(
        &self,
        mut indent: usize,
        indent_below: usize,
        width: Option<usize>,
        color: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        let mut from = 0;
        while let Some(width) = width {
            let Some((end, next)) = self.fold(from, width.saturating_sub(indent)) else { break };
            self.piece(from..end, indent, color, out);
            (from, indent) = (next, indent_below);
        }
        self.piece(from..self.bytes.len(), indent, color, out);
    }

    /// Where to break what begins at this byte so that it fits: the end of the line and the begin of the next
    /// one.
    fn fold(&self, from: usize, width: usize) -> Option<(usize, usize)> {
        let start = self.breaks.iter().find(|at| at.next == from).map_or(0, |at| at.next_column);
        // Nothing but spaces may follow.
        if self.columns_shown().saturating_sub(start) <= width {
            return None;
        }
        let later = || self.breaks.iter().filter(|at| at.next > from && at.end > from);
        let fitting = later().take_while(|at| at.end_column - start <= width).last();
        // What is wider than a line by itself is the terminal's to break.
        fitting.or_else(|| later().next()).map(|at| (at.end, at.next))
    }

    fn piece(&self, bytes: std::ops::Range<usize>, indent: usize, color: Option<&[u8]>, out: &mut Vec<u8>) {
        out.resize(out.len() + indent, b' ');
        out.extend_from_slice(color.unwrap_or_default());
        out.extend_from_slice(self.bytes[bytes].trim_ascii_end());
        if color.is_some() {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b'\n');
    }
}
