//! `find = "accept"`: the first connection that a matching listener accepts from how far away.

use super::places::Places;
use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::{ConnEvent, Direction};
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::reach::Reach;
use crate::rules::{program, suppression};

/// Most listeners that are remembered as reported.
const REPORTED_MAX: usize = 16_384;

/// Finds programs that accept a connection.
#[derive(Debug)]
pub(super) struct Accept {
    /// One number a server, place and reach.
    reported: Places<u64, ()>,
}

impl Default for Accept {
    fn default() -> Self {
        Self { reported: Places::new(REPORTED_MAX) }
    }
}

fn server(conn: &ConnEvent) -> Option<&ProcessInfo> {
    let server = conn.listener.as_ref().and_then(|listener| listener.process.as_deref());
    server.or(conn.owner.process.as_deref())
}

/// The listener's own address is not known here: one at a wildcard accepts at many.
fn same(conn: &ConnEvent, names: &Names) -> u64 {
    let server = server(conn);
    let program = (server.map(program::name), server.and_then(program::parent));
    let reach = Reach::of_peer(conn.remote.ip(), names);
    program::same(&(program, conn.local.port(), conn.netns, program::host(conn), reach))
}

/// The server itself: another one of the same program, later, is another finding.
fn first(same: u64, conn: &ConnEvent) -> u64 {
    program::same(&(same, server(conn).map(|process| (process.pid.0, process.start_ticks()))))
}

impl Detector for Accept {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event).filter(|conn| conn.direction == Direction::In) else { return };
        let (server, port) = (server(conn), conn.local.port());
        let same = same(conn, context.names);
        let first = first(same, conn);
        if self.reported.get_mut(&first).is_some() {
            return;
        }
        self.reported.entry(first, || ());
        let mut evidence = vec![Evidence::number("port", port.into())];
        if let Some(exe) = server.and_then(|process| process.exe.as_deref()) {
            evidence.push(Evidence::text("exe", exe));
        }
        let found = Found {
            dedup_key: same,
            evidence,
            suppress: suppression::of_connection(conn, false),
            judged_from: context.began,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }

    fn forgotten(&self) -> u64 {
        self.reported.forgotten()
    }

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let Some(conn) = connection(event).filter(|conn| conn.direction == Direction::In) else {
            return Some(Memory::not_raised("it was not accepted here", Vec::new()));
        };
        let same = same(conn, past.names);
        Some(if self.reported.get(&first(same, conn)).is_some() {
            Memory::not_raised("not the first one that this server accepts at this port", Vec::new())
        } else {
            Memory::finds(same, "the first one that this server accepts at this port", Vec::new())
        })
    }
}
