//! Servers that should not be.

use std::net::SocketAddr;

use conn_tests::truth::{End, Phase, Via};

use super::Violation;
use super::act::{ANY, ReservedPort, bound, connect_from, inner, me, outer, pause, reported};
use super::actor::{Acting, Copy, itself};
use crate::conn::{Listener, V4};
use crate::process::fork;
use crate::sys::{self, boot_ns};

pub(super) const LISTENER: Violation = Violation {
    name: "server-listener",
    about: "a program listens on the inside, then on the outside",
    rules: r#"
[[rule]]
id = "v.server-listener"
kind = "server"
find = "listener"
match = 'proc:v-listener laddr:outer'
throttle = "0s"
"#,
    run: || {
        sys::set_name(c"v-listener")?;
        Listener::new(inner(1))?.close()?;
        let from = boot_ns();
        let listener = Listener::new(outer(1))?;
        reported("v.server-listener", Phase::Raised, me(), from)?;
        let from = boot_ns();
        listener.close()?;
        reported("v.server-listener", Phase::Resolved, me(), from)
    },
};

pub(super) const TAKEOVER: Violation = Violation {
    name: "server-takeover",
    about: "a server restarts, then another program listens in its place",
    rules: r#"
[[rule]]
id = "v.server-takeover"
kind = "server"
find = "takeover"
match = 'arg:v-takeover'
throttle = "0s"
"#,
    run: || {
        let port = ReservedPort::new()?;
        let at = SocketAddr::new(V4, port.number);
        for _ in 0..2 {
            Acting::start(&itself()?, "listen", at, "v-takeover")?.end()?;
        }
        let copy = Copy::new("takeover")?;
        let from = boot_ns();
        let acting = Acting::start(copy.path(), "listen", at, "v-takeover")?;
        let pid = acting.pid();
        reported("v.server-takeover", Phase::Raised, pid, from)?;
        let from = boot_ns();
        acting.end()?;
        reported("v.server-takeover", Phase::Resolved, pid, from)
    },
};

pub(super) const JOIN: Violation = Violation {
    name: "server-join",
    about: "two processes of one program share a port, then another program joins them",
    rules: r#"
[[rule]]
id = "v.server-join"
kind = "server"
find = "join"
match = 'arg:v-join'
throttle = "0s"
"#,
    run: || {
        let port = ReservedPort::new()?;
        let at = SocketAddr::new(V4, port.number);
        let members = [
            Acting::start(&itself()?, "share", at, "v-join")?,
            Acting::start(&itself()?, "share", at, "v-join")?,
        ];
        let copy = Copy::new("join")?;
        let from = boot_ns();
        let acting = Acting::start(copy.path(), "share", at, "v-join")?;
        let pid = acting.pid();
        reported("v.server-join", Phase::Raised, pid, from)?;
        let from = boot_ns();
        acting.end()?;
        reported("v.server-join", Phase::Resolved, pid, from)?;
        members.into_iter().try_for_each(Acting::end)
    },
};

pub(super) const WIDENED: Violation = Violation {
    name: "server-widened",
    about: "a local server restarts as it was, then at all addresses",
    rules: r#"
[[rule]]
id = "v.server-widened"
kind = "server"
find = "widened"
match = 'proc:v-widened'
throttle = "0s"
"#,
    run: || {
        sys::set_name(c"v-widened")?;
        let port = ReservedPort::new()?;
        let listen =
            |ip| Listener::start(bound(SocketAddr::new(ip, port.number), false)?, 8, Via::Syscall, false);
        for _ in 0..2 {
            listen(V4)?.close()?;
            // A service that listens at several addresses takes a moment to do so: that is not judged.
            pause(700);
        }
        let from = boot_ns();
        let listener = listen(ANY)?;
        reported("v.server-widened", Phase::Raised, me(), from)?;
        let from = boot_ns();
        listener.close()?;
        reported("v.server-widened", Phase::Resolved, me(), from)
    },
};

pub(super) const ACCEPT: Violation = Violation {
    name: "server-accept",
    about: "a server lets somebody in from the inside, then from the outside, twice",
    rules: r#"
[[rule]]
id = "v.server-accept"
kind = "server"
find = "accept"
match = 'proc:v-accept dir:in src:outer'
"#,
    run: || {
        let child = fork(|pipe| {
            sys::set_name(c"v-accept")?;
            let listener = Listener::new(V4)?;
            pipe.emit(u64::from(listener.port()))?;
            listener.accept()?.wait_for_end()?;
            let from = boot_ns();
            let conn = listener.accept()?;
            reported("v.server-accept", Phase::Raised, me(), from)?;
            let from = boot_ns();
            conn.wait_for_end()?;
            reported("v.server-accept", Phase::Resolved, me(), from)?;
            listener.accept()?.wait_for_end()?;
            listener.close()
        })?;
        let to = (V4, child.pipe.hear_port()?).into();
        for from in [inner(3), outer(3), outer(4)] {
            connect_from(from, to)?.close(End::LocalFin)?;
        }
        child.join()
    },
};
