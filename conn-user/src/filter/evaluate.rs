//! A compiled word against an event.

use std::net::SocketAddr;

use super::compile::{FAMILIES, FLAGS, ProcessNumber, ProcessText, Side, Test, Word};
use super::fields::{self, Role};
use super::values::Texts;
use super::view::{Socket, View};
use crate::event::model::EventKind;
use crate::event::names::{self, ExeFlag};
use crate::flow::model::Method;
use crate::process::identity::{Sha256, Tty};
use crate::process::info::ProcessInfo;
use crate::process::lineage::Ancestor;
use crate::process::placement::Container;
use crate::process::{applet, script};

impl Word {
    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        self.test.holds(view) != self.negated
    }
}

impl Word {
    /// Whether it holds, or may once what is found out in the background is known.
    pub(super) fn may_yet_hold(&self, view: &View<'_>) -> bool {
        self.holds(view) || self.test.is_pending(view)
    }
}

impl Test {
    /// Whether it looks at a fact that is found out in the background and is not known yet.
    fn is_pending(&self, view: &View<'_>) -> bool {
        processes(view, |process| {
            let identity = &process.identity;
            match self {
                Self::ExeFlag(all) => all.iter().any(|flag| match flag {
                    // Whether it was deleted is looked at with where the file lies.
                    ExeFlag::Writable | ExeFlag::UserWritable | ExeFlag::Deleted => identity.exe().is_none(),
                    ExeFlag::Host | ExeFlag::Foreign => identity.exe_is_host().is_none(),
                    ExeFlag::Memfd | ExeFlag::Conn => false,
                }),
                Self::ProcessText(ProcessText::Proc, _) => !identity.copy_of_settled() && !process.kernel,
                Self::ProcessText(ProcessText::ExeSha256, _) => !identity.sha256_settled(),
                Self::ProcessText(ProcessText::ExeFs | ProcessText::ExeMount, _) => identity.exe().is_none(),
                Self::ProcessText(ProcessText::Script, _) => script::is_pending(process),
                Self::ProcessText(ProcessText::Cwd | ProcessText::Tty, _)
                | Self::Process(ProcessNumber::Netns, _) => identity.state().is_none(),
                _ => false,
            }
        })
    }

    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        let socket = |ask: &dyn Fn(&Socket) -> bool| view.socket.as_ref().is_some_and(ask);
        match self {
            Self::Process(which, ranges) => {
                processes(view, |process| which.of(process).is_some_and(|number| ranges.contains(number)))
            }
            Self::ProcessText(which, texts) => {
                processes(view, |process| which.fits(process, texts))
                    || (matches!(which, ProcessText::Unit)
                        && view.socket_unit.is_some_and(|unit| texts.matches(unit.as_bytes())))
            }
            Self::ExeFlag(all) => processes(view, |process| all.iter().any(|flag| is_so(*flag, process))),
            Self::Runtime(all) => processes(view, |process| {
                container(process)
                    .and_then(|container| container.runtime)
                    .is_some_and(|own| all.contains(&own))
            }),
            Self::Port(side, ranges) => socket(&|socket| {
                // Port 0 is a port that is not known.
                side.ends(socket)
                    .iter()
                    .flatten()
                    .any(|end| end.port() != 0 && ranges.contains(end.port().into()))
            }),
            Self::Address(side, nets) => {
                let device = || fields::device(view);
                let is_in = |end: &SocketAddr| nets.contains(end.ip(), device);
                socket(&|socket| side.ends(socket).iter().flatten().any(is_in))
            }
            Self::Direction(all) => socket(&|socket| socket.direction.is_some_and(|own| all.contains(&own))),
            Self::Kind(all) => view.kind.is_some_and(|own| all.contains(&own)),
            Self::Transport(all) => socket(&|socket| all.contains(&socket.transport)),
            Self::Family(all) => {
                socket(&|socket| all.contains(&FAMILIES[usize::from(socket.local.is_ipv6())]))
            }
            Self::State(all) => socket(&|socket| socket.state.is_some_and(|own| all.contains(&own))),
            Self::Netns(ranges) => socket(&|socket| ranges.contains(socket.netns.0.into())),
            Self::End(all) => view.end.is_some_and(|own| all.contains(&own)),
            Self::Errno { numbers, cancelled } => view.errno.is_some_and(|own| {
                numbers.contains(own.into())
                    || (*cancelled && own == 0 && view.kind == Some(EventKind::Failed))
            }),
            Self::Source(all) => socket(&|socket| all.contains(&socket.source)),
            Self::Method(role, all) => {
                role.method(view).is_some_and(|method| all.contains(&names::method(method)))
            }
            Self::Reason(role, all) => role.reason(view).is_some_and(|reason| all.contains(&reason)),
            Self::Named(role, texts) => role
                .of(view)
                .and_then(|actor| actor.process.as_deref())
                .is_some_and(|process| is_named(&process.comm, process.exe.as_deref(), texts)),
            Self::ProcessSource(all) => processes(view, |process| all.contains(&process.source)),
            Self::AncestorPid(ranges) => processes(view, |process| {
                process.ancestors.iter().any(|ancestor| ranges.contains(ancestor.pid.0.into()))
            }),
            Self::Tid(ranges) => {
                let tid = |role: Role| role.of(view).and_then(|actor| actor.tid);
                [Role::Owner, Role::Closer]
                    .into_iter()
                    .filter_map(tid)
                    .any(|tid| ranges.contains(tid.0.into()))
            }
            Self::Hook(texts) => {
                let named = |role: Role| match role.method(view) {
                    Some(Method::Hook(hook)) => Some(hook),
                    _ => None,
                };
                [named(Role::Owner), named(Role::Closer), fields::gap(view).map(|gap| gap.hook)]
                    .into_iter()
                    .flatten()
                    .any(|hook| texts.matches(hook.label().as_bytes()))
            }
            Self::SocketUnit(texts) => view.socket_unit.is_some_and(|unit| texts.matches(unit.as_bytes())),
            Self::Device(texts) => fields::device(view).is_some_and(|name| texts.matches(name.as_bytes())),
            Self::CommunityId(texts) => fields::community_id(view).is_some_and(|id| texts.matches(&id)),
            Self::Cause(all) => fields::gap(view).is_some_and(|gap| all.contains(&gap.cause)),
            // What is only perhaps so old does not hold.
            Self::Age(ranges) => fields::age(view).is_some_and(|(low, high)| ranges.contains_all(low, high)),
            Self::Amount(amount, ranges) => amount.of(view).is_some_and(|amount| ranges.contains(amount)),
            Self::Flag(flag, all) => {
                let asked = |is: bool| all.contains(&FLAGS[usize::from(is)]);
                flag.of(view).is_some_and(asked)
                    || processes(view, |process| flag.of_process(process).is_some_and(asked))
            }
        }
    }
}

/// Owner or closer: a closed connection concerns both.
fn processes(view: &View<'_>, ask: impl Fn(&ProcessInfo) -> bool) -> bool {
    view.owner.is_some_and(&ask) || view.closer.is_some_and(&ask)
}

impl ProcessNumber {
    pub(super) fn of(self, process: &ProcessInfo) -> Option<u64> {
        match self {
            Self::Pid => Some(process.pid.0.into()),
            Self::Ppid => process.ppid.map(|pid| pid.0.into()),
            Self::Uid => Some(process.uid.into()),
            Self::Gid => Some(process.gid.into()),
            Self::LoginUid => process.login_uid.map(u64::from),
            // 0: not known.
            Self::CgroupId => Some(process.cgroup_id).filter(|id| *id != 0),
            Self::MntNs => process.mount_ns.map(|mount_ns| mount_ns.id.0.into()),
            Self::Netns => process.identity.state()?.netns.map(|netns| netns.0.into()),
        }
    }
}

impl ProcessText {
    fn fits(self, process: &ProcessInfo, texts: &Texts) -> bool {
        let any = |bytes: &[u8]| texts.matches(bytes);
        let state = || process.identity.state();
        let place = || process.placement.as_deref();
        let known = |bytes: Option<&[u8]>| bytes.is_some_and(any);
        let named = |ancestor: &Ancestor| is_named(&ancestor.comm, ancestor.exe.as_deref(), texts);
        let file = || process.identity.exe();
        match self {
            Self::Proc => {
                any(&process.comm)
                    || process.exe.as_deref().map(base_name).is_some_and(any)
                    || process.identity.copy_of().is_some_and(|name| any(name.as_bytes()))
                    || applet::name(process).is_some_and(any)
            }
            Self::Comm => any(&process.comm),
            Self::Exe => known(process.exe.as_deref()),
            Self::ExeFs => known(file().and_then(|file| file.fs.as_deref())),
            Self::ExeMount => known(file().and_then(|file| file.mount.as_deref())),
            Self::Arg => process.args.iter().any(|arg| any(arg)),
            Self::Script => script::path(process).is_some_and(|path| any(&path)),
            Self::InlineCode => script::code(process).is_some_and(any),
            Self::ExeSha256 => process.identity.sha256().is_some_and(|hash| any(&hexadecimal(hash))),
            Self::Cwd => known(state().and_then(|state| state.cwd.as_deref())),
            Self::Tty => match state().map(|state| &state.tty) {
                Some(Tty::Named(name)) => any(name.as_bytes()),
                _ => false,
            },
            Self::User => known(process.user.as_deref()),
            Self::Parent => process.ancestors.first().is_some_and(named),
            Self::Ancestor => process.ancestors.iter().any(named),
            Self::Unit => {
                place().is_some_and(|place| known(place.unit.as_deref()) || known(place.user_unit.as_deref()))
            }
            Self::UserUnit => known(place().and_then(|place| place.user_unit.as_deref())),
            Self::Slice => known(place().and_then(|place| place.slice.as_deref())),
            Self::Cgroup => known(place().map(|place| &*place.cgroup)),
            Self::Container => container(process).is_some_and(|container| {
                any(&container.id) || texts.exact().iter().any(|text| shortens(text, container))
            }),
            Self::Pod => known(container(process).and_then(|container| container.pod.as_deref())),
        }
    }
}

pub(super) fn container(process: &ProcessInfo) -> Option<&Container> {
    process.placement.as_ref()?.container.as_ref()
}

/// The comm, unless it poses as a path: an exec takes the last part of the path, and only a process itself chooses another one
/// (`PR_SET_NAME`). Of kernel threads it is all that there is.
pub(super) fn credible<'a>(comm: &'a [u8], exe: Option<&[u8]>) -> Option<&'a [u8]> {
    Some(comm).filter(|comm| exe.is_none() || !comm.contains(&b'/'))
}

/// Whether a process has such a name: its comm, its exe, or the last part of that.
fn is_named(comm: &[u8], exe: Option<&[u8]>, texts: &Texts) -> bool {
    credible(comm, exe).is_some_and(|comm| texts.matches(comm))
        || exe.is_some_and(|exe| texts.matches(exe) || texts.matches(base_name(exe)))
}

/// The last component of a path.
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether the text is the beginning of a long id, as `docker ps` and others show it.
pub(super) fn shortens(text: &[u8], container: &Container) -> bool {
    let short = container.short_id();
    short.len() < container.id.len() && text.starts_with(short) && container.id.starts_with(text)
}

pub(super) fn hexadecimal(hash: &Sha256) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[usize::from(hash[at / 2] >> (4 * (1 - at % 2)) & 15)])
}

pub(super) fn is_so(flag: ExeFlag, process: &ProcessInfo) -> bool {
    match flag {
        ExeFlag::Deleted => process.exe_is_deleted(),
        ExeFlag::Memfd => process.exe_is_memfd(),
        ExeFlag::Conn => process.exe_is_conn,
        ExeFlag::Writable => process.identity.exe().and_then(|file| file.writable).unwrap_or(false),
        ExeFlag::UserWritable => process.identity.exe().and_then(|file| file.user_writable).unwrap_or(false),
        ExeFlag::Host => process.identity.exe_is_host() == Some(true),
        ExeFlag::Foreign => process.identity.exe_is_host() == Some(false),
    }
}

impl Side {
    pub(super) fn ends(self, socket: &Socket) -> [Option<SocketAddr>; 2] {
        match self {
            Self::Either => [Some(socket.local), socket.remote],
            Self::Local => [Some(socket.local), None],
            Self::Remote => [socket.remote, None],
            Self::Initiator => [socket.initiator, None],
            Self::Responder => [socket.responder, None],
        }
    }
}
