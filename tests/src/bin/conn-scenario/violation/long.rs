//! Connections that are open for long.

use std::time::Duration;

use conn_tests::truth::{End, Phase};

use super::Violation;
use super::act::{Server, due, inner, me, outer, pause, reported};
use crate::conn::Conn;
use crate::sys::{self, boot_ns};

pub(super) const EACH: Violation = Violation {
    name: "long-each",
    about: "a connection ends before the first level; another, idle, passes two",
    rules: r#"
[[rule]]
id = "v.long-each"
kind = "long"
match = 'proc:v-long'
levels = ["2s", "3s"]
throttle = "0s"
"#,
    run: || {
        let server = Server::of(2)?;
        sys::set_name(c"v-long")?;
        Conn::connect(server.at(inner(1)))?.close(End::LocalFin)?;
        let from = boot_ns();
        let conn = Conn::connect(server.at(inner(1)))?;
        let open = (from, boot_ns());
        due("v.long-each", Phase::Raised, Some(me()), open, Duration::from_secs(2))?;
        due("v.long-each", Phase::Escalated, Some(me()), open, Duration::from_secs(3))?;
        pause(3_500);
        let from = boot_ns();
        conn.close(End::LocalFin)?;
        reported("v.long-each", Phase::Resolved, me(), from)?;
        server.end()
    },
};

pub(super) const SUM: Violation = Violation {
    name: "long-sum",
    about: "a second with one peer is normal, three times a second with another are not",
    rules: r#"
[[rule]]
id = "v.long-sum"
kind = "long"
match = 'proc:v-sum'
levels = ["2500ms"]
sum = true
throttle = "0s"
"#,
    run: || {
        let server = Server::of(4)?;
        sys::set_name(c"v-sum")?;
        let mut spent = 0;
        let benign = Conn::connect(server.at(inner(1)))?;
        pause(1_000);
        benign.close(End::LocalFin)?;
        for round in 0..3 {
            let from = boot_ns();
            let conn = Conn::connect(server.at(outer(1)))?;
            let open = (from, boot_ns());
            if round == 2 {
                // What earlier ones took counts from their connect to their close, both within what was measured.
                let left = Duration::from_nanos(2_500_000_000u64.saturating_sub(spent));
                due("v.long-sum", Phase::Raised, Some(me()), open, left)?;
            }
            pause(1_000);
            let closed = boot_ns();
            conn.close(End::LocalFin)?;
            spent += boot_ns() - from;
            if round == 2 {
                reported("v.long-sum", Phase::Resolved, me(), closed)?;
            }
        }
        server.end()
    },
};
