//! A compiled word against an event.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::compile::{FAMILIES, ProcessNumber, ProcessText, Side, Test, Text, Word};
use super::view::{Socket, View};
use crate::event::model::EventKind;
use crate::event::names;
use crate::process::info::ProcessInfo;

impl Word {
    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        self.test.holds(view) != self.negated
    }
}

impl Test {
    fn holds(&self, view: &View<'_>) -> bool {
        let socket = |ask: &dyn Fn(&Socket) -> bool| view.socket.as_ref().is_some_and(ask);
        match self {
            Self::Process(which, ranges) => {
                processes(view, |process| which.of(process).is_some_and(|n| within(ranges, n)))
            }
            Self::ProcessText(which, texts) => processes(view, |process| which.fits(process, texts)),
            Self::Port(side, ranges) => socket(&|socket| {
                // Port 0 is a port that is not known.
                side.ends(socket)
                    .iter()
                    .flatten()
                    .any(|end| end.port() != 0 && within(ranges, end.port().into()))
            }),
            Self::Address(side, nets) => {
                socket(&|socket| side.ends(socket).iter().flatten().any(|end| contain(nets, *end)))
            }
            Self::Direction(all) => socket(&|socket| socket.direction.is_some_and(|own| all.contains(&own))),
            Self::Kind(all) => view.kind.is_some_and(|own| all.contains(&own)),
            Self::Transport(all) => socket(&|socket| all.contains(&socket.transport)),
            Self::Family(all) => {
                socket(&|socket| all.contains(&FAMILIES[usize::from(socket.local.is_ipv6())]))
            }
            Self::State(all) => socket(&|socket| socket.state.is_some_and(|own| all.contains(&own))),
            Self::Netns(ranges) => socket(&|socket| within(ranges, socket.netns.0)),
            Self::End(all) => view.end.is_some_and(|own| all.contains(&own)),
            Self::Errno { numbers, cancelled } => view.errno.is_some_and(|own| {
                within(numbers, own.into())
                    || (*cancelled && own == 0 && view.kind == Some(EventKind::Failed))
            }),
            Self::Source(all) => socket(&|socket| all.contains(&socket.source)),
            Self::Method(all) => socket(&|socket| all.contains(&names::method(socket.method))),
        }
    }
}

/// Owner or closer: a closed connection concerns both.
fn processes(view: &View<'_>, ask: impl Fn(&ProcessInfo) -> bool) -> bool {
    view.owner.is_some_and(&ask) || view.closer.is_some_and(&ask)
}

fn within(ranges: &[(u32, u32)], number: u32) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&number))
}

fn contain(nets: &[IpNet], end: SocketAddr) -> bool {
    nets.iter().any(|net| net.contains(&end.ip()))
}

impl ProcessNumber {
    fn of(self, process: &ProcessInfo) -> Option<u32> {
        match self {
            Self::Pid => Some(process.pid.0),
            Self::Ppid => process.ppid.map(|pid| pid.0),
            Self::Uid => Some(process.uid),
            Self::Gid => Some(process.gid),
        }
    }
}

impl ProcessText {
    fn fits(self, process: &ProcessInfo, texts: &[Text]) -> bool {
        let any = |bytes: &[u8]| texts.iter().any(|text| text.matches(bytes));
        match self {
            Self::Proc => {
                any(&process.comm)
                    || process
                        .exe
                        .as_deref()
                        .is_some_and(|exe| any(exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe)))
            }
            Self::Exe => process.exe.as_deref().is_some_and(any),
            Self::Arg => process.args.iter().any(|arg| any(arg)),
        }
    }
}

impl Side {
    fn ends(self, socket: &Socket) -> [Option<SocketAddr>; 2] {
        match self {
            Self::Either => [Some(socket.local), socket.remote],
            Self::Local => [Some(socket.local), None],
            Self::Remote => [socket.remote, None],
            Self::Initiator => [socket.initiator, None],
            Self::Responder => [socket.responder, None],
        }
    }
}
