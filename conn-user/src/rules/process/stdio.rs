//! `find = "stdio"`: a program is executed whose standard input or output is a TCP connection, as that of a reverse
//! shell is (and of what inetd, or systemd with `Accept=yes`, starts).
//!
//! `find = "parent-stdio"`: a program is executed whose parent's standard input or output is a TCP
//! connection, and its own is none. So it is when the program that connected gives the shell a
//! pseudo-terminal, and copies between the two.
//!
//! A connection that process 1 accepted is one for which systemd starts a service of its own (`Accept=yes`). What runs on it and
//! takes its commands from its arguments or a file, as the scripts of monitoring agents do, is not reported; a shell that reads
//! them from the connection is. The service that listens for itself accepts itself (`Accept=no`), and so does an attacker.
//!
//! One connection is reported once by a rule, about the first program on it: what a shell starts inherits it.

use std::sync::Arc;

use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::{Event, EventBody};
use crate::flow::model::{ConnEvent, Direction, Method};
use crate::process::info::ProcessInfo;
use crate::process::script;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::suppression;
use crate::units::Pid;

/// Finds programs that are executed with a connection as standard input or output.
#[derive(Clone, Debug)]
pub(super) struct Stdio {
    pub(super) of_parent: bool,
}

/// Whether the process does what its unit says for a connection that systemd accepted.
fn is_activated(conn: &ConnEvent, process: &ProcessInfo) -> bool {
    conn.direction == Direction::In
        && conn.owner.process.as_ref().is_some_and(|acceptor| acceptor.pid == Pid(1))
        && script::is_given_commands(process)
}

impl Detector for Stdio {
    fn triggers(&self) -> Triggers {
        Triggers::EXEC
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let EventBody::Exec(exec) = &event.body else { return };
        let (conn, whose) = if self.of_parent {
            (&exec.parent_stdio, "standard input or output of its parent")
        } else {
            (&exec.stdio, "standard input or output")
        };
        let Some(conn) = conn else {
            return context.note(|| Note::new(format!("the {whose} is no TCP connection")));
        };
        let process = &exec.process;
        if is_activated(conn, process) {
            return context.note(|| {
                let says = "process 1 accepted the connection, for a service that systemd starts on each, and the commands come \
                            from the arguments or a file";
                Note::new(says)
            });
        }
        context.note(|| {
            let ends = [("local", conn.local), ("remote", conn.remote)];
            let facts = ends.map(|(name, end)| Evidence::new(name, Value::End(end)));
            Note::new(format!("the {whose} is a TCP connection")).with(facts)
        });
        let mut conn = conn.clone();
        if !self.of_parent {
            if !conn.owner.process.as_ref().is_some_and(|owner| owner.is_same(process)) {
                conn.owner.method = Method::FdTable;
                conn.owner.tid = None;
            }
            conn.owner.process = Some(Arc::clone(process));
        }
        let mut evidence = super::executed(event, process);
        if self.of_parent {
            // The connection is the parent's.
            evidence.push(Evidence::new("started", Value::Process(Arc::clone(process))));
        }
        let found = Found {
            dedup_key: conn.id.0,
            evidence,
            suppress: suppression::of_started(process),
            judged_from: context.now,
            life: Life::With(conn.id),
            subject: Subject::Connection(conn),
        };
        context.raise(rule, found);
    }

    fn may_concern(&self, event: &Event) -> bool {
        let EventBody::Exec(exec) = &event.body else { return false };
        if self.of_parent { exec.parent_stdio.is_some() } else { exec.stdio.is_some() }
    }
}
