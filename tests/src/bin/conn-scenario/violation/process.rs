//! Processes that have no business with the network.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use conn_tests::truth::Phase;

use super::Violation;
use super::act::{Server, due, inner, me, pause, reported};
use super::actor::{Acting, Copy, in_memory, itself, waiting};
use crate::conn::{Conn, Listener, V4};
use crate::process::fork;
use crate::scenario::OPENER;
use crate::sys::{self, boot_ns};

pub(super) const NETWORK: Violation = Violation {
    name: "process-network",
    about: "a program connects from its file, then the same program from memory",
    rules: r#"
[[rule]]
id = "v.process-network"
kind = "process"
find = "network"
match = 'arg:v-memfd exe_flag:memfd'
throttle = "0s"
"#,
    run: || {
        let server = Server::of(2)?;
        let to = server.at(inner(1));
        Acting::start(&itself()?, "connect", to, "v-memfd")?.end()?;
        let (memory, path) = in_memory()?;
        let from = boot_ns();
        let acting = Acting::start(Path::new(&path), "connect", to, "v-memfd")?;
        let pid = acting.pid();
        reported("v.process-network", Phase::Raised, pid, from)?;
        let from = boot_ns();
        acting.end()?;
        reported("v.process-network", Phase::Resolved, pid, from)?;
        drop(memory);
        server.end()
    },
};

pub(super) const REPLACED: Violation = Violation {
    name: "process-replaced",
    about: "a program connects that is what its path leads to, then one whose file was replaced",
    rules: r#"
[[rule]]
id = "v.process-replaced"
kind = "process"
find = "replaced"
match = 'arg:v-replaced'
throttle = "0s"
"#,
    run: || {
        let server = Server::of(2)?;
        let copy = Copy::new("replaced")?;
        for is_replaced in [false, true] {
            let mut opener = Command::new(copy.path());
            opener.args([OPENER, &server.port.to_string(), "v-replaced"]).stdin(Stdio::piped());
            let mut opener = opener.spawn().context("start an opener")?;
            let pid = opener.id();
            if is_replaced {
                copy.replace()?;
            }
            let from = boot_ns();
            let mut stdin = opener.stdin.take().context("no stdin")?;
            stdin.write_all(b"x").context("report the opener")?;
            // Its file is looked at in the background, while it lives: until its input ends.
            pause(2_000);
            drop(stdin);
            ensure!(opener.wait().context("wait")?.success(), "the opener");
            if is_replaced {
                due("v.process-replaced", Phase::Raised, Some(pid), (from, boot_ns()), Duration::ZERO)?;
                reported("v.process-replaced", Phase::Resolved, pid, from)?;
            }
        }
        server.end()
    },
};

pub(super) const STDIO: Violation = Violation {
    name: "process-stdio",
    about: "a program reads from a pipe, one from a TCP connection, and one is started by a process that reads from one",
    rules: r#"
[[rule]]
id = "v.process-stdio"
kind = "process"
find = "stdio"
match = 'arg:v-stdio'
throttle = "0s"

[[rule]]
id = "v.process-parent-stdio"
kind = "process"
find = "parent-stdio"
match = 'arg:v-stdio'
throttle = "0s"
"#,
    run: || {
        let mut benign = waiting(Stdio::piped(), "v-stdio")?;
        drop(benign.stdin.take());
        ensure!(benign.wait().context("wait")?.success(), "the benign actor");

        let listener = Listener::new(V4)?;
        let to = (V4, listener.port()).into();
        let child = fork(|_| {
            let conn = Conn::connect(to)?;
            let from = boot_ns();
            let mut shell = waiting(conn.fd, "v-stdio")?;
            let pid = shell.id();
            ensure!(shell.wait().context("wait")?.success(), "the actor");
            // The exec is reported somewhat after its starter can know of it.
            reported("v.process-stdio", Phase::Raised, pid, from)?;
            reported("v.process-stdio", Phase::Resolved, pid, from)
        })?;
        let conn = listener.accept()?;
        // What it reads: its end. It closes when it ends.
        pause(50);
        drop(conn);
        child.join()?;

        let child = fork(|_| {
            let conn = Conn::connect(to)?;
            sys::onto_stdin(&conn.fd).context("dup2")?;
            let from = boot_ns();
            let mut shell = waiting(Stdio::piped(), "v-stdio")?;
            drop(shell.stdin.take());
            ensure!(shell.wait().context("wait")?.success(), "the actor");
            reported("v.process-parent-stdio", Phase::Raised, me(), from)?;
            // With the end of this process.
            reported("v.process-parent-stdio", Phase::Resolved, me(), from)
        })?;
        let conn = listener.accept()?;
        child.join()?;
        drop(conn);
        listener.close()
    },
};
