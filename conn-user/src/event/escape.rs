//! Attacker-controlled bytes made harmless: for JSON without losing one, for people without letting one act.

use std::borrow::Cow;
use std::path::Path;
use std::str;

use unicode_width::UnicodeWidthChar;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A character that acts on a terminal or hides on it: controls, bidirectional overrides, zero-width and
/// formatting characters, fillers, line separators, tags and variation selectors.
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether the bytes are not UTF-8, so that [`json_string`] has to write them with `escape_backslashes`.
pub fn is_binary(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err()
}

/// Appends a JSON string with its quotes.
///
/// Valid UTF-8 keeps its meaning; hidden characters become `\uXXXX`, so that the line is harmless on a terminal too.
/// A byte that is not UTF-8 becomes the four characters `\xNN`; for that to be read back, `escape_backslashes` (set
/// it for a field any of whose values [`is_binary`]) doubles each backslash of the value itself.
pub fn json_string(bytes: &[u8], escape_backslashes: bool, out: &mut Vec<u8>) {
    out.push(b'"');
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(bytes);
    } else {
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|c| json_char(c, escape_backslashes, out));
            for byte in chunk.invalid() {
                out.extend_from_slice(b"\\\\x");
                hex(u32::from(*byte), 2, out);
            }
        }
    }
    out.push(b'"');
}

/// The text of the value that [`json_string`] writes.
pub fn value(bytes: &[u8], escape_backslashes: bool) -> Cow<'_, str> {
    if let (Ok(text), false) = (str::from_utf8(bytes), escape_backslashes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' && escape_backslashes {
                out.push('\\');
            }
            out.push(c);
        }
        for byte in chunk.invalid() {
            out.push_str("\\x");
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(HEX[usize::from(digit)]));
            }
        }
    }
    Cow::Owned(out)
}

/// The bytes that [`json_string`] wrote with `escape_backslashes`, from the value of the string. What it would not have
/// written stays as it is.
pub fn undo(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        let code = if rest.starts_with(b"\\x") { digit(2).zip(digit(3)) } else { None };
        if let Some((high, low)) = code {
            out.push((high << 4 | low) as u8);
            rest = &rest[4..];
        } else {
            out.push(first);
            rest = if first == b'\\' { tail.strip_prefix(b"\\").unwrap_or(tail) } else { tail };
        }
    }
    out
}

fn json_char(c: char, escape_backslashes: bool, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' if escape_backslashes => out.extend_from_slice(b"\\\\\\\\"),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        c if is_hidden(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                hex(u32::from(*unit), 4, out);
            }
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Appends bytes for people: hidden characters as `\x1b` or `\u{202e}`, bytes that are not UTF-8 as `\xff`, a
/// backslash as `\\`. Returns the columns that it takes on a terminal.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\') {
        out.extend_from_slice(bytes);
        return bytes.len();
    }
    let mut columns = 0;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            columns += text_char(c, out);
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\x");
            columns += 2 + hex(u32::from(*byte), 2, out);
        }
    }
    columns
}

/// Returns bytes for people, written as [`text`] does.
pub fn string(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    text(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns a path for people, written as [`text`] does.
pub fn path(path: &Path) -> String {
    string(path.as_os_str().as_encoded_bytes())
}

fn text_char(c: char, out: &mut Vec<u8>) -> usize {
    let code = u32::from(c);
    match c {
        '\\' => {
            out.extend_from_slice(b"\\\\");
            2
        }
        c if is_hidden(c) && code < 0x80 => {
            out.extend_from_slice(b"\\x");
            2 + hex(code, 2, out)
        }
        // A character without width (a combining mark) would change its neighbour.
        c if is_hidden(c) || c.width().unwrap_or(0) == 0 => {
            out.extend_from_slice(b"\\u{");
            let digits = hex(code, (8 - code.leading_zeros() as usize / 4).max(1), out);
            out.push(b'}');
            4 + digits
        }
        c => {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            c.width().unwrap_or(0)
        }
    }
}

/// Appends a word for people: in quotes when it is empty or has characters that would let it pass for something else.
pub fn word(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let plain =
        !bytes.is_empty() && !bytes.iter().any(|byte| matches!(byte, b' ' | b'"' | b'\'' | b'[' | b']'));
    if plain {
        return text(bytes, out);
    }
    out.push(b'"');
    let mut columns = 2;
    for (at, part) in bytes.split(|byte| *byte == b'"').enumerate() {
        if at > 0 {
            out.extend_from_slice(b"\\\"");
            columns += 2;
        }
        columns += text(part, out);
    }
    out.push(b'"');
    columns
}

/// Appends bytes in hexadecimal digits.
pub fn hex_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        hex(u32::from(*byte), 2, out);
    }
}

fn hex(value: u32, digits: usize, out: &mut Vec<u8>) -> usize {
    for place in (0..digits).rev() {
        out.push(HEX[(value >> (4 * place) & 15) as usize]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        json_string(bytes, is_binary(bytes), &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn shown(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        text(bytes, &mut out);
        String::from_utf8(out).expect("text is UTF-8")
    }

    #[test]
    fn json_examples() {
        assert_eq!(json(b"nginx"), r#""nginx""#);
        assert_eq!(json(b"a\"b\\x41\n\x1b[31m\x7f"), r#""a\"b\\x41\n\u001b[31m\u007f""#);
        assert_eq!(json(b"a\xff\\"), r#""a\\xff\\\\""#);
        assert_eq!(json("é\u{202e}\u{e0041}".as_bytes()), "\"é\\u202e\\udb40\\udc41\"");
    }

    #[test]
    fn text_examples() {
        assert_eq!(shown(b"nginx"), "nginx");
        assert_eq!(shown(b"\x1b[31m\\\x00"), "\\x1b[31m\\\\\\x00");
        assert_eq!(shown(b"a\xffb"), "a\\xffb");
        assert_eq!(shown("é\u{9b}\u{202e}\u{200b}".as_bytes()), "é\\u{9b}\\u{202e}\\u{200b}");
        assert_eq!(shown("e\u{301}".as_bytes()), "e\\u{301}");
    }

    #[test]
    fn text_counts_columns() {
        let mut out = Vec::new();
        assert_eq!(text("漢字".as_bytes(), &mut out), 4);
        assert_eq!(text("e\u{301}\x1b".as_bytes(), &mut out), 1 + 7 + 4);
        assert_eq!(word(b"tmux: server", &mut out), 14);
    }

    #[test]
    fn words_that_could_pass_for_others_are_quoted() {
        let mut out = Vec::new();
        for bytes in [b"".as_slice(), b"sshd[1] x", b"a\"b"] {
            word(bytes, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, br#""" "sshd[1] x" "a\"b" "#);
    }

    proptest! {
        #[test]
        fn json_loses_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let value: String = serde_json::from_str(&json(&bytes)).expect("valid JSON");
            let back = if is_binary(&bytes) { undo(&value) } else { value.into_bytes() };
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn json_keeps_unicode(text in any::<String>()) {
            let json = json(text.as_bytes());
            prop_assert!(!json.chars().any(is_hidden));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("valid JSON"), text);
        }

        #[test]
        fn text_never_acts(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!shown(&bytes).chars().any(|c| is_hidden(c) || c.is_control()));
        }

        #[test]
        fn text_shows_different_bytes_differently(
            one in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), any::<u8>()], 0..6),
            other in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), any::<u8>()], 0..6),
        ) {
            prop_assert_eq!(shown(&one) == shown(&other), one == other);
        }
    }
}
