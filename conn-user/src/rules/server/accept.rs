//! `find = "accept"`: the first connection that a matching listener accepts from how far away.

use super::places::Places;
use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::{ConnEvent, Direction};
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::reach::Reach;
use crate::rules::{program, suppression};

/// Most listeners that are remembered as reported.
const REPORTED_MAX: usize = 16_384;

/// Finds programs that accept a connection.
#[derive(Clone, Debug)]
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
fn dedup_key(conn: &ConnEvent, names: &Names) -> u64 {
    let server = server(conn);
    let program = (server.map(program::name), server.and_then(program::parent));
    let reach = Reach::of_peer(conn.remote.ip(), names);
    program::key(&(program, conn.local.port(), conn.netns, program::host(conn), reach))
}

/// The server itself: another one of the same program, later, is another finding.
fn first(dedup_key: u64, conn: &ConnEvent) -> u64 {
    program::key(&(dedup_key, server(conn).map(|process| (process.pid.0, process.start_ticks()))))
}

impl Detector for Accept {
    fn triggers(&self) -> Triggers {
        Triggers::OPEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event).filter(|conn| conn.direction == Direction::In) else {
            return context.note(|| Note::new("it was not accepted here"));
        };
        let (server, port) = (server(conn), conn.local.port());
        let dedup_key = dedup_key(conn, context.names);
        let first = first(dedup_key, conn);
        if self.reported.get_mut(&first).is_some() {
            return context.note(|| Note::new("not the first one that this server accepts at this port"));
        }
        self.reported.entry(first, || ());
        context.note(|| Note::new("the first one that this server accepts at this port"));
        let mut evidence = vec![Evidence::number("port", port.into())];
        if let Some(exe) = server.and_then(|process| process.exe.as_deref()) {
            evidence.push(Evidence::text("exe", exe));
        }
        let found = Found {
            dedup_key,
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
}
