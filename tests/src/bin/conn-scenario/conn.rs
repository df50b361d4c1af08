//! Connections and listeners that report what they do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::truth::{Dir, End, Ending, Fact, Kind, Line, SockFact, Via};

use crate::facts::{emit, netns};
use crate::sys::{self, AcceptBy, boot_ns, gettid};

/// 127.0.0.1.
pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long anything may take before the scenario gives up; tests under emulation are slow.
pub(crate) const PATIENCE_MS: i32 = 30_000;
/// The latest time of what a process cannot see any more.
const LATEST: u64 = u64::MAX / 2;

/// include/net/tcp_states.h
const TCP_CLOSE: u8 = 7;

/// Waits until the kernel has done something that no call waits for. What was sent need not have arrived yet,
/// not even over loopback: on a busy machine ksoftirqd takes it in later (`invoke_softirq`,
/// kernel/softirq.c).
fn wait_until(what: &str, mut is_done: impl FnMut() -> io::Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_millis(PATIENCE_MS.unsigned_abs().into());
    while !is_done().context("ask for the state of a socket")? {
        ensure!(Instant::now() < until, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Who does something; the default is the calling thread.
#[derive(Clone, Copy, Default)]
pub(crate) enum By {
    /// The calling thread.
    #[default]
    Me,
    /// This process, whichever thread of it.
    MyProcess,
    /// Another process, by its main thread.
    Process(u32),
    /// The network, or the kernel for nobody.
    Nobody,
}

impl By {
    fn ids(self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Me => (Some(std::process::id()), Some(gettid())),
            Self::MyProcess => (Some(std::process::id()), None),
            Self::Process(pid) => (Some(pid), Some(pid)),
            Self::Nobody => (None, None),
        }
    }
}

/// The fact of this kind about a socket; the caller sets what else is known.
pub(crate) fn fact(kind: Kind, dir: Option<Dir>, sock: &SockFact, by: By, from_ns: u64) -> Fact {
    let (pid, tid) = by.ids();
    Fact {
        kind,
        dir,
        sock: sock.clone(),
        pid,
        tid,
        from_ns,
        until_ns: boot_ns(),
        errno: 0,
        end: None,
        or: Vec::new(),
        bytes_in: None,
        bytes_out: None,
        via: Via::Syscall,
        early: false,
        begun_ns: None,
    }
}

/// An address as the agent shows it, and whether it was IPv4-mapped.
pub(crate) fn canonical(addr: SocketAddr) -> (SocketAddr, bool) {
    match addr.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => (SocketAddr::new(IpAddr::V4(v4), addr.port()), true),
            None => (addr, false),
        },
        IpAddr::V4(_) => (addr, false),
    }
}

/// The socket with these ends.
pub(crate) fn sock_fact(local: SocketAddr, remote: Option<SocketAddr>, mptcp: bool) -> Result<SockFact> {
    let (laddr, mapped) = canonical(local);
    Ok(SockFact {
        mptcp,
        kernel: false,
        mapped: mapped && remote.is_some(),
        netns: netns()?,
        device: None,
        laddr: laddr.ip(),
        lport: (laddr.port() != 0).then_some(laddr.port()),
        remote: remote.map(|r| canonical(r).0),
    })
}

/// The socket behind this descriptor, which has these ends.
fn sock_of(fd: &OwnedFd, local: SocketAddr, remote: Option<SocketAddr>, mptcp: bool) -> Result<SockFact> {
    Ok(SockFact { device: sys::device(fd)?, ..sock_fact(local, remote, mptcp)? })
}

/// The same connection seen from its other end; `mapped` is that of the other end's socket.
pub(crate) fn other_end(sock: &SockFact, mapped: bool) -> Result<SockFact> {
    let remote = sock.remote.context("a listener has no other end")?;
    let lport = sock.lport.context("the other end needs the port")?;
    Ok(SockFact {
        mapped,
        device: None,
        laddr: remote.ip(),
        lport: Some(remote.port()),
        remote: Some(SocketAddr::new(sock.laddr, lport)),
        ..sock.clone()
    })
}

/// Binds to a port that the kernel does not give away by itself (below `ip_local_port_range`), so that no stranger's
/// ephemeral port is ever taken for one of ours.
pub(crate) fn bind_quiet(fd: &OwnedFd, ip: IpAddr) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..500 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let seed = (u64::from(std::process::id()) ^ (boot_ns() >> 10)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let port = 20_000 + (((seed >> 40) as u16) % 12_000).wrapping_add(step) % 12_000;
        match sys::bind(fd, SocketAddr::new(ip, port)) {
            Ok(()) => return Ok(port),
            Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(e) => return Err(e).context("bind"),
        }
    }
    bail!("no free port from 20000 to 32000")
}

/// A port on which nobody listens: bound, so that nobody else takes it either.
pub(crate) struct ClosedPort {
    pub(crate) addr: SocketAddr,
    _fd: OwnedFd,
}

impl ClosedPort {
    pub(crate) fn new(ip: IpAddr) -> Result<Self> {
        let fd = sys::socket(ip.is_ipv6(), false, 0)?;
        let port = bind_quiet(&fd, ip)?;
        Ok(Self { addr: SocketAddr::new(ip, port), _fd: fd })
    }
}

/// A listening socket.
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    pub(crate) sock: SockFact,
    addr: SocketAddr,
    /// Between which two it began to listen, if that was before the agent.
    pub(crate) early: Option<(u64, u64)>,
}

impl Listener {
    /// Listens on a quiet port of `ip`.
    pub(crate) fn new(ip: IpAddr) -> Result<Self> {
        Self::with(ip, 128, 0, |_| Ok(()))
    }

    /// The same with a backlog, a protocol and options.
    pub(crate) fn with(
        ip: IpAddr,
        backlog: i32,
        protocol: i32,
        options: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<Self> {
        let fd = sys::socket(ip.is_ipv6(), false, protocol)?;
        options(&fd)?;
        bind_quiet(&fd, ip)?;
        Self::start(fd, backlog, Via::Syscall, protocol == sys::IPPROTO_MPTCP)
    }

    /// Calls `listen` on a prepared socket.
    pub(crate) fn start(fd: OwnedFd, backlog: i32, via: Via, mptcp: bool) -> Result<Self> {
        let from = boot_ns();
        sys::listen(&fd, backlog).context("listen")?;
        let addr = sys::local(&fd)?;
        let sock = sock_of(&fd, addr, None, mptcp)?;
        emit(&Line::Fact(Fact { via, ..fact(Kind::Listen, None, &sock, By::Me, from) }))?;
        Ok(Self { fd, sock, addr, early: None })
    }

    /// Listens without a word: the agent does not run yet.
    pub(crate) fn early(ip: IpAddr) -> Result<Self> {
        let from = boot_ns();
        let fd = sys::socket(ip.is_ipv6(), false, 0)?;
        bind_quiet(&fd, ip)?;
        sys::listen(&fd, 128)?;
        let addr = sys::local(&fd)?;
        let sock = sock_of(&fd, addr, None, false)?;
        Ok(Self { fd, sock, addr, early: Some((from, boot_ns())) })
    }

    /// Where a client reaches it.
    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    pub(crate) fn accept(&self) -> Result<Conn> {
        self.accept_by(AcceptBy::Accept4)
    }

    pub(crate) fn accept_by(&self, by: AcceptBy) -> Result<Conn> {
        let from = boot_ns();
        let fd = sys::accept(&self.fd, by).context("accept")?;
        Conn::accepted(fd, By::Me, from, Via::Syscall, self.sock.mptcp)
    }

    /// Waits until so many connections can be accepted.
    pub(crate) fn wait_for_queue(&self, length: u32) -> Result<()> {
        wait_until("a full accept queue", || Ok(sys::tcp_info(&self.fd)?.unacked >= length))
    }

    /// Closes it: this thread ends the listener.
    pub(crate) fn close(self) -> Result<()> {
        let from = boot_ns();
        drop(self.fd);
        let unlisten = fact(Kind::Unlisten, None, &self.sock, By::Me, from);
        emit(&Line::Fact(Fact { early: self.early.is_some(), begun_ns: self.early, ..unlisten }))
    }
}

/// One end of a connection.
pub(crate) struct Conn {
    pub(crate) fd: OwnedFd,
    pub(crate) sock: SockFact,
    pub(crate) dir: Dir,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// From when on its end can have come.
    pub(crate) since: u64,
    /// Between which two it was established, if that was before the agent.
    pub(crate) early: Option<(u64, u64)>,
}

impl Conn {
    /// A blocking connect.
    pub(crate) fn connect(to: SocketAddr) -> Result<Self> {
        Self::connect_on(sys::socket(to.is_ipv6(), false, 0)?, to, false)
    }

    /// A blocking connect of a prepared socket.
    pub(crate) fn connect_on(fd: OwnedFd, to: SocketAddr, mptcp: bool) -> Result<Self> {
        let from = boot_ns();
        sys::connect(&fd, to).context("connect")?;
        Self::connected(fd, By::Me, from, Via::Syscall, mptcp)
    }

    /// A non-blocking connect, waited for.
    pub(crate) fn connect_nonblocking(to: SocketAddr) -> Result<Self> {
        let fd = sys::socket(to.is_ipv6(), true, 0)?;
        let from = boot_ns();
        in_progress(sys::connect(&fd, to))?;
        sys::poll(&[fd.as_raw_fd()], libc::POLLOUT, PATIENCE_MS)?;
        let error = sys::socket_error(&fd)?;
        ensure!(error == 0, "non-blocking connect: errno {error}");
        Self::connected(fd, By::Me, from, Via::Syscall, false)
    }

    /// Reports that `fd` was connected and is established.
    pub(crate) fn connected(fd: OwnedFd, by: By, from: u64, via: Via, mptcp: bool) -> Result<Self> {
        let sock = sock_of(&fd, sys::local(&fd)?, Some(sys::peer(&fd)?), mptcp)?;
        emit(&Line::Fact(Fact { via, ..fact(Kind::Connect, Some(Dir::Out), &sock, by, from) }))?;
        emit(&Line::Fact(Fact { via, ..fact(Kind::Established, Some(Dir::Out), &sock, By::Nobody, from) }))?;
        Ok(Self { fd, sock, dir: Dir::Out, sent: 0, received: 0, since: from, early: None })
    }

    /// A connection of before the agent that was established since `from`: nothing is reported it but its end.
    pub(crate) fn early(fd: OwnedFd, dir: Dir, from: u64) -> Result<Self> {
        let now = boot_ns();
        let sock = sock_of(&fd, sys::local(&fd)?, Some(sys::peer(&fd)?), false)?;
        Ok(Self { fd, sock, dir, sent: 0, received: 0, since: now, early: Some((from, now)) })
    }

    /// Reports that `fd` was accepted.
    pub(crate) fn accepted(fd: OwnedFd, by: By, from: u64, via: Via, mptcp: bool) -> Result<Self> {
        let sock = sock_of(&fd, sys::local(&fd)?, Some(sys::peer(&fd)?), mptcp)?;
        emit(&Line::Fact(Fact { via, ..fact(Kind::Accept, Some(Dir::In), &sock, by, from) }))?;
        // What ends it may have come before it was accepted.
        Ok(Self { fd, sock, dir: Dir::In, sent: 0, received: 0, since: from, early: None })
    }

    pub(crate) fn send(&mut self, bytes: usize) -> Result<()> {
        sys::send_all(&self.fd, &vec![b'x'; bytes]).context("send")?;
        self.sent += bytes as u64;
        Ok(())
    }

    pub(crate) fn recv(&mut self, bytes: usize) -> Result<()> {
        let mut buffer = vec![0; bytes];
        let mut got = 0;
        while got < bytes {
            let n = sys::recv(&self.fd, &mut buffer[got..]).context("recv")?;
            ensure!(n > 0, "the peer closed after {got} of {bytes} bytes");
            got += n;
        }
        self.received += got as u64;
        Ok(())
    }

    /// Wants the peer's FIN.
    pub(crate) fn recv_end(&mut self) -> Result<()> {
        let n = sys::recv(&self.fd, &mut [0]).context("recv")?;
        ensure!(n == 0, "data where the end was due");
        Ok(())
    }

    /// Waits until the network has ended it, though its descriptor is open.
    pub(crate) fn wait_until_over(&self) -> Result<()> {
        wait_until("the end of a connection", || Ok(sys::tcp_info(&self.fd)?.state == TCP_CLOSE))
    }

    /// Wants the peer's FIN, and closes then.
    pub(crate) fn wait_for_end(mut self) -> Result<()> {
        self.recv_end()?;
        self.close(End::PeerFin)
    }

    /// Wants the peer's reset, and reports that it ended this side.
    pub(crate) fn recv_reset(&self, errno: i32) -> Result<()> {
        match sys::recv(&self.fd, &mut [0]) {
            Err(e) if e.raw_os_error() == Some(errno) => {
                self.ended(End::PeerReset, errno, By::Nobody, self.since)
            }
            other => bail!("wanted errno {errno}, got {other:?}"),
        }
    }

    /// Reports that it ended between `from` and now.
    pub(crate) fn ended(&self, end: End, errno: i32, by: By, from: u64) -> Result<()> {
        emit(&Line::Fact(Fact {
            errno,
            end: Some(end),
            bytes_in: counted(&self.sock, self.received),
            bytes_out: counted(&self.sock, self.sent),
            ..fact(Kind::Close, Some(self.dir), &self.sock, by, from)
        }))
    }

    /// Closes the descriptor, which ends the connection.
    pub(crate) fn close(self, end: End) -> Result<()> {
        let (from, summary) = self.close_silently();
        summary.ended(end, By::Me, from)
    }

    /// Closes the descriptor; when it was the last one, [`Summary::ended`] reports it.
    pub(crate) fn close_silently(self) -> (u64, Summary) {
        let from = boot_ns();
        drop(self.fd);
        let (sent, received, early) = (self.sent, self.received, self.early);
        (from, Summary { sock: self.sock, dir: self.dir, sent, received, early })
    }
}

/// What remains to be reported a connection whose descriptor is gone or elsewhere.
pub(crate) struct Summary {
    pub(crate) sock: SockFact,
    pub(crate) dir: Dir,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) early: Option<(u64, u64)>,
}

impl Summary {
    /// Of a connection that is open.
    pub(crate) fn of(conn: &Conn) -> Self {
        let Conn { sent, received, early, dir, .. } = *conn;
        Self { sock: conn.sock.clone(), dir, sent, received, early }
    }

    /// Says how it will end by this process, at some time from now on, or how else.
    pub(crate) fn will_end(&self, end: End, or: &[Ending]) -> Result<()> {
        let or = or.to_vec();
        emit(&Line::Fact(Fact { until_ns: LATEST, or, ..self.close_fact(end, By::Me, boot_ns()) }))
    }

    /// Says that this process closed it between `from` and now, or how else it ended.
    pub(crate) fn ended_or(&self, end: End, or: &[Ending], from: u64) -> Result<()> {
        emit(&Line::Fact(Fact { or: or.to_vec(), ..self.close_fact(end, By::Me, from) }))
    }

    /// Reports that it was closed between `from` and now.
    pub(crate) fn ended(&self, end: End, by: By, from: u64) -> Result<()> {
        emit(&Line::Fact(self.close_fact(end, by, from)))
    }

    fn close_fact(&self, end: End, by: By, from: u64) -> Fact {
        Fact {
            end: Some(end),
            bytes_in: counted(&self.sock, self.received),
            bytes_out: counted(&self.sock, self.sent),
            early: self.early.is_some(),
            begun_ns: self.early,
            ..fact(Kind::Close, Some(self.dir), &self.sock, by, from)
        }
    }
}

/// What the kernel counts of so many bytes: those of MPTCP only from 6.5 on.
fn counted(sock: &SockFact, bytes: u64) -> Option<u64> {
    (!sock.mptcp || *sys::COUNTS_MPTCP).then_some(bytes)
}

/// Reports a connect to `to` that failed with `errno` (0: cancelled by `by`).
pub(crate) fn failed(sock: &SockFact, errno: i32, by: By, from: u64, failed_from: u64) -> Result<()> {
    let connect = fact(Kind::Connect, Some(Dir::Out), sock, By::Me, from);
    emit(&Line::Fact(connect))?;
    emit(&Line::Fact(Fact { errno, ..fact(Kind::Failed, Some(Dir::Out), sock, by, failed_from) }))
}

/// The socket of a connect whose own port is not known (any more).
pub(crate) fn portless(local: IpAddr, to: SocketAddr) -> Result<SockFact> {
    sock_fact(SocketAddr::new(local, 0), Some(to), false)
}

/// Turns EINPROGRESS into success.
pub(crate) fn in_progress(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.context("non-blocking connect"),
    }
}
