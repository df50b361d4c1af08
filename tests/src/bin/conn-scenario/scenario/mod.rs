//! The scenarios.

mod basic;
mod destroy;
mod device;
mod end;
mod fail;
mod fastopen;
mod half;
mod image;
mod io_uring;
mod kernel;
mod listen;
mod mptcp;
mod netns;
mod owner;
mod pidreuse;
mod preattach;
mod preexisting;
mod race;
mod reuse;
mod timens;

use anyhow::{Context as _, Result};

pub(crate) use image::{CONNECTOR, OPENER, WAITER, connector, opener, waiter};

/// A scenario that this kernel cannot do, and what it lacks.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How many of something a scenario makes: what the environment variable says, else `default`. Smaller where a processor
/// is emulated.
fn size(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}: not a number")),
        Err(_) => Ok(default),
    }
}

/// One thing to do.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn() -> Result<()>,
    /// Says what this kernel lacks for it.
    pub(crate) needs: Option<fn() -> Option<String>>,
}

const fn s(name: &'static str, run: fn() -> Result<()>, about: &'static str) -> Scenario {
    Scenario { name, about, run, needs: None }
}

const fn if_able(
    name: &'static str,
    needs: fn() -> Option<String>,
    run: fn() -> Result<()>,
    about: &'static str,
) -> Scenario {
    Scenario { name, about, run, needs: Some(needs) }
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    s("ipv4", basic::ipv4, "connect, accept, bytes both ways, the client closes first"),
    s("ipv6", basic::ipv6, "the same over ::1"),
    s("mapped-client", basic::mapped_client, "an IPv6 socket connects to ::ffff:127.0.0.1"),
    s("mapped-server", basic::mapped_server, "an IPv4 client of a dual-stack listener on ::"),
    s("ipv6-only", basic::ipv6_only, "IPV6_V6ONLY listener and client on ::1"),
    s("accept-calls", basic::accept_calls, "accept() and accept4(), each three times"),
    s("nonblocking", basic::nonblocking, "non-blocking connect that succeeds"),
    s("server-closes", basic::server_closes, "the server closes first"),
    s("bytes", basic::bytes, "known amounts of payload, none to a megabyte, both ways"),
    s("refused", fail::refused, "blocking connect, ECONNREFUSED"),
    s("refused-ipv6", fail::refused_ipv6, "the same over ::1"),
    s("refused-nonblocking", fail::refused_nonblocking, "non-blocking connect, ECONNREFUSED"),
    s("timeout", fail::timeout, "the listener's queue is full: ETIMEDOUT"),
    s("rejected", fail::rejected, "a router rejects a non-blocking connect, which is given up"),
    s("cancelled-close", fail::cancelled_close, "close before the answer"),
    s("cancelled-shutdown", fail::cancelled_shutdown, "shutdown before the answer"),
    s("cancelled-kill", fail::cancelled_kill, "kill -9 before the answer"),
    s("aborted", end::aborted, "the client closes with SO_LINGER 0"),
    s("unread", end::unread, "the client closes with unread data"),
    s("reset-by-peer", end::reset_by_peer, "the server closes with SO_LINGER 0"),
    s("reset-after-fin", end::reset_after_fin, "FIN, then RST: EPIPE at the peer"),
    if_able(
        "destroyed",
        destroy::lacks,
        destroy::connection,
        "SOCK_DESTROY (ss -K), by its owner and by another process",
    ),
    if_able("destroyed-accepted", destroy::lacks, destroy::accepted, "SOCK_DESTROY of the accepted end"),
    if_able(
        "destroyed-queued",
        destroy::lacks,
        destroy::queued,
        "SOCK_DESTROY in the accept queue, accepted later",
    ),
    if_able("destroyed-connecting", destroy::lacks, destroy::connecting, "SOCK_DESTROY before the answer"),
    if_able(
        "destroyed-listener",
        destroy::lacks,
        destroy::listener,
        "SOCK_DESTROY of a listener with a connection queued",
    ),
    s("half-closed", half::half_closed, "SHUT_WR, the peer closes, the fd is closed late"),
    s("half-closed-passive", half::half_closed_passive, "both ends shut down, both fds are closed late"),
    s("half-closed-then-closed", half::then_closed, "SHUT_WR, then close before the peer's FIN"),
    s("shut-rdwr", half::shut_rdwr, "SHUT_RDWR, the peer closes, the fd is closed late"),
    s("shut-rdwr-reset", half::shut_rdwr_reset, "SHUT_RDWR, the peer resets, the fd is closed late"),
    s("passed-fd", owner::passed_fd, "another process closes: the fd went over a unix socket"),
    s("inherited", owner::inherited, "a forked child closes after its parent, on both ends"),
    s("thread-close", owner::thread_close, "another thread closes"),
    s("thread-accept", owner::thread_accept, "another thread accepts than listened"),
    s("thread-name", owner::thread_name, "a thread with another name than its leader"),
    s("renamed", owner::renamed, "the leader renames itself between two connections"),
    s("setuid", owner::setuid, "a child drops to another user, then connects"),
    s("killed", owner::killed, "kill -9 with open sockets"),
    s("exec-cloexec", image::exec_cloexec, "exec closes the socket of the old image"),
    s("short-lived", image::short_lived, "1,000 (CONN_SHORT_LIVED) programs that live for a millisecond"),
    s("odd-args", image::odd_args, "arguments with control, quote and non-UTF-8 bytes"),
    if_able(
        "pidreuse",
        pidreuse::lacks,
        pidreuse::run,
        "a process closes the connection of an earlier one with the same id",
    ),
    s(
        "preexisting",
        preexisting::run,
        "2,000 (CONN_PREEXISTING) connections that were open before the agent",
    ),
    s("preattach", preattach::run, "25 processes blocked in accept since before the agent"),
    s("reuseport", listen::reuseport, "two processes listen on one port"),
    s("queued", listen::queued, "a listener is closed with connections queued"),
    s("queued-half-open", listen::half_open, "a listener is closed with handshakes that never completed"),
    s("listener-shutdown", listen::shutdown, "shutdown() of a listener"),
    s("autobound", listen::autobound, "listen without bind"),
    s("listen-again", listen::again, "a listener stops and listens again, as one socket and as a new one"),
    s("listener-killed", listen::killed, "kill -9 of a listening process"),
    s("netns", netns::run, "a network namespace of its own"),
    s("link-local", device::link_local, "link-local addresses, which name an interface"),
    s("bound", device::bound, "SO_BINDTODEVICE of a listener and of a client"),
    s("bound-client", device::client_bound, "SO_BINDTODEVICE of a client alone"),
    if_able("timens", timens::lacks, timens::run, "a time namespace: its boot clock is shifted"),
    if_able("timens-preexisting", timens::lacks, timens::preexisting, "the same, and the agent comes later"),
    s("disconnect", reuse::disconnect, "AF_UNSPEC, then another connection on the same socket"),
    s("same-tuple", reuse::same_tuple, "twice the same four-tuple on one socket"),
    s("retry", reuse::retry, "a refused socket connects again"),
    s("self", reuse::to_self, "a socket that connects to itself"),
    if_able("fastopen", fastopen::lacks, fastopen::sendto, "TCP Fast Open by sendto"),
    if_able(
        "fastopen-connect",
        fastopen::lacks,
        fastopen::deferred,
        "TCP_FASTOPEN_CONNECT: the SYN goes with the data",
    ),
    if_able("io-uring", io_uring::lacks, io_uring::run, "connect and accept by io_uring"),
    if_able(
        "kernel-sockets",
        kernel::lacks,
        kernel::run,
        "the kernel listens, accepts and closes for itself",
    ),
    if_able(
        "kernel-sockets-preexisting",
        kernel::lacks,
        kernel::preexisting,
        "its listener is older than the agent",
    ),
    if_able("mptcp", mptcp::lacks, mptcp::run, "a Multipath TCP connection"),
    if_able("mptcp-fallback", mptcp::lacks, mptcp::fallback, "the same to a server without MPTCP"),
    s("killed-together", race::killed, "kill -9 of both ends of 300 connections at once"),
    if_able("killed-together-mptcp", mptcp::lacks, race::killed_mptcp, "the same with 50 of MPTCP"),
    s("killed-across-veth", race::killed_across_veth, "the same between two network namespaces"),
    s("exit-together", race::exit, "both ends of 300 connections exit at once"),
    s("closing-races", race::closes, "closes against the peer's FIN and RST"),
];
