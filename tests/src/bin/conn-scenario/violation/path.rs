//! Unusual paths.

use conn_tests::truth::{End, Phase};

use super::Violation;
use super::act::{Server, connect_from, inner, me, outer, pause, reported};
use crate::conn::{Conn, Listener, V4};
use crate::process::fork;
use crate::sys::{self, boot_ns};

pub(super) const FORBIDDEN: Violation = Violation {
    name: "path-forbidden",
    about: "a program that may talk to the inside only talks to the outside",
    rules: r#"
[[rule]]
id = "v.path-forbidden"
kind = "path"
find = "forbidden"
match = 'proc:v-forbidden dir:out dst:outer'
throttle = "0s"
"#,
    run: || {
        let server = Server::of(2)?;
        sys::set_name(c"v-forbidden")?;
        Conn::connect(server.at(inner(1)))?.close(End::LocalFin)?;
        let from = boot_ns();
        let conn = Conn::connect(server.at(outer(1)))?;
        reported("v.path-forbidden", Phase::Raised, me(), from)?;
        let from = boot_ns();
        conn.close(End::LocalFin)?;
        reported("v.path-forbidden", Phase::Resolved, me(), from)?;
        server.end()
    },
};

pub(super) const FIRST_SEEN: Violation = Violation {
    name: "path-first-seen",
    about: "a host that was never talked to, then the same again",
    rules: r#"
[[rule]]
id = "v.path-first-seen"
kind = "path"
find = "first-seen"
match = 'proc:v-first dir:out'
by = ["ip", "port"]
learn = "0s"
throttle = "0s"
"#,
    run: || {
        let server = Server::of(4)?;
        sys::set_name(c"v-first")?;
        for host in 1..=2 {
            let from = boot_ns();
            let conn = Conn::connect(server.at(inner(host)))?;
            reported("v.path-first-seen", Phase::Raised, me(), from)?;
            let from = boot_ns();
            conn.close(End::LocalFin)?;
            reported("v.path-first-seen", Phase::Resolved, me(), from)?;
            Conn::connect(server.at(inner(host)))?.close(End::LocalFin)?;
        }
        server.end()
    },
};

pub(super) const PIVOT: Violation = Violation {
    name: "path-pivot",
    about: "a server's child goes on to the inside: after a client from the inside, and after one from the outside",
    rules: r#"
[[rule]]
id = "v.path-pivot"
kind = "path"
find = "pivot"
match = 'proc:v-pivot dir:in src:outer'
to = 'dir:out dst:inner'
throttle = "0s"
"#,
    run: || {
        let target = Server::of(2)?;
        let to = target.at(inner(9));
        let relay = fork(|pipe| {
            sys::set_name(c"v-pivot")?;
            let listener = Listener::new(V4)?;
            pipe.emit(u64::from(listener.port()))?;
            for is_attack in [false, true] {
                let conn = listener.accept()?;
                let child = fork(|_| {
                    let from = boot_ns();
                    let out = Conn::connect(to)?;
                    if is_attack {
                        reported("v.path-pivot", Phase::Raised, me(), from)?;
                    }
                    let from = boot_ns();
                    out.close(End::LocalFin)?;
                    if is_attack {
                        reported("v.path-pivot", Phase::Resolved, me(), from)?;
                    }
                    Ok(())
                })?;
                child.join()?;
                pipe.emit(0)?;
                conn.wait_for_end()?;
            }
            listener.close()
        })?;
        let port = relay.pipe.hear_port()?;
        for from in [inner(7), outer(7)] {
            let conn = connect_from(from, (V4, port).into())?;
            relay.pipe.hear()?;
            conn.close(End::LocalFin)?;
        }
        relay.join()?;
        target.end()
    },
};

pub(super) const FAN_OUT: Violation = Violation {
    name: "path-fan-out",
    about: "eight hosts are normal, and so are eight again; the ninth is not",
    rules: r#"
[[rule]]
id = "v.path-fan-out"
kind = "path"
find = "fan-out"
match = 'proc:v-fan-out dir:out'
of = "peers"
limit = 8
window = "5m"
"#,
    run: || {
        let server = Server::of(17)?;
        sys::set_name(c"v-fan-out")?;
        for host in (1..=8).chain(1..=8) {
            Conn::connect(server.at(inner(host)))?.close(End::LocalFin)?;
        }
        let from = boot_ns();
        Conn::connect(server.at(inner(9)))?.close(End::LocalFin)?;
        reported("v.path-fan-out", Phase::Raised, me(), from)?;
        server.end()
    },
};

pub(super) const BEACON: Violation = Violation {
    name: "path-beacon",
    about: "one host gets messages of odd sizes at odd times, another the same at regular intervals",
    rules: r#"
[[rule]]
id = "v.path-beacon"
kind = "path"
find = "beacon"
match = 'proc:v-beacon dir:out'
score = 0.6
at_least = 8
"#,
    run: || {
        // How regular calls are depends on how long each takes: where that is longer than the odd pauses, all come at nearly the
        // same interval. Their sizes do not: whatever the intervals, seven of these and the interval score are 0.54 at most.
        const SIZES: [usize; 8] = [16, 4096, 1, 256, 4, 1024, 64, 1];
        const SIZE: usize = 300;
        let server = Server::of_messages(&[SIZES, [SIZE; 8]].concat())?;
        sys::set_name(c"v-beacon")?;
        for (wait, size) in [0, 20, 700, 60, 10, 500, 30, 900].into_iter().zip(SIZES) {
            pause(wait);
            server.send(inner(1), size)?;
        }
        let mut from = boot_ns();
        for call in 0..8u64 {
            // By the clock, however long the call took.
            let due = from + call * 800_000_000;
            pause(due.saturating_sub(boot_ns()) / 1_000_000);
            if call == 7 {
                from = boot_ns();
            }
            server.send(outer(1), SIZE)?;
        }
        reported("v.path-beacon", Phase::Raised, me(), from)?;
        server.end()
    },
};
