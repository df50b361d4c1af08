//! Values as JSON that is harmless on a terminal.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::event::escape;

/// Appends a value as JSON: on one line, with hidden characters as `\uXXXX`.
pub(crate) fn encode(value: &impl Serialize, out: &mut Vec<u8>) {
    // Writing to memory does not fail, and no key of ours is other than a string.
    let written = value.serialize(&mut Serializer::with_formatter(&mut *out, Harmless));
    debug_assert!(written.is_ok(), "{written:?}");
}

/// Returns a value as a line of JSON, with its newline.
pub(crate) fn encode_line(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    encode(value, &mut out);
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

/// JSON without blanks, and without characters that act on a terminal or hide on it.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write(writer, fragment, escape::is_hidden)
    }

    /// JSON of another writer, which may have line ends between values. Only its strings have other hidden characters,
    /// and none of them is one that JSON treats apart.
    fn write_raw_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write(writer, fragment, |c| escape::is_hidden(c) && !matches!(c, '\n' | '\r' | '\t'))
    }
}

/// Writes a text with hidden characters as `\uXXXX`.
fn write<W: ?Sized + io::Write>(writer: &mut W, text: &str, is_hidden: fn(char) -> bool) -> io::Result<()> {
    let mut rest = text;
    while let Some((at, hidden)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
        writer.write_all(&rest.as_bytes()[..at])?;
        for unit in hidden.encode_utf16(&mut [0; 2]) {
            write!(writer, "\\u{unit:04x}")?;
        }
        rest = &rest[at + hidden.len_utf8()..];
    }
    writer.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    proptest! {
        /// It is the same as what is written by hand.
        #[test]
        fn a_text_is_written_as_in_events(text in any::<String>(), hidden in prop::collection::vec(prop::sample::select(vec!['\u{7f}', '\u{202e}', '\u{e0041}', '\0', '\u{8}', '\t', '"', '\\']), 0..4)) {
            let text = text + &hidden.into_iter().collect::<String>();
            let (mut here, mut there) = (Vec::new(), Vec::new());
            encode(&text, &mut here);
            escape::json_string(text.as_bytes(), false, &mut there);
            let value = |json: &[u8]| serde_json::from_slice::<String>(json).expect("JSON");
            prop_assert_eq!(value(&here), value(&there));
            prop_assert!(!String::from_utf8_lossy(&here).chars().any(escape::is_hidden));
        }

        /// JSON of another writer is the same value afterwards, and harmless.
        #[test]
        fn json_of_others_keeps_its_meaning(text in any::<String>(), hidden in prop::collection::vec(prop::sample::select(vec!['\u{7f}', '\u{202e}', '\u{200b}', '\0', '\t']), 0..4)) {
            let value = [text, hidden.into_iter().collect(), "\u{e0041}\u{9b}\\\"".to_owned()];
            let raw = RawValue::from_string(serde_json::to_string_pretty(&value).expect("JSON")).expect("JSON");
            let written = encode_line(&raw);
            prop_assert!(!written.chars().any(|c| escape::is_hidden(c) && c != '\n'), "{:?}", written);
            prop_assert_eq!(serde_json::from_str::<[String; 3]>(&written).expect("JSON"), value);
        }
    }
}
