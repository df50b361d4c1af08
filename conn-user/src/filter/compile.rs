//! From [`Expr`] to typed matchers, once a filter.

use super::ast::{self, Expr};
use super::error::FilterError;
use super::fields::{Amount, Flag, Role};
use super::key::Key;
use super::names::Names;
use super::nets::Nets;
use super::ranges::Ranges;
use super::values::{Reader, Texts};
use crate::event::model::EventKind;
use crate::event::names::{self, ExeFlag};
use crate::flow::model::{Direction, EndedHow, Source, Transport, UnknownReason};
use crate::flow::snapshot::model::TcpState;
use crate::kernel::gap::GapCause;
use crate::process::info::ProcessSource;
use crate::process::placement::Runtime;

/// A word, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The answer is turned round.
    pub negated: bool,
    pub(super) test: Test,
}

/// What a word asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Process(ProcessNumber, Ranges<u64>),
    ProcessText(ProcessText, Texts),
    ExeFlag(Box<[ExeFlag]>),
    Runtime(Box<[Runtime]>),
    Port(Side, Ranges<u64>),
    Address(Side, Nets),
    Direction(Box<[Direction]>),
    Kind(Box<[EventKind]>),
    Transport(Box<[Transport]>),
    Family(Box<[&'static str]>),
    State(Box<[TcpState]>),
    Netns(Ranges<u64>),
    End(Box<[EndedHow]>),
    Errno {
        numbers: Ranges<u64>,
        cancelled: bool,
    },
    Source(Box<[Source]>),
    Method(Role, Box<[&'static str]>),
    Reason(Role, Box<[UnknownReason]>),
    /// Closer or listener by name.
    Named(Role, Texts),
    ProcessSource(Box<[ProcessSource]>),
    AncestorPid(Ranges<u64>),
    Tid(Ranges<u64>),
    Hook(Texts),
    SocketUnit(Texts),
    Device(Texts),
    CommunityId(Texts),
    Cause(Box<[GapCause]>),
    Age(Ranges<u64>),
    Amount(Amount, Ranges<u64>),
    Flag(Flag, Box<[&'static str]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessNumber {
    Pid,
    Ppid,
    Uid,
    Gid,
    LoginUid,
    CgroupId,
    Netns,
    MntNs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessText {
    Proc,
    Comm,
    Exe,
    Arg,
    Script,
    InlineCode,
    ExeFs,
    ExeMount,
    ExeSha256,
    Cwd,
    Tty,
    User,
    Parent,
    Ancestor,
    Unit,
    UserUnit,
    Slice,
    Cgroup,
    Container,
    Pod,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Whichever.
    Either,
    /// This host's.
    Local,
    /// The peer's.
    Remote,
    /// Who opened it.
    Initiator,
    /// Who was connected to.
    Responder,
}

impl Side {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Either, Self::Local, Self::Remote, Self::Initiator, Self::Responder];
}

impl Word {
    /// Whether it asks for gaps: by their kind, or by what only they have.
    pub(super) fn is_about_gaps(&self) -> bool {
        self.names_kind(EventKind::Gap)
            || matches!(self.test, Test::Cause(_) | Test::Amount(Amount::Cpu | Amount::Lost, _))
    }

    /// Whether it asks for this kind: by name, or by what only that has.
    pub(super) fn asks_for(&self, kind: EventKind) -> bool {
        let exits = matches!(self.test, Test::Amount(Amount::Code | Amount::Signal, _));
        !self.negated && (self.names_kind(kind) || (exits && kind == EventKind::Exit))
    }

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

pub(super) fn test(reader: &Reader<'_>, word: &ast::Word) -> Result<Test, FilterError> {
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
        Key::Script => Test::ProcessText(ProcessText::Script, texts()?),
        Key::InlineCode => Test::ProcessText(ProcessText::InlineCode, texts()?),
        Key::ExeFlag => Test::ExeFlag(reader.named(word)?),
        Key::ExeSha256 => Test::ProcessText(ProcessText::ExeSha256, texts()?),
        Key::Cwd => Test::ProcessText(ProcessText::Cwd, texts()?),
        Key::Tty => Test::ProcessText(ProcessText::Tty, texts()?),
        Key::User => match reader.uids(word)? {
            Some(uids) => Test::Process(ProcessNumber::Uid, uids),
            None => Test::ProcessText(ProcessText::User, texts()?),
        },
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
        Key::Method => Test::Method(Role::Owner, reader.one_of(word, &names::METHODS)?),
        Key::CloserMethod => Test::Method(Role::Closer, reader.one_of(word, &names::METHODS)?),
        Key::ListenerMethod => Test::Method(Role::Listener, reader.one_of(word, &names::METHODS)?),
        Key::Reason => Test::Reason(Role::Owner, reader.named(word)?),
        Key::CloserReason => Test::Reason(Role::Closer, reader.named(word)?),
        Key::ListenerReason => Test::Reason(Role::Listener, reader.named(word)?),
        Key::Closer => Test::Named(Role::Closer, texts()?),
        Key::Listener => Test::Named(Role::Listener, texts()?),
        Key::Comm => Test::ProcessText(ProcessText::Comm, texts()?),
        Key::ExeFs => Test::ProcessText(ProcessText::ExeFs, texts()?),
        Key::ExeMount => Test::ProcessText(ProcessText::ExeMount, texts()?),
        Key::UserUnit => Test::ProcessText(ProcessText::UserUnit, texts()?),
        Key::Slice => Test::ProcessText(ProcessText::Slice, texts()?),
        Key::Cgroup => Test::ProcessText(ProcessText::Cgroup, texts()?),
        Key::LoginUid => Test::Process(ProcessNumber::LoginUid, numbers()?),
        Key::CgroupId => Test::Process(ProcessNumber::CgroupId, numbers()?),
        Key::ProcessNetns => Test::Process(ProcessNumber::Netns, numbers()?),
        Key::MntNs => Test::Process(ProcessNumber::MntNs, numbers()?),
        Key::ProcessSource => Test::ProcessSource(reader.named(word)?),
        Key::AncestorPid => Test::AncestorPid(numbers()?),
        Key::Tid => Test::Tid(numbers()?),
        Key::Hook => Test::Hook(texts()?),
        Key::SocketUnit => Test::SocketUnit(texts()?),
        Key::Device => Test::Device(texts()?),
        Key::CommunityId => Test::CommunityId(texts()?),
        Key::Cause => Test::Cause(reader.named(word)?),
        Key::Age => Test::Age(numbers()?),
        Key::Duration => Test::Amount(Amount::Duration, numbers()?),
        Key::ConnectTime => Test::Amount(Amount::ConnectTime, numbers()?),
        Key::After => Test::Amount(Amount::After, numbers()?),
        Key::BytesIn => Test::Amount(Amount::BytesIn, numbers()?),
        Key::BytesOut => Test::Amount(Amount::BytesOut, numbers()?),
        Key::Retransmits => Test::Amount(Amount::Retransmits, numbers()?),
        Key::Srtt => Test::Amount(Amount::Srtt, numbers()?),
        Key::Code => Test::Amount(Amount::Code, numbers()?),
        Key::Signal => Test::Amount(Amount::Signal, numbers()?),
        Key::Cpu => Test::Amount(Amount::Cpu, numbers()?),
        Key::Lost => Test::Amount(Amount::Lost, numbers()?),
        Key::Mapped => Test::Flag(Flag::Mapped, reader.one_of(word, &FLAGS)?),
        Key::V6only => Test::Flag(Flag::V6only, reader.one_of(word, &FLAGS)?),
        Key::KernelSocket => Test::Flag(Flag::KernelSocket, reader.one_of(word, &FLAGS)?),
        Key::Kernel => Test::Flag(Flag::Kernel, reader.one_of(word, &FLAGS)?),
        Key::ArgsTruncated => Test::Flag(Flag::ArgsTruncated, reader.one_of(word, &FLAGS)?),
        Key::ParentHost => Test::Flag(Flag::ParentHost, reader.one_of(word, &FLAGS)?),
        Key::MntNsHost => Test::Flag(Flag::MntNsHost, reader.one_of(word, &FLAGS)?),
    })
}

/// The values of keys that take flags.
pub(super) const FLAGS: [&str; 2] = ["false", "true"];

/// The values of `family`.
pub(super) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
