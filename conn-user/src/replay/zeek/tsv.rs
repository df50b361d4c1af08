//! Lines of values between separators, below a head that names the columns: what Zeek writes by default.

use std::borrow::Cow;

use memchr::memmem;

use super::error::ZeekError;
use super::fields::{Field, Fields};
use super::record::{Reported, is_of_open};

/// What the head above a line says.
#[derive(Debug)]
pub(in crate::replay) struct Head {
    separator: Vec<u8>,
    unset: Vec<u8>,
    empty: Vec<u8>,
    /// Of each column of the log what it is, if that is looked at. `None`: none was named yet.
    columns: Option<Vec<Option<Field>>>,
    is_open: bool,
    /// It is another log, of this name.
    other: Option<String>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            separator: b"\t".to_vec(),
            unset: b"-".to_vec(),
            empty: b"(empty)".to_vec(),
            columns: None,
            is_open: false,
            other: None,
        }
    }
}

impl Head {
    /// Reads a line. `None`: it was one of the head, which may come again in the middle, where logs were joined.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<Option<Reported>, ZeekError> {
        if let Some(line) = line.strip_prefix(b"#") {
            return self.learn(line).map(|()| None);
        }
        if let Some(other) = &self.other {
            return Ok(Some(Reported::Elsewhere(other.clone())));
        }
        let fields = self.fields(line)?;
        Reported::of(&fields, self.is_open).map(Some)
    }

    fn learn(&mut self, line: &[u8]) -> Result<(), ZeekError> {
        // The separator itself is named behind a blank, whatever it is.
        if let Some(separator) = line.strip_prefix(b"separator ") {
            let separator = unescaped(separator).into_owned();
            if separator.is_empty() {
                return Err(ZeekError::Header("#separator"));
            }
            // A new head: nothing of the one before holds.
            *self = Self { separator, ..Self::default() };
            return Ok(());
        }
        let mut parts = split(line, &self.separator);
        let key = parts.next().unwrap_or_default();
        match key {
            b"unset_field" => {
                self.unset = parts.next().ok_or(ZeekError::Header("#unset_field"))?.to_vec();
            }
            b"empty_field" => {
                self.empty = parts.next().ok_or(ZeekError::Header("#empty_field"))?.to_vec();
            }
            b"path" => {
                let path = parts.next().ok_or(ZeekError::Header("#path"))?;
                (self.is_open, self.other) = match is_of_open(&String::from_utf8_lossy(path)) {
                    Err(ZeekError::Path(other)) => (false, Some(other)),
                    is_open => (is_open?, None),
                };
            }
            b"fields" => {
                let columns: Vec<Option<Field>> = parts.map(Field::of).collect();
                if self.other.is_none()
                    && let Some(missing) =
                        Field::NEEDED.iter().find(|needed| !columns.contains(&Some(**needed)))
                {
                    return Err(ZeekError::Missing(missing.name()));
                }
                self.columns = Some(columns);
            }
            // Sets, types, and when it was opened and closed: nothing that is looked at hangs on them.
            _ => {}
        }
        Ok(())
    }

    fn fields<'l>(&self, line: &'l [u8]) -> Result<Fields<'l>, ZeekError> {
        let columns = self.columns.as_deref().ok_or(ZeekError::NoFields)?;
        let (mut fields, mut count) = (Fields::default(), 0);
        for value in split(line, &self.separator) {
            if let Some(Some(field)) = columns.get(count) {
                fields.set(*field, self.value(value));
            }
            count += 1;
        }
        if count != columns.len() {
            return Err(ZeekError::Columns { expected: columns.len(), is: count });
        }
        Ok(fields)
    }

    /// A value as text; what is escaped is never taken for unset or empty.
    fn value<'l>(&self, value: &'l [u8]) -> Option<Cow<'l, str>> {
        if value == self.unset {
            return None;
        }
        if value == self.empty {
            return Some(Cow::Borrowed(""));
        }
        Some(match unescaped(value) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }
}

/// The parts between separators; the separator is not empty.
fn split<'l>(line: &'l [u8], separator: &[u8]) -> impl Iterator<Item = &'l [u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let found = match separator {
            [byte] => memchr::memchr(*byte, line),
            separator => memmem::find(line, separator),
        };
        let Some(at) = found else { return rest.take() };
        rest = Some(&line[at + separator.len()..]);
        Some(&line[..at])
    })
}

/// What was written as `\xNN`, or `\\`.
fn unescaped(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', value).is_none() {
        return Cow::Borrowed(value);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (mut out, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let (escaped, length) = match (byte, after) {
            (b'\\', [b'x', high, low, ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (byte, 0),
            },
            (b'\\', [b'\\', ..]) => (b'\\', 1),
            _ => (byte, 0),
        };
        out.push(escaped);
        rest = &rest[length..];
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Zeek's ASCII writer does it.
    fn escaped(value: &str, separator: &[u8]) -> Vec<u8> {
        if matches!(value, "-" | "(empty)") {
            return format!("\\x{:02x}{}", value.as_bytes()[0], &value[1..]).into_bytes();
        }
        if value.is_empty() {
            return b"(empty)".to_vec();
        }
        let mut out = Vec::new();
        for (at, byte) in value.bytes().enumerate() {
            let is_plain = (0x20..0x7f).contains(&byte)
                && !separator.contains(&byte)
                && !matches!(byte, b'\\' | b',')
                && (at > 0 || byte != b'#');
            match byte {
                byte if is_plain => out.push(byte),
                byte => out.extend(format!("\\x{byte:02x}").bytes()),
            }
        }
        out
    }

    fn order() -> impl Strategy<Value = Vec<usize>> {
        Just((0..Field::ALL.len() + 2).collect::<Vec<_>>()).prop_shuffle()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            rows in proptest::collection::vec(proptest::collection::vec(proptest::option::of("[ -~\\t\\n\u{e9}]{0,12}"), 14), 1..5),
            order in order(),
            separator in prop_oneof![Just(&b"\t"[..]), Just(&b"|"[..]), Just(&b"::"[..])],
        ) {
            let mut head = Head::default();
            let name = |column: &usize| Field::ALL.get(*column).map_or("other", |field| field.name()).as_bytes().to_vec();
            let named: Vec<String> = separator.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let named = named.concat();
            head.read(format!("#separator {named}").as_bytes()).expect("a head");
            head.read(&[b"#path".as_slice(), b"conn"].join(separator)).expect("a head");
            let names: Vec<Vec<u8>> = order.iter().map(name).collect();
            head.read(&[vec![b"#fields".to_vec()], names].concat().join(separator)).expect("a head");
            for row in rows {
                let value = |column: &usize| match row.get(*column) {
                    Some(Some(value)) => escaped(value, separator),
                    Some(None) => b"-".to_vec(),
                    None => b"T".to_vec(),
                };
                let line = order.iter().map(value).collect::<Vec<_>>().join(separator);
                let fields = head.fields(&line).expect("a line");
                for (field, written) in Field::ALL.into_iter().zip(&row) {
                    prop_assert_eq!(fields.get(field), written.as_deref());
                }
            }
        }

        #[test]
        fn any_bytes_are_a_line_or_an_error(lines in proptest::collection::vec("(#[a-z]{0,9}[ \t]?)?.{0,60}", 0..8), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut head = Head::default();
            for line in lines {
                let _ = head.read(line.as_bytes());
            }
            let _ = head.read(&bytes);
            let _ = head.read(b"#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tconn_state");
            let _ = head.read(&bytes);
        }
    }

    /// As `cat` makes it of all logs of an hour.
    #[test]
    fn lines_of_other_logs_are_named_and_not_read() {
        let mut head = Head::default();
        let mut read = |line: &str| head.read(line.as_bytes()).expect("a line");
        let dns = ["#separator \\x09", "#path\tdns", "#fields\tts\tquery"];
        let conn = [
            "#separator \\x09",
            "#path\tconn",
            "#fields\tts\tid_orig_h\tid_orig_p\tid::resp_h\tid/resp_p\tproto\tconn_state",
        ];
        assert!(dns.iter().all(|line| read(line).is_none()));
        assert_eq!(read("1\tx"), Some(Reported::Elsewhere("dns".to_owned())));
        assert!(conn.iter().all(|line| read(line).is_none()));
        assert!(matches!(read("1.5\t10.0.0.1\t1\t10.0.0.2\t2\ttcp\tSF"), Some(Reported::Tcp(_))));
        assert!(dns.iter().all(|line| read(line).is_none()));
        assert_eq!(read("1\tx\ty\tz"), Some(Reported::Elsewhere("dns".to_owned())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut head = Head::default();
        let mut error = |line: &str| head.read(line.as_bytes()).expect_err("wrong").to_string();
        assert!(error("1\t2").starts_with("a line before `#fields`"));
        assert!(error("#fields\tts\tuid").starts_with("no `id.orig_h`"));
        assert!(error("#separator ").contains("`#separator`"));
        let fields = "#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tconn_state";
        assert!(head.read(fields.as_bytes()).expect("a head").is_none());
        let error = head.read(b"1\t2").expect_err("wrong").to_string();
        assert!(error.starts_with("2 values in 7 columns"), "{error}");
    }
}
