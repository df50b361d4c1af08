//! Builders of socket records as the backends write them, and events as short text.

use std::net::{IpAddr, SocketAddr};

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{
    Counters, EstablishedRecord, RecordHeader, Sock, SockEndRecord, SockFlags, SockRecord, Task,
};

use super::how::state;
use super::limits::FlowLimits;
use super::model::{Actor, Change, ConnEvent, FlowEvent, Method, Source};
use super::resolve::{DeviceQuery, NoResolver, PortQuery, PortResolver};
use super::table::FlowTable;
use crate::host::interfaces::Device;
use crate::process::ProcessTable;
use crate::process::testing::{FakeProc, exec_record, task};
use crate::units::{BootNs, NetNs, Pid};

pub(crate) const MS: u64 = 1_000_000;

/// Which programs write the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Fentry,
    Tracepoint,
}

/// Both ends of a socket: key, local, remote.
pub(crate) fn sock(key: u64, local: &str, remote: &str) -> Sock {
    let local: SocketAddr = local.parse().expect("local");
    let remote: SocketAddr = remote.parse().expect("remote");
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    };
    Sock {
        key,
        laddr: bytes(local.ip()),
        raddr: bytes(remote.ip()),
        netns: 1,
        lport: local.port(),
        rport: remote.port(),
        family: if local.is_ipv6() { 10 } else { 2 },
        ..Sock::default()
    }
}

/// A process by its number; it was executed as `/bin/p<pid>`.
pub(crate) fn who(pid: u32) -> Task {
    task(pid, u64::from(pid) * 1000 * MS, &format!("p{pid}"))
}

/// The tables, a clock that moves 1 ms a record, and what was reported.
pub(crate) struct Rig {
    pub(crate) backend: Backend,
    pub(crate) flows: FlowTable,
    pub(crate) procs: ProcessTable,
    pub(crate) now: u64,
    pub(crate) out: Vec<FlowEvent>,
}

impl Rig {
    pub(crate) fn new(backend: Backend) -> Self {
        Self::with(backend, FlowLimits::default())
    }

    pub(crate) fn with(backend: Backend, limits: FlowLimits) -> Self {
        let mut procs = FakeProc::default().table();
        for pid in 10..30 {
            procs.on_exec(&exec_record(pid, u64::from(pid) * 1000 * MS, &format!("/bin/p{pid}")), b"");
        }
        Self { backend, flows: FlowTable::new(limits), procs, now: 100_000 * MS, out: Vec::new() }
    }

    pub(crate) fn header(&mut self, hook: HookId) -> RecordHeader {
        self.now += MS;
        RecordHeader { hook: hook as u16, boot_ns: self.now, ..RecordHeader::default() }
    }

    pub(crate) fn feed(&mut self, record: &Record<'_>) {
        self.flows.on_record(record, &mut self.procs, &mut self.out);
    }

    fn hook(&self, fentry: HookId, tracepoint: HookId) -> HookId {
        if self.backend == Backend::Fentry { fentry } else { tracepoint }
    }

    pub(crate) fn sock_record(&mut self, hook: HookId, task: Task, sock: Sock) -> SockRecord {
        SockRecord { header: self.header(hook), task, sock }
    }

    pub(crate) fn listens(&mut self, pid: u32, sock: Sock) {
        let hook = self.hook(HookId::FexitListenStart, HookId::State);
        let sock = Sock { old_state: state::CLOSE, new_state: state::LISTEN, ..sock };
        let record = self.sock_record(hook, who(pid), sock);
        self.feed(&Record::Listen(record));
    }

    pub(crate) fn unlistens(&mut self, pid: u32, sock: Sock) {
        let sock = Sock { old_state: state::LISTEN, new_state: state::CLOSE, ..sock };
        let record = self.sock_record(HookId::State, who(pid), sock);
        self.feed(&Record::Unlisten(record));
    }

    pub(crate) fn connects(&mut self, pid: u32, sock: Sock) {
        let record = if self.backend == Backend::Fentry && sock.flags & SockFlags::MPTCP == 0 {
            let sock = Sock { old_state: state::SYN_SENT, new_state: state::SYN_SENT, ..sock };
            self.sock_record(HookId::FentryTcpConnect, who(pid), sock)
        } else {
            let flags = sock.flags | SockFlags::PORT_PENDING;
            let sock = Sock { old_state: state::CLOSE, new_state: state::SYN_SENT, lport: 0, flags, ..sock };
            self.sock_record(HookId::State, who(pid), sock)
        };
        self.feed(&Record::Connect(record));
    }

    pub(crate) fn established(&mut self, old_state: u8, sock: Sock) {
        let sock = Sock { old_state, new_state: state::ESTABLISHED, ..sock };
        let header = self.header(HookId::State);
        self.feed(&Record::Established(EstablishedRecord { header, sock }));
    }

    pub(crate) fn accepts(&mut self, pid: u32, sock: Sock) {
        self.accepts_in(pid, state::ESTABLISHED, sock);
    }

    pub(crate) fn accepts_in(&mut self, pid: u32, state: u8, sock: Sock) {
        let hook = self.hook(HookId::FentryInetAccept, HookId::SysExitAccept4);
        let record = self.sock_record(hook, who(pid), Sock { old_state: state, new_state: state, ..sock });
        self.feed(&Record::Accept(record));
    }

    /// A close in this state, by the last holder of the file.
    pub(crate) fn closes(&mut self, pid: u32, old: u8, sock: Sock) {
        let reset = sock.flags & (SockFlags::LINGER_ZERO | SockFlags::UNREAD) != 0;
        let (hook, new) = if self.backend == Backend::Fentry {
            (HookId::FentryTcpClose, old)
        } else {
            let new = match old {
                _ if reset => state::CLOSE,
                state::ESTABLISHED | state::SYN_RECV => state::FIN_WAIT1,
                state::CLOSE_WAIT => state::LAST_ACK,
                same => same,
            };
            (HookId::State, new)
        };
        let flags = sock.flags | SockFlags::HAS_SOCKET | SockFlags::IN_CLOSE | SockFlags::COUNTERS;
        let sock = Sock { old_state: old, new_state: new, flags, ..sock };
        let record =
            SockEndRecord { header: self.header(hook), task: who(pid), sock, counters: Counters::default() };
        self.feed(&Record::Close(record));
    }

    /// A transition to CLOSE while this process runs.
    pub(crate) fn ends(&mut self, pid: u32, old: u8, err: u16, shutdown: u8, sock: Sock) {
        let sock = Sock { old_state: old, new_state: state::CLOSE, err, shutdown, ..sock };
        let header = self.header(HookId::State);
        self.feed(&Record::End(SockEndRecord {
            header,
            task: who(pid),
            sock,
            counters: Counters::default(),
        }));
    }

    /// Lets time pass, without a resolver.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.wait_with(ms, &mut NoResolver);
    }

    pub(crate) fn wait_with(&mut self, ms: u64, resolver: &mut dyn PortResolver) {
        self.now += ms * MS;
        self.flows.poll_pending(BootNs(self.now), resolver, &mut self.out);
    }

    /// What was reported since the last call.
    pub(crate) fn reported(&mut self) -> Vec<String> {
        self.out.drain(..).map(|event| text(&event)).collect()
    }
}

/// With a file, for [`Rig::ends`].
pub(crate) fn held(sock: Sock) -> Sock {
    Sock { flags: sock.flags | SockFlags::HAS_SOCKET, ..sock }
}

/// Answers every query with this address, and remembers the queries.
pub(crate) struct Always(pub(crate) Option<SocketAddr>, pub(crate) Vec<Vec<PortQuery>>);

impl PortResolver for Always {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
        self.1.push(queries.to_vec());
        vec![self.0; queries.len()]
    }
}

/// Names every interface, and remembers the queries; `None`: it cannot.
#[derive(Default)]
pub(crate) struct Names(pub(crate) Option<&'static str>, pub(crate) Vec<Vec<DeviceQuery>>);

impl PortResolver for Names {
    fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
        vec![None; queries.len()]
    }

    fn devices(&mut self, queries: &[DeviceQuery]) -> Vec<Option<Device>> {
        self.1.push(queries.to_vec());
        vec![self.0.map(Device::new); queries.len()]
    }
}

fn actor(actor: &Actor) -> String {
    let pid = actor.process.as_ref().map_or("?".to_owned(), |process| process.pid.to_string());
    match actor.method {
        Method::Hook(_) => pid,
        other => format!("{pid}({other:?})"),
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Live => "",
        Source::Late => " late",
        Source::Snapshot => " snapshot",
        Source::Resync => " resync",
    }
}

fn ends(conn: &ConnEvent) -> String {
    let mut text = format!("{} {:?} {}>{}", conn.id.0, conn.direction, conn.local, conn.remote);
    if let Some(device) = &conn.device {
        text = text + "%" + device.name();
    }
    if conn.mapped {
        text += " mapped";
    }
    text += source(conn.source);
    text + kernel(conn.kernel_socket)
}

fn kernel(kernel_socket: bool) -> &'static str {
    if kernel_socket { " kernel" } else { "" }
}

/// An event in one line. A process is its number; how it is known follows where no hook named it.
pub(crate) fn text(event: &FlowEvent) -> String {
    match &event.change {
        Change::Connect(conn) => format!("connect {} by {}", ends(conn), actor(&conn.owner)),
        Change::Accept(conn) => {
            let listener = conn.listener.as_ref().map_or(String::new(), |by| format!(" of {}", actor(by)));
            format!("accept {} by {}{listener}", ends(conn), actor(&conn.owner))
        }
        Change::Established(conn) => format!("established {} by {}", ends(conn), actor(&conn.owner)),
        Change::Failed(conn, failure) => {
            format!("failed {} by {} errno {}", ends(conn), actor(&conn.owner), failure.errno)
        }
        Change::Close(conn, end) => {
            let errno = if end.errno == 0 { String::new() } else { format!(" errno {}", end.errno) };
            let (owner, closer) = (actor(&conn.owner), actor(&end.closer));
            format!("close {} by {owner} {:?}{errno} closer {closer}", ends(conn), end.how)
        }
        Change::Listen(event) => format!(
            "listen {} {}{} by {}",
            event.id.0,
            event.local,
            kernel(event.kernel_socket),
            actor(&event.owner)
        ),
        Change::Unlisten(event, end) => format!(
            "unlisten {} {}{} by {} closer {}{}",
            event.id.0,
            event.local,
            kernel(event.kernel_socket),
            actor(&event.owner),
            actor(&end.closer),
            source(event.source),
        ),
    }
}

/// A question for a port of which nothing else is known.
pub(crate) fn port_query() -> PortQuery {
    PortQuery { pid: Pid(10), netns: NetNs(1), cookie: 0, inode: 0, v6: false, local: None, remote: None }
}
