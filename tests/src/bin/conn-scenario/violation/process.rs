//! Processes that have no business with the network.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use conn_tests::truth::Phase;

use super::Violation;
use super::act::{Server, inner, told};
use super::actor::{Acting, in_memory, itself, waiting};
use crate::conn::{Conn, Listener, V4};
use crate::process::fork;
use crate::sys::boot_ns;

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
        told("v.process-network", Phase::Raised, pid, from)?;
        let from = boot_ns();
        acting.end()?;
        told("v.process-network", Phase::Resolved, pid, from)?;
        drop(memory);
        server.end()
    },
};

pub(super) const STDIO: Violation = Violation {
    name: "process-stdio",
    about: "a program reads from a pipe, then one reads from a TCP connection",
    rules: r#"
[[rule]]
id = "v.process-stdio"
kind = "process"
find = "stdio"
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
            // The exec is told somewhat after its starter can know of it.
            told("v.process-stdio", Phase::Raised, pid, from)?;
            told("v.process-stdio", Phase::Resolved, pid, from)
        })?;
        let conn = listener.accept()?;
        // What it reads: its end. It closes when it ends.
        super::act::pause(50);
        drop(conn);
        child.join()?;
        listener.close()
    },
};
