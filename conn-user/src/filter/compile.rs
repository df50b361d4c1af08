//! From [`Expr`] to typed matchers, once a filter.

use super::ast::{self, Expr};
use super::error::FilterError;
use super::key::Key;
use super::names::Names;
use super::ranges::{IpSet, Ranges};
use super::values::{Reader, Texts};
use crate::event::model::EventKind;
use crate::event::names::{self, ExeFlag};
use crate::flow::model::{Direction, EndedHow, Source, Transport};
use crate::flow::snapshot::model::TcpState;
use crate::process::placement::Runtime;

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
    Process(ProcessNumber, Ranges<u64>),
    ProcessText(ProcessText, Texts),
    ExeFlag(Box<[ExeFlag]>),
    Runtime(Box<[Runtime]>),
    Port(Side, Ranges<u64>),
    Address(Side, IpSet),
    Direction(Box<[Direction]>),
    Kind(Box<[EventKind]>),
    Transport(Box<[Transport]>),
    Family(Box<[&'static str]>),
    State(Box<[TcpState]>),
    Netns(Ranges<u64>),
    End(Box<[EndedHow]>),
    Errno { numbers: Ranges<u64>, cancelled: bool },
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

impl Word {
    /// Whether it looks at kinds and names this one.
    pub(super) fn names_kind(&self, kind: EventKind) -> bool {
        matches!(&self.test, Test::Kind(kinds) if kinds.contains(&kind))
    }
}

/// Compiles every word.
///
/// # Errors
/// The first value that its key does not take, or a zone or list that there is not.
pub fn compile(text: &str, expr: &Expr, names: &Names) -> Result<Box<[Word]>, FilterError> {
    let reader = Reader::new(text, names);
    expr.words.iter().map(|word| Ok(Word { negated: word.negated, test: test(&reader, word)? })).collect()
}

fn test(reader: &Reader<'_>, word: &ast::Word) -> Result<Test, FilterError> {
    let numbers = || reader.numbers(word);
    let texts = || reader.texts(word);
    let networks = || reader.addresses(word);
    Ok(match word.key {
        Key::Pid => Test::Process(ProcessNumber::Pid, numbers()?),
        Key::Ppid => Test::Process(ProcessNumber::Ppid, numbers()?),
        Key::Uid => Test::Process(ProcessNumber::Uid, numbers()?),
        Key::Gid => Test::Process(ProcessNumber::Gid, numbers()?),
        Key::Proc => Test::ProcessText(ProcessText::Proc, texts()?),
        Key::Exe => Test::ProcessText(ProcessText::Exe, texts()?),
        Key::Arg => Test::ProcessText(ProcessText::Arg, texts()?),
        Key::ExeFlag => Test::ExeFlag(reader.named(word)?),
        Key::ExeSha256 => Test::ProcessText(ProcessText::ExeSha256, texts()?),
        Key::Cwd => Test::ProcessText(ProcessText::Cwd, texts()?),
        Key::Tty => Test::ProcessText(ProcessText::Tty, texts()?),
        Key::User => Test::ProcessText(ProcessText::User, texts()?),
        Key::Parent => Test::ProcessText(ProcessText::Parent, texts()?),
        Key::Ancestor => Test::ProcessText(ProcessText::Ancestor, texts()?),
        Key::Unit => Test::ProcessText(ProcessText::Unit, texts()?),
        Key::Container => Test::ProcessText(ProcessText::Container, texts()?),
        Key::Runtime => Test::Runtime(reader.named(word)?),
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
        Key::Dir => Test::Direction(reader.named(word)?),
        Key::Kind => Test::Kind(reader.named(word)?),
        Key::Proto => Test::Transport(reader.named(word)?),
        Key::Family => Test::Family(reader.one_of(word, &FAMILIES)?),
        Key::State => Test::State(reader.named(word)?),
        Key::Netns => Test::Netns(numbers()?),
        Key::End => Test::End(reader.named(word)?),
        Key::Errno => {
            let (numbers, cancelled) = reader.errors(word)?;
            Test::Errno { numbers, cancelled }
        }
        Key::Source => Test::Source(reader.named(word)?),
        Key::Method => Test::Method(reader.one_of(word, &names::METHODS)?),
    })
}

/// The values of `family`.
pub(super) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
