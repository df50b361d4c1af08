//! From [`Expr`] to typed matchers, once a filter.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use regex::bytes::{Regex, RegexBuilder};

use super::ast::{self, Expr, Form, Value};
use super::error::{FilterError, quoted};
use super::glob::Glob;
use super::key::{Key, Takes};
use super::suggest::nearest;
use crate::event::errno;
use crate::event::model::EventKind;
use crate::event::names::{self, ExeFlag, Named};
use crate::flow::model::{Direction, EndedHow, Source, Transport, canonical_ip};
use crate::flow::snapshot::model::TcpState;
use crate::process::placement::Runtime;

/// Memory that one regular expression may take, compiled.
const REGEX_SIZE: usize = 1 << 20;

/// A word, ready to be asked.
#[derive(Clone, Debug)]
pub struct Word {
    /// The answer is turned round.
    pub negated: bool,
    pub(super) test: Test,
}

/// What a word asks.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Process(ProcessNumber, Ranges),
    ProcessText(ProcessText, Box<[Text]>),
    ExeFlag(Box<[ExeFlag]>),
    Runtime(Box<[Runtime]>),
    Port(Side, Ranges),
    Address(Side, Box<[IpNet]>),
    Direction(Box<[Direction]>),
    Kind(Box<[EventKind]>),
    Transport(Box<[Transport]>),
    Family(Box<[&'static str]>),
    State(Box<[TcpState]>),
    Netns(Ranges),
    End(Box<[EndedHow]>),
    Errno { numbers: Ranges, cancelled: bool },
    Source(Box<[Source]>),
    Method(Box<[&'static str]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ProcessNumber {
    Pid,
    Ppid,
    Uid,
    Gid,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ProcessText {
    Proc,
    Exe,
    Arg,
    ExeSha256,
    Cwd,
    Tty,
    User,
    Parent,
    Ancestor,
    Unit,
    Container,
    Pod,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Either,
    Local,
    Remote,
    /// Who opened it.
    Initiator,
    /// Who was connected to.
    Responder,
}

/// Inclusive ranges.
pub(super) type Ranges = Box<[(u32, u32)]>;

#[derive(Clone, Debug)]
pub(super) enum Text {
    Exact(Box<[u8]>),
    Glob(Glob),
    Regex(Regex),
}

impl Text {
    pub(super) fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact(own) => **own == *bytes,
            Self::Glob(glob) => glob.matches(bytes),
            Self::Regex(regex) => regex.is_match(bytes),
        }
    }
}

impl Word {
    /// Whether it looks at kinds and names this one.
    pub(super) fn names_kind(&self, kind: EventKind) -> bool {
        matches!(&self.test, Test::Kind(kinds) if kinds.contains(&kind))
    }
}

/// Compiles every word.
///
/// # Errors
/// The first value that its key does not take.
pub fn compile(text: &str, expr: &Expr) -> Result<Box<[Word]>, FilterError> {
    let compiler = Compiler { text };
    expr.words.iter().map(|word| Ok(Word { negated: word.negated, test: compiler.test(word)? })).collect()
}

fn all<T>(word: &ast::Word, one: impl Fn(&Value) -> Result<T, FilterError>) -> Result<Box<[T]>, FilterError> {
    word.values.iter().map(one).collect()
}

struct Compiler<'a> {
    text: &'a str,
}

impl Compiler<'_> {
    fn test(&self, word: &ast::Word) -> Result<Test, FilterError> {
        let numbers = || all(word, |value| self.range(word.key, value));
        let texts = || all(word, |value| self.matcher(value));
        let networks = || all(word, |value| self.network(word.key, value));
        Ok(match word.key {
            Key::Pid => Test::Process(ProcessNumber::Pid, numbers()?),
            Key::Ppid => Test::Process(ProcessNumber::Ppid, numbers()?),
            Key::Uid => Test::Process(ProcessNumber::Uid, numbers()?),
            Key::Gid => Test::Process(ProcessNumber::Gid, numbers()?),
            Key::Proc => Test::ProcessText(ProcessText::Proc, texts()?),
            Key::Exe => Test::ProcessText(ProcessText::Exe, texts()?),
            Key::Arg => Test::ProcessText(ProcessText::Arg, texts()?),
            Key::ExeFlag => Test::ExeFlag(self.named(word)?),
            Key::ExeSha256 => Test::ProcessText(ProcessText::ExeSha256, texts()?),
            Key::Cwd => Test::ProcessText(ProcessText::Cwd, texts()?),
            Key::Tty => Test::ProcessText(ProcessText::Tty, texts()?),
            Key::User => Test::ProcessText(ProcessText::User, texts()?),
            Key::Parent => Test::ProcessText(ProcessText::Parent, texts()?),
            Key::Ancestor => Test::ProcessText(ProcessText::Ancestor, texts()?),
            Key::Unit => Test::ProcessText(ProcessText::Unit, texts()?),
            Key::Container => Test::ProcessText(ProcessText::Container, texts()?),
            Key::Runtime => Test::Runtime(self.named(word)?),
            Key::Pod => Test::ProcessText(ProcessText::Pod, texts()?),
            Key::Port => Test::Port(Side::Either, numbers()?),
            Key::Lport => Test::Port(Side::Local, numbers()?),
            Key::Rport => Test::Port(Side::Remote, numbers()?),
            Key::Sport => Test::Port(Side::Initiator, numbers()?),
            Key::Dport => Test::Port(Side::Responder, numbers()?),
            Key::Ip => Test::Address(Side::Either, networks()?),
            Key::Laddr => Test::Address(Side::Local, networks()?),
            Key::Raddr => Test::Address(Side::Remote, networks()?),
            Key::Src => Test::Address(Side::Initiator, networks()?),
            Key::Dst => Test::Address(Side::Responder, networks()?),
            Key::Dir => Test::Direction(self.named(word)?),
            Key::Kind => Test::Kind(self.named(word)?),
            Key::Proto => Test::Transport(self.named(word)?),
            Key::Family => Test::Family(all(word, |value| self.one_of(word.key, value, &FAMILIES))?),
            Key::State => Test::State(self.named(word)?),
            Key::Netns => Test::Netns(numbers()?),
            Key::End => Test::End(self.named(word)?),
            Key::Errno => self.errno(word)?,
            Key::Source => Test::Source(self.named(word)?),
            Key::Method => Test::Method(all(word, |value| self.one_of(word.key, value, &names::METHODS))?),
        })
    }

    fn error(&self, value: &Value, message: impl Into<String>, help: impl Into<String>) -> FilterError {
        FilterError::new(self.text, value.span.clone(), message, help)
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

    fn range(&self, key: Key, value: &Value) -> Result<(u32, u32), FilterError> {
        if value.form == Form::Regex {
            return Err(self.takes(key, value));
        }
        let highest = if key.about().takes == Takes::Numbers { u32::MAX } else { u32::from(u16::MAX) };
        let (low, high) = value.text.split_once('-').unwrap_or((&value.text, &value.text));
        let (Some(low), Some(high)) = (number(low), number(high)) else { return Err(self.takes(key, value)) };
        if low > high {
            let message = format!("the range {} ends before it begins", quoted(&value.text));
            return Err(self.error(value, message, format!("write {}:{high}-{low}", key.name())));
        }
        match u32::try_from(high) {
            Ok(high) if high <= highest => Ok((low as u32, high)),
            _ => {
                let message = format!("{} is too large", quoted(&value.text));
                Err(self.error(value, message, format!("`{}` goes up to {highest}", key.name())))
            }
        }
    }

    fn matcher(&self, value: &Value) -> Result<Text, FilterError> {
        match value.form {
            Form::Bare if Glob::is_glob(&value.text) => Ok(Text::Glob(Glob::new(&value.text))),
            Form::Bare | Form::Quoted => Ok(Text::Exact(value.text.as_bytes().into())),
            Form::Regex => match RegexBuilder::new(&value.text).size_limit(REGEX_SIZE).build() {
                Ok(regex) => Ok(Text::Regex(regex)),
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
            },
        }
    }

    fn network(&self, key: Key, value: &Value) -> Result<IpNet, FilterError> {
        let text = value.text.as_str();
        let text = text.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(text);
        if value.form != Form::Regex {
            if let Ok(ip) = text.parse::<IpAddr>() {
                return Ok(IpNet::from(canonical_ip(ip).0));
            }
            if let Ok(net) = text.parse::<IpNet>() {
                return Ok(canonical_net(net));
            }
            if let Some((address, port)) = text.rsplit_once(':')
                && address.parse::<std::net::Ipv4Addr>().is_ok()
            {
                let message = format!("{} is an address and a port", quoted(text));
                return Err(self.error(
                    value,
                    message,
                    format!("write two words: {}:{address} port:{port}", key.name()),
                ));
            }
        }
        Err(self.takes(key, value))
    }

    fn named<T: Named>(&self, word: &ast::Word) -> Result<Box<[T]>, FilterError> {
        all(word, |value| match names::from_name(&value.text) {
            Some(known) if value.form != Form::Regex => Ok(known),
            _ => Err(self.unknown_name(word.key, value, &names::all::<T>())),
        })
    }

    fn one_of(&self, key: Key, value: &Value, known: &[&'static str]) -> Result<&'static str, FilterError> {
        match known.iter().find(|name| **name == value.text) {
            Some(name) if value.form != Form::Regex => Ok(name),
            _ => Err(self.unknown_name(key, value, known)),
        }
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

    fn errno(&self, word: &ast::Word) -> Result<Test, FilterError> {
        let (mut numbers, mut cancelled) = (Vec::new(), false);
        for value in &word.values {
            let named = (value.form != Form::Regex).then(|| errno::number(&value.text)).flatten();
            if value.form != Form::Regex && value.text == "cancelled" {
                cancelled = true;
            } else if let Some(number) = named {
                numbers.push((u32::from(number), u32::from(number)));
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
        }
        Ok(Test::Errno { numbers: numbers.into(), cancelled })
    }
}

/// The values of `family`.
pub(super) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

fn number(text: &str) -> Option<u64> {
    // Digits only: FromStr takes a sign too.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A network of IPv4-mapped addresses as the IPv4 network that it is: events have no mapped addresses.
fn canonical_net(net: IpNet) -> IpNet {
    match (canonical_ip(net.addr()).0, net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(prefix)) if net.addr().is_ipv6() => {
            Ipv4Net::new(v4, prefix).map_or(net.trunc(), |net| IpNet::V4(net).trunc())
        }
        _ => net.trunc(),
    }
}
