//! The system calls of the workload, as thin as can be: no resolver, no runtime, nothing that hides a call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use conn_tests::clock::boot_now;
use libc::{c_int, c_void, socklen_t};

/// `IPPROTO_MPTCP` (include/uapi/linux/in.h).
pub(crate) const IPPROTO_MPTCP: c_int = 262;

/// `SOL_MPTCP` (include/linux/socket.h) and `MPTCP_INFO` (include/uapi/linux/mptcp.h).
const SOL_MPTCP: c_int = 284;
const MPTCP_INFO: c_int = 1;
/// The end of `mptcpi_bytes_received` in `struct mptcp_info`.
const WITH_COUNTERS: usize = 72;

/// Whether this kernel counts the bytes of MPTCP connections: from 6.5 on.
pub(crate) static COUNTS_MPTCP: LazyLock<bool> = LazyLock::new(|| {
    let Ok(fd) = socket(false, false, IPPROTO_MPTCP) else { return false };
    let mut info = [0_u8; 256];
    let mut len = info.len() as socklen_t;
    let out = info.as_mut_ptr().cast::<c_void>();
    // SAFETY: `out` has room for `len` bytes.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, out, &raw mut len) };
    got == 0 && len as usize >= WITH_COUNTERS
});

/// The result of a call that answers -1 on error.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// By how many seconds this process's time namespace shifts its boot clock.
static BOOT_SHIFT_S: AtomicU64 = AtomicU64::new(0);

/// From now on this process and what it forks are in a time namespace that shifts the boot clock by so much.
pub(crate) fn shift_boot_clock(seconds: u64) {
    BOOT_SHIFT_S.store(seconds, Ordering::Relaxed);
}

/// By how many seconds this process's boot clock, and the start times that it reads in /proc
/// (`timens_add_boottime_ns`), are ahead of the machine's.
pub(crate) fn boot_shift_s() -> u64 {
    BOOT_SHIFT_S.load(Ordering::Relaxed)
}

/// The machine's `CLOCK_BOOTTIME` in nanoseconds, the clock of the agent's `boot_ns`.
pub(crate) fn boot_ns() -> u64 {
    boot_now() - boot_shift_s() * 1_000_000_000
}

/// This thread's id.
pub(crate) fn gettid() -> u32 {
    // SAFETY: gettid has no arguments and cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    u32::try_from(tid).unwrap_or(0)
}

/// fork(2) of a child with this id, which must be free: a reused one.
pub(crate) fn fork_as(pid: u32) -> io::Result<c_int> {
    let set_tid = [pid];
    // SAFETY: clone_args is plain data, for which all zeroes is a value.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = set_tid.as_ptr() as u64;
    args.set_tid_size = 1;
    // SAFETY: without CLONE_VM the child has memory of its own; `set_tid` outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    check(c_int::try_from(result).unwrap_or(-1))
}

/// A stream socket for this family.
pub(crate) fn socket(v6: bool, nonblocking: bool, protocol: c_int) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An address as the kernel wants it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddr {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: socklen_t,
}

impl RawAddr {
    /// Room for any address.
    fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain data, for which all zeroes is a value.
        Self { storage: unsafe { zeroed() }, len: size_of::<libc::sockaddr_storage>() as socklen_t }
    }

    /// `AF_UNSPEC`: dissolves a connection.
    pub(crate) fn unspec() -> Self {
        Self { len: size_of::<libc::sockaddr_in>() as socklen_t, ..Self::empty() }
    }

    pub(crate) fn new(addr: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match addr {
            SocketAddr::V4(a) => {
                let sin = (&raw mut raw.storage).cast::<libc::sockaddr_in>();
                // SAFETY: sockaddr_storage is large enough and aligned for every sockaddr type.
                let sin = unsafe { &mut *sin };
                sin.sin_family = libc::AF_INET as u16;
                sin.sin_port = a.port().to_be();
                sin.sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
                raw.len = size_of::<libc::sockaddr_in>() as socklen_t;
            }
            SocketAddr::V6(a) => {
                let sin6 = (&raw mut raw.storage).cast::<libc::sockaddr_in6>();
                // SAFETY: as above.
                let sin6 = unsafe { &mut *sin6 };
                sin6.sin6_family = libc::AF_INET6 as u16;
                sin6.sin6_port = a.port().to_be();
                sin6.sin6_addr.s6_addr = a.ip().octets();
                sin6.sin6_scope_id = a.scope_id();
                raw.len = size_of::<libc::sockaddr_in6>() as socklen_t;
            }
        }
        raw
    }

    fn parse(&self) -> io::Result<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that it holds a sockaddr_in.
                let sin = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddr::new(IpAddr::V4(ip), u16::from_be(sin.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that it holds a sockaddr_in6.
                let sin6 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                Ok(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(sin6.sin6_port), 0, 0)))
            }
            other => Err(io::Error::other(format!("address family {other}"))),
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

pub(crate) fn bind(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::new(addr);
    // SAFETY: `raw` holds `len` valid bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len) }).map(drop)
}

pub(crate) fn listen(fd: &OwnedFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

pub(crate) fn connect(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    connect_raw(fd, &RawAddr::new(addr))
}

/// `connect(AF_UNSPEC)`.
pub(crate) fn disconnect(fd: &OwnedFd) -> io::Result<()> {
    connect_raw(fd, &RawAddr::unspec())
}

fn connect_raw(fd: &OwnedFd, raw: &RawAddr) -> io::Result<()> {
    // SAFETY: `raw` holds `len` valid bytes.
    check(unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr(), raw.len) }).map(drop)
}

/// Which call accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptBy {
    Accept,
    Accept4,
}

pub(crate) fn accept(listener: &OwnedFd, by: AcceptBy) -> io::Result<OwnedFd> {
    let (fd, none) = (listener.as_raw_fd(), std::ptr::null_mut::<c_void>());
    let result = match by {
        // SAFETY: null pointers mean that the address is not wanted.
        AcceptBy::Accept => unsafe { libc::syscall(libc::SYS_accept, fd, none, none) },
        // SAFETY: as above.
        AcceptBy::Accept4 => unsafe { libc::syscall(libc::SYS_accept4, fd, none, none, libc::SOCK_CLOEXEC) },
    };
    let fd = check(c_int::try_from(result).unwrap_or(-1))?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn local(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let mut raw = RawAddr::empty();
    // SAFETY: the buffer is `len` bytes and both pointers outlive the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw.storage).cast(), &raw mut raw.len) })?;
    raw.parse()
}

pub(crate) fn peer(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let mut raw = RawAddr::empty();
    // SAFETY: the buffer is `len` bytes and both pointers outlive the call.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut raw.storage).cast(), &raw mut raw.len) })?;
    raw.parse()
}

pub(crate) fn shutdown(fd: &OwnedFd, how: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

pub(crate) fn set_option<T>(fd: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: `value` points to `size_of::<T>()` readable bytes.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, size_of::<T>() as socklen_t) })
        .map(drop)
}

/// Binds a socket to an interface (`SO_BINDTODEVICE`); before 5.7 it needs `CAP_NET_RAW`.
pub(crate) fn bind_to_device(fd: &OwnedFd, name: &str) -> io::Result<()> {
    let len = name.len() as socklen_t;
    // SAFETY: the name is readable for its length.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), len)
    })
    .map(drop)
}

/// The name of the interface that a socket is bound to.
pub(crate) fn device(fd: &OwnedFd) -> io::Result<Option<String>> {
    let mut name = [0_u8; libc::IFNAMSIZ];
    let mut len = name.len() as socklen_t;
    let out = name.as_mut_ptr().cast::<c_void>();
    // SAFETY: `out` has room for `len` bytes.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, out, &raw mut len)
    })?;
    let name = name.split(|byte| *byte == 0).next().filter(|name| len > 0 && !name.is_empty());
    Ok(name.map(|name| String::from_utf8_lossy(name).into_owned()))
}

/// The pending error of a socket, as a positive errno.
pub(crate) fn socket_error(fd: &OwnedFd) -> io::Result<i32> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    let out = (&raw mut value).cast::<c_void>();
    // SAFETY: `out` has room for `len` bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, out, &raw mut len) })?;
    Ok(value)
}

/// What the kernel says of a TCP socket (`struct tcp_info`, include/uapi/linux/tcp.h; `tcp_get_info`,
/// net/ipv4/tcp.c).
#[derive(Clone, Copy)]
pub(crate) struct TcpInfo {
    /// `tcpi_state`: a `TCP_*` number (include/net/tcp_states.h).
    pub(crate) state: u8,
    /// `tcpi_unacked`: of a listener how many connections wait to be accepted.
    pub(crate) unacked: u32,
}

pub(crate) fn tcp_info(fd: &OwnedFd) -> io::Result<TcpInfo> {
    const UNACKED: usize = 24;
    let mut info = [0_u8; UNACKED + 4];
    let mut len = info.len() as socklen_t;
    let out = info.as_mut_ptr().cast::<c_void>();
    // SAFETY: `out` has room for `len` bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, out, &raw mut len) })?;
    let unacked = [info[UNACKED], info[UNACKED + 1], info[UNACKED + 2], info[UNACKED + 3]];
    Ok(TcpInfo { state: info[0], unacked: u32::from_ne_bytes(unacked) })
}

pub(crate) fn linger_zero(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Waits until one of `fds` has `events` (or an error): which of them, in order.
pub(crate) fn poll(fds: &[RawFd], events: i16, timeout_ms: c_int) -> io::Result<Vec<bool>> {
    let mut set: Vec<_> = fds.iter().map(|&fd| libc::pollfd { fd, events, revents: 0 }).collect();
    loop {
        // SAFETY: `set` is an array of that many pollfd.
        match check(unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout_ms) }) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => return Ok(set.iter().map(|p| p.revents != 0).collect()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

pub(crate) fn send_all(fd: &OwnedFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        // SAFETY: `data` is readable for its length.
        let sent =
            unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        data = &data[check_len(sent)?..];
    }
    Ok(())
}

/// `sendto` with an address: with `MSG_FASTOPEN` it connects.
pub(crate) fn send_to(fd: &OwnedFd, data: &[u8], flags: c_int, addr: SocketAddr) -> io::Result<usize> {
    let raw = RawAddr::new(addr);
    // SAFETY: `data` is readable for its length, `raw` holds `len` valid bytes.
    check_len(unsafe {
        libc::sendto(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags, raw.as_ptr(), raw.len)
    })
}

/// Reads once; 0 is the end.
pub(crate) fn recv(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: `buffer` is writable for its length.
        let got = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match check_len(got) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Sends a descriptor over a unix socket.
pub(crate) fn send_fd(over: RawFd, fd: &OwnedFd) -> io::Result<()> {
    let mut byte = [1u8];
    let mut control = [0u64; 4];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let message = fd_message(&mut iov, &mut control);
    // SAFETY: the control buffer is aligned and has room for one header with one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(fd.as_raw_fd());
    }
    // SAFETY: all that `message` points to lives in this frame.
    check_len(unsafe { libc::sendmsg(over, &raw const message, 0) }).map(drop)
}

/// Receives a descriptor from a unix socket.
pub(crate) fn recv_fd(over: RawFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut control = [0u64; 4];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut message = fd_message(&mut iov, &mut control);
    // SAFETY: all that `message` points to lives in this frame.
    check_len(unsafe { libc::recvmsg(over, &raw mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel filled the control buffer; a null header means that nothing came.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("no descriptor came"));
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned()))
    }
}

fn fd_message(iov: &mut libc::iovec, control: &mut [u64; 4]) -> libc::msghdr {
    // SAFETY: msghdr is plain data, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes a length.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<c_int>() as u32) } as usize;
    message
}

/// Makes it the standard input of this process.
pub(crate) fn onto_stdin(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: both descriptors are open, and nothing here owns the standard input.
    check(unsafe { libc::dup2(fd.as_raw_fd(), 0) }).map(drop)
}

/// Names this thread.
pub(crate) fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string of at most 16 bytes.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// Lets this process and its children have at least so many descriptors, if they may.
pub(crate) fn raise_descriptor_limit(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    limit.rlim_cur = wanted;
    limit.rlim_max = limit.rlim_max.max(wanted);
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}
