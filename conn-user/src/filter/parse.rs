//! From text to [`Expr`].
//!
//! ```text
//! filter = { blank } [ word { blank word } ] { blank }
//! word   = [ "-" ] key ":" value { "," value }
//! value  = regex | quoted | list | bare
//! regex  = "/" pattern "/"           up to the first "/" that ends the value; "\/" for a slash, no blank, no quote,
//!                                    a comma only inside [] or {}
//! quoted = '"' text '"'              "\"" and "\\" inside
//! list   = "@" name                  the values of a list
//! bare   = anything else without blank and comma
//! ```
//!
//! Other ways to write a word are in [`habits`].

use super::ast::{Expr, Form, Span, Value, Word};
use super::error::{FilterError, quoted, short};
use super::habits;
use super::key::Key;
use super::suggest::nearest;

/// Longest text that is read: bounds what errors and regular expressions can cost.
const LONGEST: usize = 16 << 10;

/// Reads a filter.
///
/// # Errors
/// The first word that is none, has an unknown key, or lacks a value.
pub fn parse(text: &str) -> Result<Expr, FilterError> {
    if text.len() > LONGEST {
        let message = format!("the filter is longer than {} KiB", LONGEST >> 10);
        return Err(FilterError::new("", 0..0, message, "use fewer values"));
    }
    let mut parser = Parser { text, at: 0 };
    let mut words = Vec::new();
    while parser.skip_blanks() {
        // All words must hold anyway.
        if !words.is_empty() && (parser.skip_token("and") || parser.skip_token("&&")) {
            continue;
        }
        let (word, second) = habits::understood(parser.word()?);
        words.push(word);
        words.extend(second);
    }
    Ok(Expr { words })
}

/// Reads a value of a list: as in a filter, but that blanks and commas are text.
///
/// # Errors
/// What is wrong with it, with `span` as its place.
pub(super) fn listed(text: &str, span: Span) -> Result<Value, (String, String)> {
    let value = |form, text: &str| Value { form, text: text.to_owned(), span: span.clone() };
    if text.is_empty() {
        return Err(("a value is empty".to_owned(), "write \"\" in quotes for the empty text".to_owned()));
    }
    if text.starts_with('"') {
        let parser = Parser { text, at: 0 };
        return match parser.quoted() {
            Ok((inside, used)) if used == text.len() => Ok(value(Form::Quoted, &inside)),
            Ok(_) => {
                Err((format!("{} goes on behind its quote", quoted(text)), "end the value there".to_owned()))
            }
            Err(error) => Err((error.message, error.help.unwrap_or_default())),
        };
    }
    if text.starts_with('@') {
        let help = "a list holds values only; a text that begins with @ needs double quotes";
        return Err((format!("{} is a list", quoted(text)), help.to_owned()));
    }
    Ok(match regex_at(text) {
        Some(pattern) if pattern.len() + 2 == text.len() => value(Form::Regex, pattern),
        _ => value(Form::Bare, text),
    })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Goes to the next word; false at the end.
    fn skip_blanks(&mut self) -> bool {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.at < self.text.len()
    }

    fn error(&self, span: Span, message: impl Into<String>, help: impl Into<String>) -> FilterError {
        FilterError::new(self.text, span, message, help)
    }

    /// Goes behind a token and the blanks after it, if something follows.
    fn skip_token(&mut self, token: &str) -> bool {
        let Some(behind) = self.rest().strip_prefix(token) else { return false };
        let following = behind.trim_start();
        let is_token = following.len() < behind.len() && !following.is_empty();
        if is_token {
            self.at = self.text.len() - following.len();
        }
        is_token
    }

    fn negation(&mut self) -> bool {
        if self.skip_token("!") || self.skip_token("not") {
            return true;
        }
        let has_sign = self.rest().starts_with(['-', '!']);
        self.at += usize::from(has_sign);
        has_sign
    }

    fn word(&mut self) -> Result<Word, FilterError> {
        let negated = self.negation();
        let start = self.at;
        let rest = self.rest();
        let end = rest.find(|c: char| c == ':' || c.is_whitespace()).unwrap_or(rest.len());
        let name = &rest[..end];
        let span = start..start + end;
        let key = if rest[end..].starts_with(':') {
            self.at += end + 1;
            match Key::from_name(name) {
                Some(key) => key,
                None if is_host(name) && habits::is_address(self.bare()) => Key::Ip,
                None => return Err(self.unknown_key(name, span)),
            }
        } else {
            let Some((key, value)) = habits::spaced(rest) else { return Err(self.no_key(name, span)) };
            self.at += value;
            key
        };
        let mut values = vec![self.value(key)?];
        while self.rest().starts_with(',') {
            self.at += 1;
            values.push(self.value(key)?);
        }
        Ok(Word { negated, key, values })
    }

    fn no_key(&self, word: &str, span: Span) -> FilterError {
        if word.is_empty() {
            return self.error(
                span,
                "`-` negates a word, and none follows",
                "write it without a blank, e.g. -proc:sshd",
            );
        }
        if let Some((name, value)) = word.split_once('=')
            && let Some(key) = Key::from_name(name)
        {
            let help = format!("key and value are joined by a colon: {}:{}", key.name(), short(value));
            return self.error(span, format!("{} has no `:`", quoted(word)), help);
        }
        let shown = short(word);
        if let Some(key) = Key::from_name(word) {
            let help = format!("write it with a value, e.g. {}", key.about().example);
            return self.error(span, format!("{} is a key and has no value", quoted(word)), help);
        }
        if word == "not" {
            return self.error(span, "`not` negates a word, and none follows", "write e.g. -proc:sshd");
        }
        if is_host(word) {
            return self.error(span, format!("{} has no key", quoted(word)), HOST_HELP);
        }
        if matches!(word, "or" | "||" | "|") {
            let help = "a comma is OR, between values of one key: port:80,443; all words must hold";
            return self.error(span, format!("{} joins no words", quoted(word)), help);
        }
        if matches!(word, "tcp" | "ip" | "ip6" | "udp") {
            let help =
                "every connection is TCP: leave it out, or write proto:tcp, proto:mptcp or family:ipv6";
            return self.error(span, format!("{} has no key", quoted(word)), help);
        }
        let guess = if word.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("write port:{shown} or pid:{shown}")
        } else if word.starts_with('/') {
            format!("write exe:{shown}")
        } else if word.starts_with(|c: char| c.is_ascii_digit()) {
            format!("write ip:{shown}")
        } else {
            format!("write proc:{shown}; a value with blanks needs quotes: 'proc:\"tmux: server\"'")
        };
        self.error(span, format!("{} has no key", quoted(word)), guess)
    }

    fn unknown_key(&self, name: &str, span: Span) -> FilterError {
        let known = || Key::ALL.iter().map(|key| key.name()).collect::<Vec<_>>().join(", ");
        // An IPv6 address without a key looks like one.
        if name.is_empty() || name.chars().all(|c| c.is_ascii_hexdigit()) || name.starts_with('[') {
            let help = format!("an address is written ip:2001:db8::1; the keys are {}", known());
            return self.error(span, format!("{} is not a key", quoted(name)), help);
        }
        if is_host(name) {
            return self.error(span, format!("unknown key {}", quoted(name)), HOST_HELP);
        }
        if name.starts_with('(') {
            let help =
                "there are no parentheses: all words must hold, and a comma is OR between values of one key";
            return self.error(span, format!("unknown key {}", quoted(name)), help);
        }
        let help = match habits::synonym(name).or_else(|| nearest(name, Key::names())) {
            Some(near) => format!("did you mean `{near}`? docs/filter.md has all keys"),
            None => format!("the keys are {}", known()),
        };
        self.error(span, format!("unknown key {}", quoted(name)), help)
    }

    /// A bare value at this place.
    fn bare(&self) -> &'a str {
        self.rest().split(char::is_whitespace).next().unwrap_or_default()
    }

    fn value(&mut self, key: Key) -> Result<Value, FilterError> {
        let start = self.at;
        let rest = self.rest();
        let (form, text, used) = if rest.starts_with('"') {
            let (text, used) = self.quoted()?;
            (Form::Quoted, text, used)
        } else if let Some(pattern) = regex_at(rest) {
            (Form::Regex, pattern.to_owned(), pattern.len() + 2)
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
            match rest[..end].strip_prefix('@') {
                Some(list) => (Form::List, list.to_owned(), end),
                None => (Form::Bare, rest[..end].to_owned(), end),
            }
        };
        if used == 0 {
            let about = key.about();
            let help = format!("`{}` takes {}, e.g. {}", about.name, about.takes.help(), about.example);
            return Err(self.error(
                start..start,
                format!("a value of `{}` is missing here", about.name),
                help,
            ));
        }
        self.at += used;
        Ok(Value { form, text, span: start..self.at })
    }

    /// The text in quotes at this place, and how much of the filter it is.
    fn quoted(&self) -> Result<(String, usize), FilterError> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    let used = at + 1;
                    if ends_value(&rest[used..]) {
                        return Ok((text, used));
                    }
                    let place = self.at + used;
                    return Err(self.error(
                        place..place,
                        "a value in quotes ends with its quote",
                        "put a comma or a blank here, or write \\\" for a quote inside",
                    ));
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                    Some((_, other)) => text.extend(['\\', other]),
                    None => text.push('\\'),
                },
                c => text.push(c),
            }
        }
        Err(self.error(
            self.at..self.text.len(),
            "this quote is never closed",
            "add a \" at the end of the value",
        ))
    }
}

const HOST_HELP: &str = "an address is written ip:10.0.0.1; names are not looked up: `getent ahosts NAME` shows the addresses of one";

fn is_host(name: &str) -> bool {
    matches!(name, "host" | "hostname" | "domain" | "net")
}

/// Whether a value ends before `rest`.
fn ends_value(rest: &str) -> bool {
    rest.chars().next().is_none_or(|c| c == ',' || c.is_whitespace())
}

/// The pattern when `rest` begins with a regular expression. A path is none: its second slash does not end the value.
fn regex_at(rest: &str) -> Option<&str> {
    let inside = rest.strip_prefix('/')?;
    let (mut class, mut counted, mut escaped) = (false, false, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if c.is_whitespace() || c == '"' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '/' => return (at > 0 && ends_value(&inside[at + 1..])).then(|| &inside[..at]),
            '[' => class = true,
            ']' => class = false,
            '{' => counted = true,
            '}' => counted = false,
            ',' if !class && !counted => return None,
            _ => {}
        }
    }
    None
}
