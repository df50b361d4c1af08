//! What was there before the agent, and what is expected to be there all the time.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use conn_tests::truth::{End, Line, Phase};

use super::Violation;
use super::act::{ANY, ReservedPort, due, inner, me, outer, pause, reported};
use super::actor::{Acting, itself};
use crate::conn::{Conn, Listener};
use crate::facts::emit;
use crate::sys::{self, boot_ns};

/// How long what is expected may be absent: longer than a restart takes, under emulation too.
const GRACE: Duration = Duration::from_secs(3);

pub(super) const BEFORE: Violation = Violation {
    name: BEFORE_NAME,
    about: "a listener and a connection from before the agent; an expected server, and an expected connection, restart, are killed, and come back",
    rules: r#"
[[rule]]
id = "v.before-listener"
kind = "server"
find = "listener"
match = 'proc:v-before laddr:outer'

[[rule]]
id = "v.before-long"
kind = "long"
match = 'proc:v-before dir:out raddr:127.1.0.6'
levels = ["1ms"]

[[rule]]
id = "v.missing-listener"
kind = "missing"
expect = "listener"
match = 'arg:v-expected'
grace = "3s"
throttle = "0s"

[[rule]]
id = "v.missing-connection"
kind = "missing"
expect = "connection"
match = 'proc:v-before dir:out'
grace = "3s"
throttle = "0s"
"#,
    run: before,
};

const BEFORE_NAME: &str = "before";

/// The expected server. It is executed: a forked one would hold the connections open that this process closes.
fn expected(at: SocketAddr) -> Result<Acting> {
    Acting::start(&itself()?, "listen", at, "v-expected")
}

fn before() -> Result<()> {
    sys::set_name(c"v-before")?;
    let listener = Listener::new(outer(5))?;
    let far = Listener::new(ANY)?;
    let first = Conn::connect(SocketAddr::new(inner(6), far.port()))?;
    let accepted = far.accept()?;
    let port = ReservedPort::new()?;
    let at = SocketAddr::new(inner(5), port.number);
    let server = expected(at)?;
    emit(&Line::Ready)?;
    let from = boot_ns();
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    // Both were judged at the start: between the word that all is ready and the one to go on.
    reported("v.before-listener", Phase::Raised, me(), from)?;
    due("v.before-long", Phase::Raised, Some(me()), (from, boot_ns()), Duration::ZERO)?;

    // A restart within the grace is nothing.
    server.end()?;
    let server = expected(at)?;
    let from = boot_ns();
    server.kill()?;
    due("v.missing-listener", Phase::Raised, None, (from, boot_ns()), GRACE)?;
    pause(4_500);
    let from = boot_ns();
    let server = expected(at)?;
    resolved("v.missing-listener", from)?;

    let to = SocketAddr::new(inner(7), far.port());
    // Another connection opens before the first closes.
    let second = Conn::connect(to)?;
    let accepted_too = far.accept()?;
    let from = boot_ns();
    first.close(End::LocalFin)?;
    reported("v.before-long", Phase::Resolved, me(), from)?;
    drop(accepted);
    let from = boot_ns();
    second.close(End::LocalFin)?;
    due("v.missing-connection", Phase::Raised, None, (from, boot_ns()), GRACE)?;
    drop(accepted_too);
    pause(4_500);
    let from = boot_ns();
    let third = Conn::connect(to)?;
    resolved("v.missing-connection", from)?;
    drop(third);

    server.end()?;
    let from = boot_ns();
    listener.close()?;
    reported("v.before-listener", Phase::Resolved, me(), from)?;
    far.close()
}

/// What was absent is there again, since an event between `from` and now.
fn resolved(rule: &str, from: u64) -> Result<()> {
    emit(&Line::Alert(conn_tests::truth::AlertFact {
        rule: rule.to_owned(),
        phase: Phase::Resolved,
        pid: None,
        from_ns: from,
        until_ns: boot_ns(),
        timer: false,
    }))
}
