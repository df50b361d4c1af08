//! A filter asked aloud: of every word whether it holds, and what it looked at.
//!
//! Whether a word holds is what [`Filter::matches`] asks. What it looked at is read by the same accessors, and a property
//! test holds the two together: a word fits where one of the values fits that it is said to have looked at.

use std::net::SocketAddr;

use super::ast;
use super::compile::{self, FAMILIES, FLAGS, ProcessText, Side, Test, Word};
use super::evaluate::{base_name, container, credible, hexadecimal, is_so, shortens};
use super::fields::{self, Amount, Role};
use super::key::{Key, Takes};
use super::values::{Reader, Texts};
use super::view::{Origin, Socket, View};
use super::{Filter, Names};
use crate::event::errno;
use crate::event::human;
use crate::event::model::{Event, EventKind};
use crate::event::names::{self, Named};
use crate::flow::model::Method;
use crate::process::identity::Tty;
use crate::process::info::ProcessInfo;
use crate::process::lineage::Ancestor;
use crate::process::{applet, script};
use crate::units::DurationNs;

/// One word of a filter, asked of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordTrace {
    /// As it is written, e.g. `-dst:internal`.
    pub word: String,
    /// What it looks at.
    pub key: Key,
    /// Whether it begins with `-`.
    pub negated: bool,
    /// Whether it holds; the filter matches where all do.
    pub holds: bool,
    /// What it looked at.
    pub seen: Seen,
    /// Which of its values fit, as they are written: `internal`, `@shells`. Without regard to the `-`.
    pub fitting: Vec<String>,
}

/// What a word looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// These: of a closed connection for instance the owner's and the closer's.
    Values(Vec<Looked>),
    /// The event has such a thing, but it is not known: no value fits what is not known.
    Unknown,
    /// The event has no such thing: an exec no port, a process outside units no unit.
    Nothing,
}

/// A value that a word looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// As people write it; attacker-controlled bytes are allowed.
    pub value: Box<[u8]>,
    /// Whether it fits, without regard to the `-`.
    pub fits: bool,
}

impl Filter {
    /// Asks every word of the event, in their order. `names` are those that the filter was made with.
    pub fn trace(&self, event: &Event, names: &Names) -> Vec<WordTrace> {
        let view = View::of(event);
        self.expr
            .words
            .iter()
            .zip(&self.words)
            .map(|(written, word)| trace(written, word, &view, names))
            .collect()
    }
}

fn trace(written: &ast::Word, word: &Word, view: &View<'_>, names: &Names) -> WordTrace {
    let looked = looked(&word.test, view);
    let seen = if !looked.is_empty() {
        Seen::Values(looked)
    } else if may_be_unknown(written.key, &word.test, view) {
        Seen::Unknown
    } else {
        Seen::Nothing
    };
    let fits_alone = |value: &&ast::Value| {
        let alone = ast::Word { negated: false, key: written.key, values: vec![(*value).clone()] };
        let reader = Reader::new(&value.text, names);
        compile::test(&reader, &alone).is_ok_and(|test| test.holds(view))
    };
    let fitting = written.values.iter().filter(fits_alone).map(ToString::to_string).collect();
    WordTrace {
        word: written.to_string(),
        key: written.key,
        negated: written.negated,
        holds: word.holds(view),
        seen,
        fitting,
    }
}

impl WordTrace {
    /// Whether the word names a zone or a list that fits: the value alone does not say so.
    pub fn fits_by_name(&self) -> Option<&str> {
        let is_named = |value: &&String| {
            value.starts_with('@')
                || (self.key.about().takes == Takes::Addresses
                    && value.starts_with(|c: char| c.is_ascii_lowercase())
                    && !value.contains(':'))
        };
        self.fitting.iter().find(is_named).map(String::as_str)
    }
}

/// What is looked at, in the order of the people in an event: owner, closer, listener.
#[derive(Default)]
struct Looks(Vec<Looked>);

impl Looks {
    fn add(&mut self, value: impl AsRef<[u8]>, fits: bool) {
        let value = value.as_ref();
        match self.0.iter_mut().find(|looked| *looked.value == *value) {
            Some(known) => known.fits |= fits,
            None => self.0.push(Looked { value: value.into(), fits }),
        }
    }

    fn number(&mut self, number: Option<u64>, fits: impl Fn(u64) -> bool) {
        if let Some(number) = number {
            self.add(number.to_string(), fits(number));
        }
    }

    fn named<T: Named>(&mut self, value: Option<T>, all: &[T]) {
        if let Some(value) = value {
            self.add(value.name(), all.contains(&value));
        }
    }

    fn text(&mut self, bytes: Option<&[u8]>, texts: &Texts) {
        if let Some(bytes) = bytes {
            self.add(bytes, texts.matches(bytes));
        }
    }

    /// A process by the names that it may be called.
    fn called(&mut self, comm: &[u8], exe: Option<&[u8]>, texts: &Texts) {
        if let Some(comm) = credible(comm, exe) {
            self.add(comm, texts.matches(comm));
        }
        if let Some(exe) = exe {
            self.add(exe, texts.matches(exe) || texts.matches(base_name(exe)));
        }
    }

    fn ancestor(&mut self, ancestor: &Ancestor, texts: &Texts) {
        self.called(&ancestor.comm, ancestor.exe.as_deref(), texts);
    }
}

fn duration(ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    human::write_duration(DurationNs(ns), &mut out);
    out
}

fn looked(test: &Test, view: &View<'_>) -> Vec<Looked> {
    let mut looks = Looks::default();
    let processes = || view.owner.into_iter().chain(view.closer);
    let socket = view.socket.as_ref();
    match test {
        Test::Process(which, ranges) => {
            processes().for_each(|process| looks.number(which.of(process), |number| ranges.contains(number)));
        }
        Test::ProcessText(which, texts) => {
            processes().for_each(|process| process_text(*which, process, texts, &mut looks));
            if matches!(which, ProcessText::Unit) {
                looks.text(view.socket_unit.map(str::as_bytes), texts);
            }
        }
        Test::ExeFlag(all) => {
            for process in processes() {
                // Nearly all are the host's own: that says nothing to who asks for something else.
                let is_whose =
                    |flag: names::ExeFlag| matches!(flag, names::ExeFlag::Host | names::ExeFlag::Foreign);
                let asks_whose = all.iter().copied().any(is_whose);
                let shown = |flag: &names::ExeFlag| is_so(*flag, process) && (asks_whose || !is_whose(*flag));
                for flag in names::ExeFlag::ALL.iter().copied().filter(shown) {
                    looks.named(Some(flag), all);
                }
            }
        }
        Test::Runtime(all) => processes()
            .for_each(|process| looks.named(container(process).and_then(|container| container.runtime), all)),
        Test::Port(side, ranges) => {
            for port in ends(*side, socket).map(|end| end.port()).filter(|port| *port != 0) {
                looks.number(Some(port.into()), |port| ranges.contains(port));
            }
        }
        Test::Address(side, nets) => {
            let device = || fields::device(view);
            for ip in ends(*side, socket).map(|end| end.ip()) {
                let shown = match device().filter(|_| nets.is_over()) {
                    Some(device) => format!("{ip}%{device}"),
                    None => ip.to_string(),
                };
                looks.add(shown, nets.contains(ip, device));
            }
        }
        Test::Direction(all) => looks.named(socket.and_then(|socket| socket.direction), all),
        Test::Kind(all) => looks.named(view.kind, all),
        Test::Transport(all) => looks.named(socket.map(|socket| socket.transport), all),
        Test::Family(all) => {
            if let Some(socket) = socket {
                let family = FAMILIES[usize::from(socket.local.is_ipv6())];
                looks.add(family, all.contains(&family));
            }
        }
        Test::State(all) => looks.named(socket.and_then(|socket| socket.state), all),
        Test::Netns(ranges) => {
            looks.number(socket.map(|socket| socket.netns.0.into()), |netns| ranges.contains(netns));
        }
        Test::End(all) => looks.named(view.end, all),
        Test::Errno { numbers, cancelled } => {
            if let Some(number) = view.errno {
                let is_cancelled = number == 0 && view.kind == Some(EventKind::Failed);
                let name = if is_cancelled { Some("cancelled") } else { errno::name(number) };
                let name = name.map_or_else(|| number.to_string(), str::to_owned);
                looks.add(name, numbers.contains(number.into()) || (*cancelled && is_cancelled));
            }
        }
        Test::Source(all) => looks.named(socket.map(|socket| socket.source), all),
        Test::Method(role, all) => {
            if let Some(method) = role.method(view).map(names::method) {
                looks.add(method, all.contains(&method));
            }
        }
        Test::Reason(role, all) => looks.named(role.reason(view), all),
        Test::Named(role, texts) => {
            if let Some(process) = role.of(view).and_then(|actor| actor.process.as_deref()) {
                looks.called(&process.comm, process.exe.as_deref(), texts);
            }
        }
        Test::ProcessSource(all) => processes().for_each(|process| looks.named(Some(process.source), all)),
        Test::AncestorPid(ranges) => {
            for ancestor in processes().flat_map(|process| process.ancestors.iter()) {
                looks.number(Some(ancestor.pid.0.into()), |pid| ranges.contains(pid));
            }
        }
        Test::Tid(ranges) => {
            for tid in [Role::Owner, Role::Closer].into_iter().filter_map(|role| role.of(view)?.tid) {
                looks.number(Some(tid.0.into()), |tid| ranges.contains(tid));
            }
        }
        Test::Hook(texts) => {
            for role in [Role::Owner, Role::Closer] {
                if let Some(Method::Hook(hook)) = role.method(view) {
                    looks.text(Some(hook.label().as_bytes()), texts);
                }
            }
            if let Some(gap) = fields::gap(view) {
                looks.text(Some(gap.hook.label().as_bytes()), texts);
            }
        }
        Test::SocketUnit(texts) => looks.text(view.socket_unit.map(str::as_bytes), texts),
        Test::Device(texts) => looks.text(fields::device(view).map(str::as_bytes), texts),
        Test::CommunityId(texts) => {
            if let Some(id) = fields::community_id(view) {
                looks.text(Some(&id), texts);
            }
        }
        Test::Cause(all) => looks.named(fields::gap(view).map(|gap| gap.cause), all),
        Test::Age(ranges) => {
            if let Some((low, high)) = fields::age(view) {
                let mut text = duration(low);
                if high == u64::MAX {
                    text.extend_from_slice(b" or more");
                } else if high != low {
                    text.extend_from_slice(b" to ");
                    text.extend(duration(high));
                }
                looks.add(text, ranges.contains_all(low, high));
            }
        }
        Test::Amount(amount, ranges) => {
            if let Some(number) = amount.of(view) {
                let is_duration =
                    matches!(amount, Amount::Duration | Amount::ConnectTime | Amount::After | Amount::Srtt);
                let text = if is_duration { duration(number) } else { number.to_string().into_bytes() };
                looks.add(text, ranges.contains(number));
            }
        }
        Test::Flag(flag, all) => {
            let of_processes = processes().filter_map(|process| flag.of_process(process));
            for name in flag.of(view).into_iter().chain(of_processes).map(|is| FLAGS[usize::from(is)]) {
                looks.add(name, all.contains(&name));
            }
        }
    }
    looks.0
}

fn ends(side: Side, socket: Option<&Socket>) -> impl Iterator<Item = SocketAddr> {
    socket.map(|socket| side.ends(socket)).into_iter().flatten().flatten()
}

fn process_text(which: ProcessText, process: &ProcessInfo, texts: &Texts, looks: &mut Looks) {
    let state = process.identity.state();
    let file = process.identity.exe();
    let place = process.placement.as_deref();
    match which {
        ProcessText::Proc => {
            looks.text(Some(&process.comm), texts);
            looks.text(process.exe.as_deref().map(base_name), texts);
            looks.text(process.identity.copy_of().map(str::as_bytes), texts);
            looks.text(applet::name(process), texts);
        }
        ProcessText::Comm => looks.text(Some(&process.comm), texts),
        ProcessText::Exe => looks.text(process.exe.as_deref(), texts),
        ProcessText::Arg => process.args.iter().for_each(|arg| looks.text(Some(arg), texts)),
        ProcessText::Script => looks.text(script::path(process).as_deref(), texts),
        ProcessText::InlineCode => looks.text(script::code(process), texts),
        ProcessText::ExeFs => looks.text(file.and_then(|file| file.fs.as_deref()), texts),
        ProcessText::ExeMount => looks.text(file.and_then(|file| file.mount.as_deref()), texts),
        ProcessText::ExeSha256 => {
            if let Some(hash) = process.identity.sha256() {
                looks.text(Some(&hexadecimal(hash)), texts);
            }
        }
        ProcessText::Cwd => looks.text(state.and_then(|state| state.cwd.as_deref()), texts),
        ProcessText::Tty => {
            if let Some(Tty::Named(name)) = state.map(|state| &state.tty) {
                looks.text(Some(name.as_bytes()), texts);
            }
        }
        ProcessText::User => looks.text(process.user.as_deref(), texts),
        ProcessText::Parent => {
            process.ancestors.first().into_iter().for_each(|parent| looks.ancestor(parent, texts));
        }
        ProcessText::Ancestor => process.ancestors.iter().for_each(|one| looks.ancestor(one, texts)),
        ProcessText::Unit => {
            looks.text(place.and_then(|place| place.unit.as_deref()), texts);
            looks.text(place.and_then(|place| place.user_unit.as_deref()), texts);
        }
        ProcessText::UserUnit => looks.text(place.and_then(|place| place.user_unit.as_deref()), texts),
        ProcessText::Slice => looks.text(place.and_then(|place| place.slice.as_deref()), texts),
        ProcessText::Cgroup => looks.text(place.map(|place| &*place.cgroup), texts),
        ProcessText::Container => {
            if let Some(container) = container(process) {
                let shortened = texts.exact().iter().any(|text| shortens(text, container));
                looks.add(&container.id, texts.matches(&container.id) || shortened);
            }
        }
        ProcessText::Pod => {
            looks.text(container(process).and_then(|container| container.pod.as_deref()), texts);
        }
    }
}

/// Whether what a key looks at, and found nothing, may be there without being known.
fn may_be_unknown(key: Key, test: &Test, view: &View<'_>) -> bool {
    let is_event = matches!(view.origin, Origin::Event(_));
    let (kind, socket) = (view.kind, view.socket.as_ref());
    let is = |kinds: &[EventKind]| kind.is_some_and(|kind| kinds.contains(&kind));
    match key {
        Key::Port | Key::Lport | Key::Dport | Key::Ip | Key::Laddr | Key::Dst | Key::Tid | Key::Hook => {
            socket.is_some()
        }
        Key::Device | Key::V6only => is(&[EventKind::Listen, EventKind::Unlisten]),
        Key::Rport | Key::Raddr | Key::Sport | Key::Src | Key::Dir | Key::CommunityId => {
            socket.is_some_and(|socket| socket.remote.is_some())
        }
        Key::Closer | Key::CloserMethod | Key::Duration => is(&[EventKind::Close, EventKind::Unlisten]),
        Key::Listener | Key::ListenerMethod => is(&[EventKind::Accept]),
        Key::ConnectTime => is(&[EventKind::Established]),
        Key::After => is(&[EventKind::Failed]),
        Key::BytesIn | Key::BytesOut | Key::Retransmits | Key::Srtt => is(&[EventKind::Close]) || !is_event,
        Key::Cpu => is(&[EventKind::Gap]),
        // They are known wherever they are.
        Key::Kind
        | Key::Proto
        | Key::Family
        | Key::Netns
        | Key::Source
        | Key::Method
        | Key::Mapped
        | Key::KernelSocket
        | Key::State
        | Key::End
        | Key::Errno
        | Key::Reason
        | Key::CloserReason
        | Key::ListenerReason
        | Key::Cause
        | Key::SocketUnit
        | Key::Age
        | Key::Code
        | Key::Signal
        | Key::Lost => false,
        // All others are of processes.
        key => match (view.owner, view.closer) {
            (None, None) => socket.is_some(),
            (owner, closer) => {
                owner.into_iter().chain(closer).any(|process| of_process_may_be_unknown(key, test, process))
            }
        },
    }
}

fn of_process_may_be_unknown(key: Key, test: &Test, process: &ProcessInfo) -> bool {
    let place = process.placement.as_deref();
    match key {
        Key::ExeSha256 => !process.identity.sha256_settled(),
        Key::Exe | Key::ExeFs | Key::ExeMount => !process.kernel,
        Key::ExeFlag => {
            // The others are seen by the path.
            let Test::ExeFlag(flags) = test else { return process.exe.is_none() };
            let is_unknown = |flag: &names::ExeFlag| match flag {
                names::ExeFlag::Writable => process.identity.exe().and_then(|file| file.writable).is_none(),
                names::ExeFlag::Host | names::ExeFlag::Foreign => process.identity.exe_is_host().is_none(),
                names::ExeFlag::UserWritable => {
                    process.identity.exe().and_then(|file| file.user_writable).is_none()
                }
                names::ExeFlag::Deleted | names::ExeFlag::Memfd | names::ExeFlag::Conn => false,
            };
            process.exe.is_none() || flags.iter().any(is_unknown)
        }
        Key::Tty => !matches!(process.identity.state().map(|state| &state.tty), Some(Tty::None)),
        Key::Unit | Key::UserUnit | Key::Slice | Key::Cgroup | Key::Container | Key::Pod => place.is_none(),
        Key::Runtime => place.is_none_or(|place| place.container.is_some()),
        Key::Arg | Key::Script | Key::InlineCode => {
            process.args_truncated || (process.exe.is_none() && !process.kernel)
        }
        Key::User => false,
        Key::Ppid | Key::Parent | Key::ParentHost | Key::Ancestor | Key::AncestorPid => process.pid.0 > 2,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::model::{EventBody, ProcEvent};
    use crate::event::samples;
    use crate::flow::model::{Actor, Change, ConnEvent, UnknownReason};

    fn seen(word: &str, event: &Event) -> Seen {
        let filter = Filter::new(word).unwrap_or_else(|error| panic!("{error}"));
        filter.trace(event, Names::builtin()).remove(0).seen
    }

    /// What is not known might fit if it were; what is not there cannot.
    #[test]
    fn what_is_not_known_is_not_what_is_not_there() {
        let connect = |conn| samples::event(1, EventBody::Flow(Change::Connect(conn)));
        let known = connect(samples::outgoing());
        let owner = Actor::by(
            &samples::process(9, b"x", "/usr/bin/x", &[]),
            conn_common::hook::HookId::FentryTcpConnect,
        );
        let little = connect(ConnEvent { owner, ..samples::outgoing() });
        let nobody = connect(ConnEvent { owner: Actor::unknown(UnknownReason::Lost), ..samples::outgoing() });
        let exec = samples::event(1, EventBody::Exec(ProcEvent::new(samples::curl())));
        for (word, event, expected) in [
            ("container:x", &known, Seen::Nothing),
            ("exe_flag:writable", &known, Seen::Nothing),
            ("unit:x", &little, Seen::Unknown),
            ("exe_sha256:x", &little, Seen::Unknown),
            ("exe_flag:writable", &little, Seen::Unknown),
            ("exe_flag:memfd,deleted", &little, Seen::Nothing),
            ("proc:x", &nobody, Seen::Unknown),
            ("exe_flag:memfd", &nobody, Seen::Unknown),
            ("dport:1", &exec, Seen::Nothing),
            ("dir:in", &exec, Seen::Nothing),
        ] {
            assert_eq!(seen(word, event), expected, "{word}");
        }
    }
}
