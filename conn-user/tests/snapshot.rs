//! A snapshot of this machine against what the test did, and against what the kernel shows elsewhere. Needs root.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use conn_user::flow::born::BornBy;
use conn_user::flow::model::{Direction, Transport};
use conn_user::flow::snapshot::model::{NoHolder, Note, SnapSocket, Snapshot, TcpState};
use conn_user::flow::snapshot::{SnapshotOptions, take};
use conn_user::host::tcp_file::lines;
use conn_user::process::ProcessTable;
use conn_user::units::{NetNs, Pid};

use conn_tests::skip::skip;
use namespace::{alone, enter_new_namespace};
use states::{wait_for_state, wait_until};

mod namespace;
mod states;

fn snapshot() -> Snapshot {
    take(&SnapshotOptions::default()).expect("snapshot")
}

fn netns(thread: &str) -> NetNs {
    let stat = fs::metadata(format!("/proc/{thread}/ns/net")).expect("stat");
    NetNs(u32::try_from(stat.ino()).expect("32 bits"))
}

fn me() -> Pid {
    Pid(std::process::id())
}

fn fd(of: &impl std::os::fd::AsRawFd) -> u32 {
    of.as_raw_fd().cast_unsigned()
}

/// The one socket of our namespace with this local end, in this state.
fn one(all: &Snapshot, state: TcpState, local: SocketAddr, remote: Option<SocketAddr>) -> SnapSocket {
    let own = netns("thread-self");
    let found: Vec<_> = all
        .sockets
        .iter()
        .filter(|s| s.netns == own && s.state == state && s.local == local)
        .filter(|s| remote.is_none_or(|remote| s.remote == remote))
        .collect();
    assert_eq!(found.len(), 1, "{state:?} {local} {remote:?}: {found:?}");
    found[0].clone()
}

fn holders(socket: &SnapSocket) -> Vec<(Pid, u32)> {
    socket.holders.iter().map(|holder| (holder.pid, holder.fd)).collect()
}

fn cookie(of: &impl std::os::fd::AsRawFd) -> u64 {
    let mut cookie = 0_u64;
    let mut length = 8;
    // SAFETY: both are valid for writes of their size.
    let done = unsafe {
        let cookie = (&raw mut cookie).cast();
        libc::getsockopt(of.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, cookie, &raw mut length)
    };
    assert_eq!(done, 0, "SO_COOKIE");
    cookie
}

fn v6_listener(v6only: bool) -> TcpListener {
    // SAFETY: the descriptor is ours alone, the option's value is valid for reads of its size.
    unsafe {
        let fd = libc::socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "socket");
        let fd = OwnedFd::from_raw_fd(fd);
        let only = libc::c_int::from(v6only);
        let option = (&raw const only).cast();
        assert_eq!(libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, option, 4), 0);
        assert_eq!(libc::listen(fd.as_raw_fd(), 16), 0, "listen");
        TcpListener::from(fd)
    }
}

#[test]
fn listeners_and_both_ends() {
    let _alone = alone();
    let listeners = [
        TcpListener::bind("127.0.0.1:0").expect("v4"),
        TcpListener::bind("0.0.0.0:0").expect("v4 wildcard"),
        TcpListener::bind("[::1]:0").expect("v6"),
        v6_listener(false),
        v6_listener(true),
    ];
    for (at, listener) in listeners.iter().enumerate() {
        let local = listener.local_addr().expect("address");
        let port = local.port();
        let to: SocketAddr = match at {
            0 | 1 | 3 => (Ipv4Addr::LOCALHOST, port).into(),
            _ => format!("[::1]:{port}").parse().expect("address"),
        };
        let mut client = TcpStream::connect(to).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(&[1; 1000]).expect("write");
        server.read_exact(&mut [0; 1000]).expect("read");
        let from = client.local_addr().expect("address");
        let all = snapshot();

        let found = one(&all, TcpState::Listen, local, None);
        assert_eq!(holders(&found), [(me(), fd(listener))]);
        // The kernel makes a listener on a narrow IPv6 address so, too (`__inet6_bind`).
        let v6only = at == 2 || at == 4;
        assert_eq!((found.direction, found.v6only, found.traffic), (None, v6only, None), "{local}");
        assert_eq!(found.cookie, Some(cookie(listener)));
        assert!(found.born.is_some() && found.remote.ip().is_unspecified() && found.remote.port() == 0);

        let out = one(&all, TcpState::Established, from, Some(to));
        assert_eq!((holders(&out), out.direction), (vec![(me(), fd(&client))], Some(Direction::Out)));
        assert_eq!(out.cookie, Some(cookie(&client)));
        assert_eq!(out.traffic.map(|t| (t.bytes_out, t.bytes_in, t.retransmits)), Some((1000, 0, Some(0))));
        assert!(!out.mapped);

        let inward = one(&all, TcpState::Established, to, Some(from));
        assert_eq!((holders(&inward), inward.direction), (vec![(me(), fd(&server))], Some(Direction::In)));
        assert_eq!(inward.traffic.map(|t| (t.bytes_out, t.bytes_in)), Some((0, 1000)));
        assert_eq!(inward.mapped, at == 3, "{local}");
        assert_eq!((inward.transport, inward.no_holder), (Transport::Tcp, None));
    }
}

/// How long ago the kernel says that data were last sent, and received: `tcpi_last_data_sent` and `tcpi_last_data_recv`.
fn quiet(of: &TcpStream) -> (u32, u32) {
    let mut info = [0_u32; 26];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: both are valid for writes of their size.
    let done = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(of.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut length)
    };
    assert_eq!(done, 0, "TCP_INFO");
    (info[11], info[13])
}

/// Each bound lies on its side of what the test saw, and is as narrow as its source is.
#[test]
fn births() {
    let _alone = alone();
    let now = || conn_user::clock::boot_now();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let began = now();
    let mut client = TcpStream::connect(to).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let established = now();
    // More than the bounds allow for ticks that come late: what is later than that is no bound.
    let wait = |of: &TcpStream| {
        wait_until("no data for 250 ms", || {
            let (sent, received) = quiet(of);
            sent.min(received) > 250
        });
    };
    let from = client.local_addr().expect("address");
    let hold = |all: &Snapshot, local, remote, by| {
        let born = one(all, TcpState::Established, local, Some(remote)).born.expect("born");
        assert!(born.earliest().is_none_or(|earliest| earliest <= established), "{born:?} {established:?}");
        assert!(born.latest >= began, "{born:?} {began:?}");
        assert_eq!(born.latest_by, by, "{born:?}");
        born
    };
    wait(&client);
    wait(&server);
    let idle = snapshot();
    for (local, remote) in [(from, to), (to, from)] {
        let born = hold(&idle, local, remote, BornBy::NeverSent);
        // 100 ms either way, and the time that the kernel took to answer, however long that was.
        let most = 200_000_000 + idle.ended.since(idle.began).0;
        let earliest = born.earliest().expect("a bound");
        assert!(born.latest.since(earliest).0 <= most, "{born:?} {most}");
    }
    client.write_all(b"x").expect("write");
    (&server).read_exact(&mut [0]).expect("read");
    wait(&client);
    wait(&server);
    let spoken = snapshot();
    hold(&spoken, from, to, BornBy::NeverReceived);
    hold(&spoken, to, from, BornBy::NeverSent);
    (&server).write_all(b"y").expect("write");
    client.read_exact(&mut [0]).expect("read");
    wait(&client);
    hold(&snapshot(), from, to, BornBy::LastActivity);
}

#[test]
fn who_holds_nothing() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");

    let waiting = TcpStream::connect(to).expect("connect");
    let all = snapshot();
    let found = one(&all, TcpState::Established, to, Some(waiting.local_addr().expect("address")));
    assert_eq!((found.inode, found.no_holder), (0, Some(NoHolder::NotAccepted)));
    assert_eq!((found.direction, found.holders.len()), (Some(Direction::In), 0));
    assert_eq!(one(&all, TcpState::Listen, to, None).recv_queue, 1);
    drop(listener.accept().expect("accept"));

    let client = TcpStream::connect(to).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let from = client.local_addr().expect("address");
    drop(client);
    wait_for_state(from, to, TcpState::FinWait2 as u8);
    let all = snapshot();
    let orphan = one(&all, TcpState::FinWait2, from, Some(to));
    assert_eq!((orphan.no_holder, orphan.direction), (Some(NoHolder::Orphan), Some(Direction::Out)));
    let half = one(&all, TcpState::CloseWait, to, Some(from));
    assert_eq!(half.traffic.map(|traffic| traffic.bytes_in), Some(0), "a FIN is no payload");
    assert_eq!(holders(&half), [(me(), fd(&server))]);
    drop(server);
    wait_for_state(from, to, TcpState::TimeWait as u8);
    let all = snapshot();
    let left = one(&all, TcpState::TimeWait, from, Some(to));
    assert_eq!((left.no_holder, left.traffic), (Some(NoHolder::TimeWait), None));
}

/// A child process that does something after fork(2) and stays until it is dropped.
struct Child {
    pid: libc::pid_t,
    ready: u32,
}

impl Child {
    /// `act` returns a number for the parent.
    ///
    /// # Safety
    /// Other threads of the test may hold locks: `act` must make only system calls.
    unsafe fn fork(act: impl FnOnce() -> u32) -> Self {
        let mut pipe = [0; 2];
        // SAFETY: `pipe` is valid for writes; the child makes system calls only and never returns.
        unsafe {
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0, "pipe");
            let pid = libc::fork();
            assert!(pid >= 0, "fork");
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let number = act();
                libc::write(pipe[1], (&raw const number).cast(), 4);
                loop {
                    libc::pause();
                }
            }
            libc::close(pipe[1]);
            let mut ready = 0_u32;
            let got = libc::read(pipe[0], (&raw mut ready).cast(), 4);
            libc::close(pipe[0]);
            assert_eq!(got, 4, "the child says that it is ready");
            Self { pid, ready }
        }
    }

    fn pid(&self) -> Pid {
        Pid(self.pid.cast_unsigned())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn a_socket_that_two_processes_hold() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let client = TcpStream::connect(to).expect("connect");
    let from = client.local_addr().expect("address");
    std::thread::sleep(std::time::Duration::from_millis(50));
    // SAFETY: the child does nothing.
    let child = unsafe { Child::fork(|| 1) };
    let both = one(&snapshot(), TcpState::Established, from, Some(to));
    let mut expected = [(me(), fd(&client)), (child.pid(), fd(&client))];
    expected.sort_unstable();
    assert_eq!(holders(&both), expected);
    let mut table = ProcessTable::default();
    for holder in &both.holders {
        let info = table.seen(holder.pid, holder.start).expect("it runs");
        assert!(info.is(holder.pid, holder.start, true));
    }
    let mut client = Some(client);
    drop(client.take());
    // Only the child holds it, which began after the connection did.
    let inherited = one(&snapshot(), TcpState::Established, from, Some(to));
    assert_eq!(holders(&inherited).iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [child.pid()]);
    let born = inherited.born.expect("born");
    let start = inherited.holders[0].start;
    assert!(born.earliest().is_none_or(|earliest| earliest < start), "{born:?} {start:?}");
}

/// A listener and a connection in another network namespace, which a child made.
#[test]
fn another_network_namespace() {
    let _alone = alone();
    let own = netns("thread-self");
    // SAFETY: system calls only.
    let child = unsafe { Child::fork(listen_in_a_new_namespace) };
    assert_ne!(child.ready, 0, "the child has no namespace of its own");
    let port = u16::try_from(child.ready).expect("port");
    let there = netns(&child.pid().to_string());
    assert_ne!(there, own);
    let all = snapshot();
    let local: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    let found: Vec<_> = all.sockets.iter().filter(|socket| socket.netns == there).collect();
    let listener = found.iter().find(|socket| socket.state == TcpState::Listen).expect("listener");
    assert_eq!((listener.local.port(), holders(listener).len()), (port, 1));
    assert_eq!(holders(listener)[0].0, child.pid());
    let out = found.iter().find(|socket| socket.remote == local).expect("client");
    let inward = found.iter().find(|s| s.local == local && s.state != TcpState::Listen).expect("server");
    assert_eq!((out.direction, inward.direction), (Some(Direction::Out), Some(Direction::In)));
    assert_eq!(inward.no_holder, Some(NoHolder::NotAccepted));
    assert_eq!(netns("thread-self"), own, "the caller stays where it is");
}

/// Makes a network namespace, brings its loopback up, listens, connects; returns the port, 0 for a failure.
fn listen_in_a_new_namespace() -> u32 {
    // SAFETY: every pointer is to a local of the right size.
    unsafe {
        if !enter_new_namespace() {
            return 0;
        }
        let listener = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        let mut length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        if libc::listen(listener, 5) != 0
            || libc::getsockname(listener, (&raw mut address).cast(), &raw mut length) != 0
        {
            return 0;
        }
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let client = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        if libc::connect(client, (&raw const address).cast(), length) != 0 {
            return 0;
        }
        u16::from_be(address.sin_port).into()
    }
}

/// A namespace that only an open descriptor keeps.
#[test]
fn a_network_namespace_without_a_process() {
    let _alone = alone();
    let (there, kept, socket) = std::thread::spawn(|| {
        // SAFETY: only this thread moves, and it ends.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
        let kept = fs::File::open("/proc/thread-self/ns/net").expect("open");
        (netns("thread-self"), kept, TcpListener::bind("0.0.0.0:0").expect("bind"))
    })
    .join()
    .expect("thread");
    let all = snapshot();
    drop(kept);
    let found: Vec<_> = all.sockets.iter().filter(|socket| socket.netns == there).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(holders(found[0]), [(me(), fd(&socket))]);
}

/// Connections that are opened and reset during one snapshot. Few enough for the ring of an agent that another test runs:
/// without a bound they would be a storm, of which it may lose records.
const OTHERS: usize = 300;

/// Opens and resets so many connections.
fn churn(listener: &TcpListener) {
    let to = listener.local_addr().expect("address");
    for _ in 0..OTHERS {
        let client = TcpStream::connect(to).expect("connect");
        let server = listener.accept().expect("accept").0;
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the option's value is valid for reads of its size.
        let set = unsafe {
            let option = (&raw const linger).cast();
            let size = size_of_val(&linger) as libc::socklen_t;
            libc::setsockopt(client.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, option, size)
        };
        assert_eq!(set, 0, "SO_LINGER");
        drop((client, server));
    }
}

/// What lives during the whole snapshot is in it, with its direction, also right after accept and while others are opened
/// and reset in the same tables.
#[test]
fn what_lives_while_others_come_and_go() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let others = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut pairs = Vec::new();
    for _ in 0..10 {
        for _ in 0..20 {
            let client = TcpStream::connect(to).expect("connect");
            pairs.push((client, listener.accept().expect("accept").0));
        }
        let all = std::thread::scope(|scope| {
            let churn = scope.spawn(|| churn(&others));
            let all = snapshot();
            churn.join().expect("others came and went");
            all
        });
        for (client, server) in &pairs {
            let from = client.local_addr().expect("address");
            let out = one(&all, TcpState::Established, from, Some(to));
            assert_eq!((holders(&out), out.direction), (vec![(me(), fd(client))], Some(Direction::Out)));
            let inward = one(&all, TcpState::Established, to, Some(from));
            let held = (holders(&inward), inward.direction);
            assert_eq!(held, (vec![(me(), fd(server))], Some(Direction::In)));
        }
    }
}

fn mptcp_socket() -> std::io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 262) };
    // SAFETY: the descriptor is ours alone.
    let made = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
    made.ok_or_else(std::io::Error::last_os_error)
}

/// `None`: the kernel has no MPTCP, and the test is counted as skipped.
fn mptcp_listener() -> Option<TcpListener> {
    let listener = match mptcp_socket() {
        // `inet_create`: the protocol is not there; `mptcp_init_sock`: it is switched off (net.mptcp.enabled).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT)) => {
            skip(format!("this kernel has no MPTCP: {error}"));
            return None;
        }
        listener => listener.expect("a listener"),
    };
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 5) }, 0, "listen");
    Some(TcpListener::from(listener))
}

/// Connects an MPTCP socket to this port of 127.0.0.1.
fn mptcp_connect(port: u16) -> TcpStream {
    let client = mptcp_socket().expect("an MPTCP socket");
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    // SAFETY: `address` is valid for reads of its size.
    let connected =
        unsafe { libc::connect(client.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as _) };
    assert_eq!(connected, 0, "connect");
    TcpStream::from(client)
}

/// With and without a cookie of the listener, which the accepted sockets inherit: a tracer that looks at the listener,
/// or an earlier snapshot, gives it one.
#[test]
fn mptcp() {
    let _alone = alone();
    for asked_before in [false, true] {
        let Some(listener) = mptcp_listener() else { return };
        if asked_before {
            cookie(&listener);
        }
        let port = listener.local_addr().expect("address").port();
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
        let pairs = [0, 1, 2].map(|_| {
            let client = mptcp_connect(port);
            (client, listener.accept().expect("accept").0)
        });
        let all = snapshot();
        for (client, server) in &pairs {
            let from = client.local_addr().expect("address");
            let out = one(&all, TcpState::Established, from, Some(to));
            assert_eq!((out.transport, out.cookie), (Transport::Mptcp, Some(cookie(client))));
            assert_eq!((holders(&out), out.direction), (vec![(me(), fd(client))], Some(Direction::Out)));
            let inward = one(&all, TcpState::Established, to, Some(from));
            assert_eq!((inward.transport, inward.direction), (Transport::Mptcp, Some(Direction::In)));
            assert_eq!(holders(&inward), [(me(), fd(server))]);
        }
        let listens = one(&all, TcpState::Listen, (Ipv4Addr::UNSPECIFIED, port).into(), None);
        assert_eq!((listens.transport, holders(&listens)), (Transport::Mptcp, vec![(me(), fd(&listener))]));
    }
}

/// `/proc/net/tcp` shows the same sockets, in every state that can be made to stay.
#[test]
fn equals_proc_net_tcp() {
    type Key = (u8, SocketAddr, SocketAddr, u32, u32, u32);
    let _alone = alone();
    let listener = v6_listener(false);
    let port = listener.local_addr().expect("address").port();
    let mut kept = Vec::new();
    for at in 0..50 {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        server.write_all(b"hello").expect("write");
        match at % 4 {
            0 => server.shutdown(Shutdown::Write).expect("shutdown"),
            1 => drop((&client).read_exact(&mut [0; 5]).map(|()| client.shutdown(Shutdown::Both))),
            2 => continue,
            _ => {}
        }
        kept.push((client, server));
    }
    let waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    let read = || {
        let mut shown: Vec<Key> = Vec::new();
        for name in ["tcp", "tcp6"] {
            let file = fs::File::open(Path::new("/proc/thread-self/net").join(name)).expect("open");
            let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
            lines(file, |line| {
                let (local, remote) = (canonical(line.local), canonical(line.remote));
                let queues = (line.recv_queue, line.send_queue);
                shown.push((line.state, local, remote, line.inode, queues.0, queues.1));
                true
            })
            .expect("read");
        }
        shown.sort_unstable();
        shown
    };
    // Delayed acknowledgements are still on their way: what both ways show is compared where nothing changed between.
    let mut all = snapshot();
    let mut shown = read();
    wait_until("nothing changes while a snapshot is taken", || {
        let before = std::mem::take(&mut shown);
        all = snapshot();
        shown = read();
        before == shown
    });
    let own = netns("thread-self");
    let mut seen: Vec<Key> = all
        .sockets
        .iter()
        .filter(|socket| socket.netns == own)
        .map(|s| {
            // Of a listener the file does not report how many may wait.
            let send = if s.state == TcpState::Listen { 0 } else { s.send_queue };
            (s.state as u8, s.local, s.remote, s.inode, s.recv_queue, send)
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.len() > 2 * kept.len() + 2, "{}", seen.len());
    assert_eq!(seen, shown);
    drop(waiting);
}

/// What is left of ended connections is most of the sockets of a busy server, and nothing that the agent follows.
#[test]
fn without_what_is_left_of_ended_connections() {
    // A child that another test forks meanwhile would hold the sockets.
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("address");
    let client = TcpStream::connect(to).expect("connect");
    let (server, from) = listener.accept().expect("accept");
    // The side that closes first keeps TIME_WAIT.
    drop(client);
    drop(server);
    wait_for_state(from, to, TcpState::TimeWait as u8);
    let own = netns("thread-self");
    let states = |options: &SnapshotOptions| -> Vec<TcpState> {
        let all = take(options).expect("snapshot");
        let ours = |s: &&SnapSocket| s.netns == own && s.state != TcpState::Listen;
        all.sockets.iter().filter(ours).map(|socket| socket.state).collect()
    };
    assert_eq!(states(&SnapshotOptions::default()), [TcpState::TimeWait]);
    assert_eq!(states(&SnapshotOptions::living()), []);
}

#[test]
fn what_cannot_be_seen_is_said() {
    let _alone = alone();
    let all = snapshot();
    assert!(all.began < all.ended);
    // Some sandboxes hide the processes that run them even from root.
    for note in &all.notes {
        assert!(matches!(note, Note::HiddenProcesses { .. }), "{note}");
    }
    let missing = SnapshotOptions { proc: "/nonexistent".into(), ..SnapshotOptions::default() };
    assert!(take(&missing).is_err_and(|error| error.to_string().contains("/nonexistent")));
}
