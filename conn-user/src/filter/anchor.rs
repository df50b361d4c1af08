//! What an event must have for a filter to match: the key of an index over many filters.
//!
//! A filter whose [`Anchor`] fits no [`Probe`] of an event cannot match it. So an index files each filter under the
//! values of its anchor, looks up the probes of an event, and asks only what it finds, and the filters without an
//! anchor.

use super::compile::{ProcessNumber, ProcessText, Side, Test, Word};
use super::values::Texts;
use super::view::View;
use super::{Filter, evaluate};
use crate::event::model::{Event, EventKind};
use crate::event::names::ExeFlag;

/// Most ports that a range of an anchor may have: each is an entry of the index.
const PORTS_MAX: u64 = 64;

/// Exact values, one of which an event must have at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// Port of the side that was connected to, or of a listener (`dport`), ascending, never 0.
    ResponderPort(Box<[u16]>),
    /// Path of the executable of a process.
    Exe(Box<[Box<[u8]>]>),
    /// Unit of a process, or socket unit of a listener.
    Unit(Box<[Box<[u8]>]>),
    /// Name of a process: its comm, or the last part of its exe.
    Proc(Box<[Box<[u8]>]>),
    /// User of a process.
    User(Box<[Box<[u8]>]>),
}

/// A value that an event has at a place of [`Anchor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe<'a> {
    /// See [`Anchor::ResponderPort`].
    ResponderPort(u16),
    /// See [`Anchor::Exe`].
    Exe(&'a [u8]),
    /// See [`Anchor::Unit`].
    Unit(&'a [u8]),
    /// See [`Anchor::Proc`].
    Proc(&'a [u8]),
    /// See [`Anchor::User`].
    User(&'a [u8]),
}

impl Anchor {
    /// Whether the value is one of the anchor's, at its place.
    pub fn fits(&self, probe: Probe<'_>) -> bool {
        let has = |values: &[Box<[u8]>], value: &[u8]| values.iter().any(|own| **own == *value);
        match (self, probe) {
            (Self::ResponderPort(ports), Probe::ResponderPort(port)) => ports.contains(&port),
            (Self::Exe(values), Probe::Exe(value))
            | (Self::Unit(values), Probe::Unit(value))
            | (Self::Proc(values), Probe::Proc(value))
            | (Self::User(values), Probe::User(value)) => has(values, value),
            _ => false,
        }
    }

    fn of(word: &Word) -> Option<Self> {
        if word.negated {
            return None;
        }
        let exact = |texts: &Texts| texts.are_exact().then(|| texts.exact().into());
        match &word.test {
            Test::Port(Side::Responder, ranges) => {
                let mut ports = Vec::new();
                for (low, high) in ranges.iter() {
                    if high - low >= PORTS_MAX {
                        return None;
                    }
                    // Port 0 is a port that is not known, and matches nothing.
                    ports.extend(
                        (low..=high).filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
                    );
                }
                Some(Self::ResponderPort(ports.into()))
            }
            Test::ProcessText(ProcessText::Exe, texts) => exact(texts).map(Self::Exe),
            Test::ProcessText(ProcessText::Unit, texts) => exact(texts).map(Self::Unit),
            Test::ProcessText(ProcessText::Proc, texts) => exact(texts).map(Self::Proc),
            Test::ProcessText(ProcessText::User, texts) => exact(texts).map(Self::User),
            _ => None,
        }
    }

    /// Less is more selective: by place, then by the number of values.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::ResponderPort(ports) => (0, ports.len()),
            Self::Exe(values) => (1, values.len()),
            Self::Unit(values) => (2, values.len()),
            Self::Proc(values) => (3, values.len()),
            Self::User(values) => (4, values.len()),
        }
    }
}

/// Visits what an event has at the places of anchors, each value perhaps more than once. Allocates nothing.
pub fn probes<'a>(event: &'a Event, mut visit: impl FnMut(Probe<'a>)) {
    let view = View::of(event);
    if let Some(end) = view.socket.as_ref().and_then(|socket| socket.responder)
        && end.port() != 0
    {
        visit(Probe::ResponderPort(end.port()));
    }
    if let Some(unit) = view.socket_unit {
        visit(Probe::Unit(unit.as_bytes()));
    }
    let same = match (view.owner, view.closer) {
        (Some(owner), Some(closer)) => std::ptr::eq(owner, closer),
        _ => false,
    };
    for process in [view.owner, view.closer.filter(|_| !same)].into_iter().flatten() {
        visit(Probe::Proc(&process.comm));
        if let Some(exe) = process.exe.as_deref() {
            visit(Probe::Exe(exe));
            let base = evaluate::base_name(exe);
            if *base != *process.comm {
                visit(Probe::Proc(base));
            }
        }
        if let Some(place) = process.placement.as_deref() {
            [&place.unit, &place.user_unit].into_iter().flatten().for_each(|unit| visit(Probe::Unit(unit)));
        }
        if let Some(user) = process.user.as_deref() {
            visit(Probe::User(user));
        }
    }
}

impl Filter {
    /// What an event must have for the filter to match it: the most selective word that is not negated and whose
    /// values are all exact; `None`: there is none. A port comes before an exe, a unit, a name and a user; of two words
    /// on the same the one with fewer values. Without values (of an empty list) the filter matches nothing.
    pub fn anchor(&self) -> Option<Anchor> {
        self.words.iter().filter_map(Anchor::of).min_by_key(Anchor::rank)
    }

    /// Whether an event of this kind can match: no word on kinds excludes it.
    pub fn may_match(&self, kind: EventKind) -> bool {
        self.words.iter().all(|word| match &word.test {
            Test::Kind(kinds) => kinds.contains(&kind) != word.negated,
            _ => true,
        })
    }

    /// Whether a word looks at what is found out about a process in the background and may come after its events:
    /// `exe_flag:writable`, `exe_sha256`, `exe_fs`, `exe_mount`, `cwd`, `tty`, `process_netns`.
    pub fn needs_late_facts(&self) -> bool {
        self.words.iter().any(|word| match &word.test {
            Test::ExeFlag(flags) => flags.contains(&ExeFlag::Writable),
            Test::ProcessText(what, _) => what.is_late(),
            Test::Process(ProcessNumber::Netns, _) => true,
            _ => false,
        })
    }
}

impl ProcessText {
    const fn is_late(self) -> bool {
        matches!(self, Self::ExeSha256 | Self::ExeFs | Self::ExeMount | Self::Cwd | Self::Tty)
    }
}
