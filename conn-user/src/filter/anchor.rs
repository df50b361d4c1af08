//! What an event must have for a filter to match: the keys of an index over many filters.
//!
//! A filter of which an [`Anchor`] fits no [`Probe`] of an event cannot match it. So an index files each filter under the
//! values of one of its anchors, looks up the probes of an event, and asks only what it finds, and the filters without an
//! anchor.

use std::net::IpAddr;

use super::compile::{ProcessNumber, ProcessText, Side, Test, Word};
use super::values::Texts;
use super::view::View;
use super::{Filter, evaluate};
use crate::event::model::{Event, EventKind};
use crate::event::names::ExeFlag;
use crate::flow::model::{Direction, canonical_ip};
use crate::process::applet;

/// An anchor with more ports than these says little of an event.
const PORTS_WIDE: u64 = 1_024;
/// One with more addresses: of a /12, or of a /48.
const V4_WIDE: u64 = 1 << 20;
const V6_WIDE: u128 = 1 << 80;
/// The shortest beginning of a text that says something.
pub const PREFIX_MIN: usize = 4;

/// Values, one of which an event must have at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// Ports of an end, inclusive ranges, ascending, without 0.
    Port(Side, Box<[(u32, u32)]>),
    /// Addresses of an end.
    Address(Side, Addresses),
    /// Real user ids of a process, inclusive ranges.
    Uid(Box<[(u32, u32)]>),
    /// Texts.
    Text(Place, Beginnings),
}

/// Inclusive ranges of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// IPv4.
    pub v4: Box<[(u32, u32)]>,
    /// IPv6.
    pub v6: Box<[(u128, u128)]>,
}

/// Texts, and what others begin with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Beginnings {
    /// Whole texts.
    pub exact: Box<[Box<[u8]>]>,
    /// What a glob has before its first `*`, `?` or `[`: at least [`PREFIX_MIN`] bytes.
    pub prefixes: Box<[Box<[u8]>]>,
}

/// Where a text of an [`Anchor`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Path of the executable of a process.
    Exe,
    /// Unit of a process, or socket unit of a listener.
    Unit,
    /// Name of a process: its comm, or the last part of its exe.
    Proc,
    /// User of a process.
    User,
}

impl Place {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// A value that an event has at a place of an [`Anchor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe<'a> {
    /// See [`Anchor::Port`].
    Port(Side, u16),
    /// See [`Anchor::Address`]. Never an IPv4-mapped one.
    Address(Side, IpAddr),
    /// See [`Anchor::Uid`].
    Uid(u32),
    /// See [`Anchor::Text`].
    Text(Place, &'a [u8]),
}

fn has<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&value))
}

impl Anchor {
    /// Whether the value is one of the anchor's, at its place.
    pub fn fits(&self, probe: Probe<'_>) -> bool {
        match (self, probe) {
            (Self::Port(side, ports), Probe::Port(of, port)) => *side == of && has(ports, port.into()),
            (Self::Address(side, all), Probe::Address(of, ip)) => {
                *side == of
                    && match ip {
                        IpAddr::V4(ip) => has(&all.v4, ip.to_bits()),
                        IpAddr::V6(ip) => has(&all.v6, ip.to_bits()),
                    }
            }
            (Self::Uid(uids), Probe::Uid(uid)) => has(uids, uid),
            (Self::Text(place, texts), Probe::Text(of, text)) => {
                *place == of
                    && (texts.exact.iter().any(|own| **own == *text)
                        || texts.prefixes.iter().any(|own| text.starts_with(own)))
            }
            _ => false,
        }
    }

    fn of(word: &Word) -> Option<Self> {
        if word.negated {
            return None;
        }
        let numbers = |(low, high): (u64, u64)| Some((u32::try_from(low).ok()?, clamp(high)));
        let texts = |place, texts: &Texts| {
            let prefixes = texts.prefixes(PREFIX_MIN)?;
            Some(Self::Text(place, Beginnings { exact: texts.exact().into(), prefixes }))
        };
        match &word.test {
            Test::Port(side, ranges) => {
                // Port 0 is a port that is not known, and matches nothing.
                let ports = ranges.iter().filter_map(numbers).map(|(low, high)| (low.max(1), high));
                Some(Self::Port(*side, ports.filter(|(low, high)| low <= high).collect()))
            }
            Test::Address(side, nets) => {
                let all = nets.all();
                let (v4, v6) = all.ranges();
                Some(Self::Address(*side, Addresses { v4: v4.collect(), v6: v6.collect() }))
            }
            Test::Process(ProcessNumber::Uid, ranges) => {
                Some(Self::Uid(ranges.iter().filter_map(numbers).collect()))
            }
            Test::ProcessText(ProcessText::Exe, own) => texts(Place::Exe, own),
            Test::ProcessText(ProcessText::Unit, own) => texts(Place::Unit, own),
            Test::ProcessText(ProcessText::Proc, own) => texts(Place::Proc, own),
            Test::ProcessText(ProcessText::User, own) => texts(Place::User, own),
            _ => None,
        }
    }

    /// Whether it fits a large part of all events.
    pub fn is_wide(&self) -> bool {
        let count = |ranges: &[(u32, u32)]| -> u64 {
            ranges.iter().map(|(low, high)| u64::from(high - low) + 1).sum()
        };
        match self {
            Self::Port(_, ports) => count(ports) > PORTS_WIDE,
            Self::Uid(uids) => count(uids) > PORTS_WIDE,
            Self::Address(_, all) => {
                let v6 = all.v6.iter().fold(0_u128, |sum, (low, high)| sum.saturating_add(high - low));
                count(&all.v4) > V4_WIDE || v6 > V6_WIDE
            }
            Self::Text(..) => false,
        }
    }

    /// Less is more selective: by place, then by the number of values.
    pub fn rank(&self) -> (u8, usize) {
        match self {
            Self::Port(_, ports) => (0, ports.len()),
            Self::Address(_, all) => (2, all.v4.len() + all.v6.len()),
            Self::Uid(uids) => (5, uids.len()),
            Self::Text(place, texts) => {
                let place = match place {
                    Place::Exe => 1,
                    Place::Unit => 3,
                    Place::Proc => 4,
                    Place::User => 6,
                };
                // The beginning of a text says less than the whole.
                (place + if texts.prefixes.is_empty() { 0 } else { 10 }, texts.exact.len())
            }
        }
    }
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Visits what an event has at the places of anchors, each value perhaps more than once. Allocates nothing.
pub fn probes<'a>(event: &'a Event, mut visit: impl FnMut(Probe<'a>)) {
    let view = View::of(event);
    if let Some(socket) = &view.socket {
        for side in Side::ALL {
            for end in side.ends(socket).into_iter().flatten() {
                if end.port() != 0 {
                    visit(Probe::Port(side, end.port()));
                }
                visit(Probe::Address(side, canonical_ip(end.ip()).0));
            }
        }
    }
    let mut text = |place, text| visit(Probe::Text(place, text));
    if let Some(unit) = view.socket_unit {
        text(Place::Unit, unit.as_bytes());
    }
    let same = match (view.owner, view.closer) {
        (Some(owner), Some(closer)) => std::ptr::eq(owner, closer),
        _ => false,
    };
    let processes = [view.owner, view.closer.filter(|_| !same)];
    for process in processes.into_iter().flatten() {
        text(Place::Proc, &process.comm);
        if let Some(exe) = process.exe.as_deref() {
            text(Place::Exe, exe);
            let base = evaluate::base_name(exe);
            if *base != *process.comm {
                text(Place::Proc, base);
            }
            if let Some(name) = process.identity.copy_of() {
                text(Place::Proc, name.as_bytes());
            }
            if let Some(name) = applet::name(process) {
                text(Place::Proc, name);
            }
        }
        if let Some(place) = process.placement.as_deref() {
            [&place.unit, &place.user_unit].into_iter().flatten().for_each(|unit| text(Place::Unit, unit));
        }
        if let Some(user) = process.user.as_deref() {
            text(Place::User, user);
        }
    }
    processes.into_iter().flatten().for_each(|process| visit(Probe::Uid(process.uid)));
}

impl Filter {
    /// What an event must have for the filter to match it, of each word that reports. One without values (of an empty list)
    /// fits nothing, and so does the filter.
    pub fn anchors(&self) -> impl Iterator<Item = Anchor> {
        self.words.iter().filter_map(Anchor::of)
    }

    /// Whether an event of a connection in this direction can match: no word on directions excludes it. `None`: of an event
    /// that has no direction.
    pub fn may_go(&self, direction: Option<Direction>) -> bool {
        self.words.iter().all(|word| match &word.test {
            Test::Direction(all) => direction.is_some_and(|own| all.contains(&own)) != word.negated,
            _ => true,
        })
    }

    /// Whether an event of this kind can match: no word on kinds excludes it.
    pub fn may_match(&self, kind: EventKind) -> bool {
        self.words.iter().all(|word| match &word.test {
            Test::Kind(kinds) => kinds.contains(&kind) != word.negated,
            _ => true,
        })
    }

    /// Whether a word looks at what is found out about a process in the background and may come after its events:
    /// `exe_flag:deleted,writable,user_writable,host,foreign`, `exe_sha256`, `exe_fs`, `exe_mount`, `cwd`, `tty`, `script`, `process_netns`.
    pub fn needs_late_facts(&self) -> bool {
        self.words.iter().any(|word| match &word.test {
            Test::ExeFlag(flags) => flags.iter().copied().any(ExeFlag::is_late),
            Test::ProcessText(what, _) => what.is_late(),
            Test::Process(ProcessNumber::Netns, _) => true,
            _ => false,
        })
    }

    /// Returns whether a word asks for the name of a process, which may turn out to be that of a copied program.
    pub fn asks_proc(&self) -> bool {
        let is_proc = |word: &Word| matches!(word.test, Test::ProcessText(ProcessText::Proc, _));
        self.words.iter().any(|word| !word.negated && is_proc(word))
    }

    /// Whether a word looks at the hash of an executable.
    pub fn needs_hashes(&self) -> bool {
        self.words.iter().any(|word| matches!(word.test, Test::ProcessText(ProcessText::ExeSha256, _)))
    }
}

impl ProcessText {
    const fn is_late(self) -> bool {
        matches!(self, Self::ExeSha256 | Self::ExeFs | Self::ExeMount | Self::Cwd | Self::Tty | Self::Script)
    }
}
