//! Lines of a page that are wider than the terminal, folded between two words.

use unicode_width::UnicodeWidthChar as _;

/// Columns by which a line that goes on below is set in, where it has no columns of its own.
const INDENT: usize = 4;
/// So many columns a line may begin with: a label, or a mark and a word.
const LABELS: usize = 2;

/// Appends lines, each folded where it is wider than the terminal. `None`: no terminal, nothing is folded.
///
/// What follows a label in columns (two spaces or more behind it) goes on below itself, else a line is set
/// in. A word stays whole, however wide it is. Text of others must have been escaped.
pub(crate) fn fold(text: &str, width: Option<usize>, out: &mut Vec<u8>) {
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        match width.filter(|width| columns(line) > *width) {
            Some(width) => fold_line(line, width, out),
            None => out.extend_from_slice(line.as_bytes()),
        }
        out.extend_from_slice(end.as_bytes());
    }
}

fn fold_line(line: &str, width: usize, out: &mut Vec<u8>) {
    let (start, indent) = hang(line, width);
    let (labels, text) = line.split_at(start);
    out.extend_from_slice(labels.as_bytes());
    let mut used = columns(labels);
    let mut is_first = true;
    // Two spaces between two details stay, where they do not end a line.
    let mut gap = 0;
    for word in text.split(' ') {
        if word.is_empty() {
            gap += 1;
            continue;
        }
        let needed = columns(word);
        if !is_first && used + gap + needed > width {
            out.push(b'\n');
            out.resize(out.len() + indent, b' ');
            used = indent;
        } else {
            out.resize(out.len() + gap, b' ');
            used += gap;
        }
        out.extend_from_slice(word.as_bytes());
        used += needed;
        (gap, is_first) = (1, false);
    }
}

/// Where the text of a line begins behind its labels, in bytes, and by how many columns what goes on below is
/// set in.
fn hang(line: &str, width: usize) -> (usize, usize) {
    let leading = line.len() - line.trim_start_matches(' ').len();
    let mut start = leading;
    if let Some(text) = line[leading..].strip_prefix("- ") {
        start = line.len() - text.len();
    }
    let mut rest = &line[start..];
    let mut labels = 0;
    while let Some(at) = rest.find("  ") {
        let text = rest[at..].trim_start_matches(' ');
        labels += 1;
        start = line.len() - text.len();
        rest = text;
    }
    let indent = columns(&line[..start]);
    if start > leading && labels <= LABELS && indent <= width * 2 / 3 {
        (start, indent)
    } else {
        (leading, (leading + INDENT).min(width / 2))
    }
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str, width: usize) -> String {
        let mut out = Vec::new();
        fold(text, Some(width), &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let text = "a  b\n\n  c   d\n0123456789";
        assert_eq!(folded(text, 10), text);
        let mut out = Vec::new();
        fold(&"word ".repeat(100), None, &mut out);
        assert_eq!(out.len(), 500, "no terminal");
    }

    #[test]
    fn a_column_goes_on_below_itself() {
        assert_eq!(
            folded("Kernel    one two three four\nx\n", 20),
            "Kernel    one two\n          three four\nx\n"
        );
        assert_eq!(
            folded("  no  dport:22  dport is 443, in web", 30),
            "  no  dport:22  dport is 443,\n                in web"
        );
        assert_eq!(folded("  - one two three four", 14), "  - one two\n    three four");
    }

    #[test]
    fn a_line_without_columns_is_set_in() {
        assert_eq!(folded("one two three four", 10), "one two\n    three\n    four");
        let details = "  a=1  b=22222  c=3  d=4";
        assert_eq!(folded(details, 16), "  a=1  b=22222\n      c=3  d=4");
    }

    #[test]
    fn a_word_stays_whole() {
        assert_eq!(folded("one 0123456789012 two", 8), "one\n    0123456789012\n    two");
        assert_eq!(folded("漢字漢字 漢字", 9), "漢字漢字\n    漢字");
    }
}
