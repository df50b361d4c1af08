//! From a value, as it was written, to what it means to its key.

use std::cell::Cell;
use std::net::IpAddr;

use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};

use super::amount;
use super::ast::{self, Form, Value};
use super::error::{FilterError, quoted};
use super::glob::Glob;
use super::habits;
use super::key::{Key, Takes};
use super::names::{Names, is_name};
use super::nets::{self, NetRanges, Nets};
use super::parse;
use super::ranges::Ranges;
use super::suggest::nearest;
use crate::event::errno;
use crate::event::names::{self, Named};
use crate::flow::model::canonical_ip;

/// Memory that one regular expression may take, compiled.
const REGEX_SIZE: usize = 1 << 20;
/// Most regular expressions in a filter: bounds time and memory.
const REGEXES_MAX: u32 = 128;
/// Most values in a filter, those of its lists included.
const VALUES_MAX: u32 = 1 << 16;

/// Texts, one of which must fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Texts {
    /// Ascending.
    exact: Box<[Box<[u8]>]>,
    patterns: Box<[Pattern]>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Glob(Glob),
    Regex(Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Glob(one), Self::Glob(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Texts {
    pub(super) fn matches(&self, bytes: &[u8]) -> bool {
        self.exact.binary_search_by(|own| (**own).cmp(bytes)).is_ok()
            || self.patterns.iter().any(|pattern| match pattern {
                Pattern::Glob(glob) => glob.matches(bytes),
                Pattern::Regex(regex) => regex.is_match(bytes),
            })
    }

    /// The texts that must fit as they are.
    pub(super) fn exact(&self) -> &[Box<[u8]>] {
        &self.exact
    }

    /// What those that need not fit as they are begin with; `None`: of one that is not known, or is shorter than this.
    pub(super) fn prefixes(&self, shortest: usize) -> Option<Box<[Box<[u8]>]>> {
        let prefix = |pattern: &Pattern| match pattern {
            Pattern::Glob(glob) => Some(glob.prefix()).filter(|prefix| prefix.len() >= shortest),
            Pattern::Regex(_) => None,
        };
        self.patterns.iter().map(prefix).collect()
    }
}

/// Reads the values of words.
pub(super) struct Reader<'a> {
    text: &'a str,
    names: &'a Names,
    values: Cell<u32>,
    regexes: Cell<u32>,
}

impl<'a> Reader<'a> {
    /// For a filter with this text.
    pub(super) fn new(text: &'a str, names: &'a Names) -> Self {
        Self { text, names, values: Cell::new(0), regexes: Cell::new(0) }
    }

    fn error(&self, value: &Value, message: impl Into<String>, help: impl Into<String>) -> FilterError {
        FilterError::new(self.text, value.span.clone(), message, help)
    }

    /// Visits the values of a word, and in the place of a list those of the list.
    pub(super) fn each(
        &self,
        word: &ast::Word,
        mut one: impl FnMut(&Value) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        for value in &word.values {
            if value.form != Form::List {
                self.count(&self.values, VALUES_MAX, value, "values")?;
                one(value)?;
                continue;
            }
            let name = value.text.as_str();
            let list = self.names.list(name).ok_or_else(|| self.unknown_list(value))?;
            for text in list {
                self.count(&self.values, VALUES_MAX, value, "values")?;
                parse::listed(text, value.span.clone())
                    .map_err(|(message, help)| self.error(value, message, help))
                    .and_then(|listed| one(&listed))
                    .map_err(|error| FilterError {
                        message: format!("in the list {}: {}", quoted(name), error.message),
                        ..error
                    })?;
            }
        }
        Ok(())
    }

    fn count(&self, count: &Cell<u32>, most: u32, value: &Value, what: &str) -> Result<(), FilterError> {
        count.set(count.get() + 1);
        if count.get() <= most {
            return Ok(());
        }
        let message = format!("the filter has more than {most} {what}");
        Err(self.error(value, message, "use fewer, or ranges, networks and globs that stand for many"))
    }

    fn unknown_list(&self, value: &Value) -> FilterError {
        let lists = || self.names.lists().map(|(name, _)| name);
        let known = lists().collect::<Vec<_>>().join(", ");
        let text = "a text that begins with @ needs double quotes";
        let help = match nearest(&value.text, lists()) {
            Some(near) => format!("did you mean `@{near}`? The lists are {known}"),
            None if known.is_empty() => format!("there are no lists; {text}"),
            None => format!("the lists are {known}; {text}"),
        };
        self.error(value, format!("unknown list {}", quoted(&value.text)), help)
    }

    fn all<T>(
        &self,
        word: &ast::Word,
        one: impl Fn(&Value) -> Result<T, FilterError>,
    ) -> Result<Vec<T>, FilterError> {
        let mut all = Vec::with_capacity(word.values.len());
        self.each(word, |value| {
            all.push(one(value)?);
            Ok(())
        })?;
        Ok(all)
    }

    fn takes(&self, key: Key, value: &Value) -> FilterError {
        let about = key.about();
        let message = format!("{} is not what `{}` takes", quoted(&value.text), about.name);
        let mut help = format!("`{}` takes {}, e.g. {}", about.name, about.takes.help(), about.example);
        match key {
            Key::Uid => help.push_str("; a user by its name is user:NAME"),
            Key::Gid => help.push_str("; `getent group NAME` shows the number of a name"),
            Key::Pid | Key::Ppid => help.push_str("; a process by its name is proc:NAME"),
            _ if about.takes == Takes::Ports => {
                help.push_str("; `getent services NAME` shows the port of a service");
            }
            _ if value.text.contains('*') => help.push_str("; a network has no `*`: 10.0.* is 10.0.0.0/16"),
            _ => {}
        }
        self.error(value, message, help)
    }

    /// Numbers and ports.
    pub(super) fn numbers(&self, word: &ast::Word) -> Result<Ranges<u64>, FilterError> {
        self.all(word, |value| self.range(word.key, value)).map(Ranges::new)
    }

    /// Users by number, which have no name: tables show the number of such a one. `None`: they are names.
    pub(super) fn uids(&self, word: &ast::Word) -> Result<Option<Ranges<u64>>, FilterError> {
        let is_number =
            |value: &&Value| value.form == Form::Bare && value.text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(first) = word.values.iter().find(is_number) else { return Ok(None) };
        if word.values.iter().all(|value| is_number(&value)) {
            return self.numbers(&ast::Word { key: Key::Uid, ..word.clone() }).map(Some);
        }
        let message = format!("{} is the number of a user beside names", quoted(&first.text));
        Err(self.error(first, message, "write numbers with uid: and names with user:, in two filters"))
    }

    /// A number, a range or a comparison as the range of numbers that it stands for.
    fn range(&self, key: Key, value: &Value) -> Result<(u64, u64), FilterError> {
        if value.form == Form::Regex {
            return Err(self.takes(key, value));
        }
        let takes = key.about().takes;
        let highest = match takes {
            Takes::Ports | Takes::Errors => u16::MAX.into(),
            Takes::Numbers => u32::MAX.into(),
            _ => u64::MAX,
        };
        let read = |text: &str| match takes {
            Takes::Bytes => amount::bytes(text),
            Takes::Durations => amount::duration(text).map(|duration| duration.0),
            _ => amount::digits(text),
        };
        let text = value.text.as_str();
        let compared = |text| read(text).ok_or_else(|| self.takes(key, value));
        let (low, high) = if let Some(text) = text.strip_prefix(">=") {
            (Some(compared(text)?), Some(highest))
        } else if let Some(text) = text.strip_prefix("<=") {
            (Some(0), Some(compared(text)?))
        } else if let Some(text) = text.strip_prefix('>') {
            (compared(text)?.checked_add(1), Some(highest))
        } else if let Some(text) = text.strip_prefix('<') {
            (Some(0), compared(text)?.checked_sub(1))
        } else if let Some((low, high)) = text.split_once('-') {
            let (low_number, high_number) = (compared(low)?, compared(high)?);
            if low_number > high_number {
                let message = format!("the range {} ends before it begins", quoted(text));
                return Err(self.error(value, message, format!("write {}:{high}-{low}", key.name())));
            }
            (Some(low_number), Some(high_number))
        } else if takes == Takes::Durations {
            // To the nanosecond, nothing is.
            return Err(self.takes(key, value));
        } else {
            let number = compared(text)?;
            (Some(number), Some(number))
        };
        let (Some(low), Some(high)) = (low, high) else {
            let message = format!("nothing is {}", quoted(text));
            return Err(self.error(
                value,
                message,
                "write a smaller number behind > or a larger one behind <",
            ));
        };
        if low > highest || high > highest {
            let message = format!("{} is too large", quoted(text));
            return Err(self.error(value, message, format!("`{}` goes up to {highest}", key.name())));
        }
        Ok((low, high))
    }

    /// Texts, globs and regular expressions.
    pub(super) fn texts(&self, word: &ast::Word) -> Result<Texts, FilterError> {
        let (mut exact, mut patterns) = (Vec::<Box<[u8]>>::new(), Vec::new());
        self.each(word, |value| {
            match value.form {
                Form::Regex => patterns.push(Pattern::Regex(self.regex(value)?)),
                Form::Bare if Glob::is_glob(&value.text) => {
                    patterns.push(Pattern::Glob(Glob::new(&value.text)));
                }
                Form::Bare | Form::Quoted | Form::List => exact.push(value.text.as_bytes().into()),
            }
            Ok(())
        })?;
        exact.sort_unstable();
        exact.dedup();
        Ok(Texts { exact: exact.into(), patterns: patterns.into() })
    }

    fn regex(&self, value: &Value) -> Result<Regex, FilterError> {
        self.count(&self.regexes, REGEXES_MAX, value, "regular expressions")?;
        // What `\b` is between double quotes in TOML. No name or path has one.
        if value.text.contains('\u{8}') {
            let message = "this regular expression has a backspace character (0x08)";
            let help =
                r"in a TOML string in double quotes `\b` is that: use single quotes, as in 'proc:/\bsh\b/'";
            return Err(self.error(value, message, help));
        }
        match RegexBuilder::new(&value.text).size_limit(REGEX_SIZE).build() {
            Ok(regex) => Ok(regex),
            Err(regex::Error::CompiledTooBig(_)) => {
                let help = "make it smaller: repetitions such as {1,1000} multiply";
                Err(self.error(value, "this regular expression is too large", help))
            }
            Err(error) => {
                // The last line says what; those before show the place, which our own caret does.
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let help = "to look for this text itself, put it in double quotes instead of slashes";
                Err(self.error(value, format!("not a regular expression: {reason}"), help))
            }
        }
    }

    /// Addresses, networks and zones.
    pub(super) fn addresses(&self, word: &ast::Word) -> Result<Nets, FilterError> {
        let mut ranges = NetRanges::default();
        self.each(word, |value| self.address(word.key, value, &mut ranges))?;
        Ok(ranges.into())
    }

    fn address(&self, key: Key, value: &Value, all: &mut NetRanges) -> Result<(), FilterError> {
        if value.form == Form::Regex {
            return Err(self.takes(key, value));
        }
        if let Some((text, device)) = nets::apart(&value.text) {
            let ranges = all.of(device);
            if let Some(device) = device.filter(|device| value.form == Form::Bare && Glob::is_glob(device)) {
                let message = format!("{} is a glob, and only a name can follow the %", quoted(device));
                let help = format!("write two words: {}:{text} device:{device}", key.name());
                return Err(self.error(value, message, help));
            }
            if let Ok(ip) = text.parse::<IpAddr>() {
                ranges.add(IpNet::from(canonical_ip(ip).0));
                return Ok(());
            }
            if let Ok(net) = text.parse::<IpNet>() {
                ranges.add(net);
                return Ok(());
            }
            if value.form == Form::Bare && is_name(&text) {
                let zone = self.names.zone_set(&text).ok_or_else(|| self.unknown_zone(value, &text))?;
                ranges.add_set(zone);
                return Ok(());
            }
        }
        if let (Some((ip, number)), Some(port)) = (nets::end(&value.text), habits::port_of(key)) {
            let message = format!("{} is an address and a port", quoted(&value.text));
            let (key, port) = (key.name(), port.name());
            let help = format!("write two words, each of which can be negated: {key}:{ip} {port}:{number}");
            return Err(self.error(value, message, help));
        }
        Err(self.takes(key, value))
    }

    fn unknown_zone(&self, value: &Value, name: &str) -> FilterError {
        let zones = || self.names.zones().map(|(name, _)| name);
        let known = zones().collect::<Vec<_>>().join(", ");
        let help = match nearest(name, zones()) {
            Some(near) => format!("did you mean `{near}`? The zones are {known}"),
            None => format!("the zones are {known}; anything else is an address or a network"),
        };
        self.error(value, format!("unknown zone {}", quoted(name)), help)
    }

    /// Values of a type.
    pub(super) fn named<T: Named>(&self, word: &ast::Word) -> Result<Box<[T]>, FilterError> {
        let named = self.all(word, |value| match names::from_written(&value.text) {
            Some(known) if value.form != Form::Regex => Ok(known),
            _ => Err(self.unknown_name(word.key, value, &names::all::<T>())),
        })?;
        Ok(named.into())
    }

    /// Values of a list of names.
    pub(super) fn one_of(
        &self,
        word: &ast::Word,
        known: &[&'static str],
    ) -> Result<Box<[&'static str]>, FilterError> {
        let names =
            self.all(word, |value| match known.iter().find(|name| names::is_alike(name, &value.text)) {
                Some(name) if value.form != Form::Regex => Ok(*name),
                _ => Err(self.unknown_name(word.key, value, known)),
            })?;
        Ok(names.into())
    }

    fn unknown_name(&self, key: Key, value: &Value, known: &[&'static str]) -> FilterError {
        let message = format!("{} is not a value of `{}`", quoted(&value.text), key.name());
        let list = known.join(", ");
        let help = match nearest(&value.text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? It is one of {list}"),
            None => format!("it is one of {list}"),
        };
        self.error(value, message, help)
    }

    /// Errors by name or number, and whether `cancelled` is among them.
    pub(super) fn errors(&self, word: &ast::Word) -> Result<(Ranges<u64>, bool), FilterError> {
        let (mut numbers, mut cancelled) = (Vec::new(), false);
        self.each(word, |value| {
            let named = (value.form != Form::Regex).then(|| errno::number(&value.text)).flatten();
            if value.form != Form::Regex && names::is_alike(&value.text, "cancelled") {
                cancelled = true;
            } else if let Some(number) = named {
                numbers.push((u64::from(number), u64::from(number)));
            } else if value.text.starts_with(|c: char| c.is_ascii_digit()) {
                numbers.push(self.range(word.key, value)?);
            } else {
                let message = format!("{} is no error that Linux knows", quoted(&value.text));
                let help = match nearest(&value.text, errno::names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("`errno` takes {}", Takes::Errors.help()),
                };
                return Err(self.error(value, message, help));
            }
            Ok(())
        })?;
        Ok((Ranges::new(numbers), cancelled))
    }
}
