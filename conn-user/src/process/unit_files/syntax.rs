//! The text of a unit file: systemd.syntax(7), and `config_parse` in src/shared/conf-parser.c where that says nothing.

/// What systemd takes for blank (`WHITESPACE` in src/basic/string-util.h).
const BLANK: [char; 4] = [' ', '\t', '\n', '\r'];

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its section without brackets; empty: it stands before the first one, where systemd ignores it.
    pub section: String,
    /// What is before the `=`.
    pub key: String,
    /// What is behind it, with continued lines joined by a blank.
    pub value: String,
    /// Number of the line where it begins, from 1.
    pub line: usize,
}

/// The assignments of a text in their order. Whatever is none, systemd warns of and ignores.
pub fn settings(text: &str) -> Vec<Setting> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for (line, text) in logical_lines(text) {
        let text = text.trim_matches(BLANK);
        if let Some(rest) = text.strip_prefix('[') {
            // One that is not closed makes systemd refuse the rest of the file: nothing below it counts.
            rest.strip_suffix(']').unwrap_or_default().clone_into(&mut section);
        } else if let Some((key, value)) = text.split_once('=') {
            found.push(Setting {
                section: section.clone(),
                key: key.trim_end_matches(BLANK).to_owned(),
                value: value.trim_start_matches(BLANK).to_owned(),
                line,
            });
        }
    }
    found
}

/// Lines without comments, with the number of the first; one that ends with a backslash goes on in the next that is no
/// comment.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut open) = (Vec::new(), None);
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start_matches(BLANK);
        if line.starts_with(['#', ';']) {
            continue;
        }
        let (first, mut whole) = open.take().unwrap_or((at + 1, String::new()));
        whole.push_str(line);
        // A backslash before a backslash is an escaped one.
        if whole.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            whole.pop();
            whole.push(' ');
            open = Some((first, whole));
        } else {
            lines.push((first, whole));
        }
    }
    lines.extend(open);
    lines
}

/// Splits a value at blanks. Quotes hold a word together, and a backslash takes the meaning from what follows it
/// (`extract_first_word` with `EXTRACT_UNQUOTE`). `None`: a quote is not closed, or nothing follows a backslash; systemd
/// then ignores the assignment.
pub fn words(value: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().push(chars.next()?),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if BLANK.contains(&c) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Reads a boolean as `parse_boolean` (src/basic/parse-util.c) does.
pub fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<(String, String, String, usize)> {
        let tuple = |setting: Setting| (setting.section, setting.key, setting.value, setting.line);
        settings(text).into_iter().map(tuple).collect()
    }

    fn one(section: &str, key: &str, value: &str, line: usize) -> (String, String, String, usize) {
        (section.to_owned(), key.to_owned(), value.to_owned(), line)
    }

    #[test]
    fn sections_comments_and_continued_lines() {
        let text = "\u{feff}Before=1\n[Service]\r\n# A=1\n ; B=2\nC = 3 \nD=4 \\\n# between\n  5 \\\n;also\n6\n\nE=\n\
                    nonsense\n[X-Own]\nF=a=b\nG=\\\\\nH=7\\";
        assert_eq!(
            of(text),
            [
                one("", "Before", "1", 1),
                one("Service", "C", "3", 5),
                one("Service", "D", "4  5  6", 6),
                one("Service", "E", "", 12),
                one("X-Own", "F", "a=b", 15),
                one("X-Own", "G", "\\\\", 16),
                one("X-Own", "H", "7", 17),
            ]
        );
    }

    #[test]
    fn nothing_counts_below_a_section_that_is_not_closed() {
        assert_eq!(of("[Service]\n[Oops\nA=1"), [one("", "A", "1", 3)]);
    }

    #[test]
    fn words_and_quotes() {
        let all = |text: &str| words(text);
        let some = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(all(" a  b\t c "), some(&["a", "b", "c"]));
        assert_eq!(all("'a b' \"c 'd\" e\\ f ''"), some(&["a b", "c 'd", "e f", ""]));
        assert_eq!(all(""), some(&[]));
        assert_eq!(all("a 'b"), None);
        assert_eq!(all("a\\"), None);
    }

    #[test]
    fn booleans() {
        assert_eq!(["1", "Yes", "TRUE", "on"].map(boolean), [Some(true); 4]);
        assert_eq!(["0", "no", "f", "Off"].map(boolean), [Some(false); 4]);
        assert_eq!(["", "2", "maybe"].map(boolean), [None; 3]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "(?s)([\\[\\]=\\\\#;A-C \n\r\"'\u{feff}]|.){0,200}") {
            for setting in settings(&text) {
                prop_assert!(setting.line >= 1 && setting.line <= text.lines().count());
                prop_assert!(!setting.key.contains('='));
                let _ = words(&setting.value);
            }
        }

        #[test]
        fn what_is_written_is_read(lines in prop::collection::vec(("[A-Za-z]{1,8}", "[a-z0-9:/.=]{0,12}"), 0..20)) {
            let text: Vec<String> = lines.iter().map(|(key, value)| format!("\t{key} =  {value}  \n#")).collect();
            let found = of(&format!("[Service]\n{}", text.join("\n")));
            let expected: Vec<_> =
                lines.iter().enumerate().map(|(at, (key, value))| one("Service", key, value, 2 * at + 2)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
