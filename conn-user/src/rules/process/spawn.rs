//! `find = "spawn"`: a process that has a connection which `holds` matches executes a program, or one of its descendants does.
//! Remote command execution looks like that when the connected program relays the output through pipes, a
//! pseudo-terminal or a socket pair.
//!
//! `find = "spawn-beside"`: a sibling of an ancestor of the program has the connection. Remote command execution looks
//! like that when a shell and a network tool are joined by a pipe or a named pipe: the shell's commands are the tool's
//! nephews.
//!
//! Exceptions of the rule apply to the executed program and to the connection: a program that runs commands for its peer
//! by design is known by its executable.

use std::sync::Arc;

use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::{Event, EventBody};
use crate::filter::Filter;
use crate::flow::model::{Change, ConnEvent};
use crate::process::info::ProcessInfo;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Secondary, Triggers, connection, service_port};
use crate::rules::held::{Held, Holder};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::{program, silence};
use crate::units::{BootNs, DurationNs};

/// Limit of remembered connections.
const ENTRIES_MAX: usize = 16_384;
/// Number of ancestors that are checked for a connection. Commands of an interactive session are farther from the program
/// that accepted it.
const ANCESTORS: usize = 3;
/// Limit of connections checked per ancestor, of its children.
const BESIDE_MAX: usize = 8;

/// Detects programs executed by, or beside, a process with a connection.
#[derive(Debug)]
pub(super) struct Spawn {
    holds: Filter,
    beside: bool,
    /// By the owner, or with `beside` by the owner's parent.
    held: Held<Box<ConnEvent>>,
}

impl Spawn {
    pub(super) fn new(holds: &Filter, within: DurationNs, beside: bool) -> Self {
        Self { holds: holds.clone(), beside, held: Held::new(ENTRIES_MAX, within) }
    }

    /// Returns the process under which a connection of this owner is remembered.
    fn holder(&self, owner: &ProcessInfo) -> Option<Holder> {
        if self.beside {
            let parent = owner.ancestors.first()?;
            return Some(Holder::new(parent.pid, parent.start));
        }
        Some(Holder::new(owner.pid, owner.start))
    }

    /// Returns the connection that the program may serve, and how many generations above it the connection was found.
    fn connection_of(&self, process: &ProcessInfo, now: BootNs) -> Option<(&ConnEvent, usize)> {
        let above = (1..).zip(process.ancestors.iter().take(ANCESTORS));
        let mut lineage = above.map(|(depth, one)| (depth, Holder::new(one.pid, one.start)));
        if self.beside {
            let is_above = |owner: &ProcessInfo| {
                process.ancestors.iter().any(|one| (one.pid, one.start) == (owner.pid, owner.start))
            };
            let is_beside =
                |conn: &&ConnEvent| conn.owner.process.as_deref().is_some_and(|owner| !is_above(owner));
            return lineage.skip(1).find_map(|(depth, holder)| {
                let mut held = self.held.of(holder, now).map(|conn| &**conn).take(BESIDE_MAX);
                held.find(is_beside).map(|conn| (conn, depth))
            });
        }
        let own = std::iter::once((0, Holder::new(process.pid, process.start)));
        own.chain(lineage.by_ref())
            .find_map(|(depth, holder)| self.held.of(holder, now).next().map(|conn| (&**conn, depth)))
    }
}

/// Returns whether an exception of the rule matches the connection.
fn is_excepted(rule: &Rule, conn: &ConnEvent, event: &Event) -> bool {
    let body = EventBody::Flow(Change::Established(conn.clone()));
    rule.excepts(&Event { body, ..*event })
}

/// Returns the dedup key: program that has the connection, its parent, network namespace and peer.
fn same(conn: &ConnEvent) -> u64 {
    let owner = conn.owner.process.as_deref();
    let (name, parent) = (owner.map(program::name), owner.and_then(program::parent));
    program::same(&(name, parent, conn.netns.0, conn.remote.ip(), service_port(conn)))
}

fn evidence(process: &Arc<ProcessInfo>, depth: usize) -> Vec<Evidence> {
    let args = process.args.iter().map(|arg| Value::Text(arg.clone())).collect();
    let mut evidence = vec![
        Evidence { name: "args", value: Value::List(args) },
        Evidence { name: "started", value: Value::Process(Arc::clone(process)) },
        Evidence { name: "via", value: program::chain(process, depth) },
    ];
    if let Some(exe) = &process.exe {
        evidence.insert(0, Evidence::text("exe", &**exe));
    }
    evidence
}

impl Detector for Spawn {
    fn triggers(&self) -> Triggers {
        Triggers::EXEC.and(Triggers::OPEN)
    }

    fn secondary(&self) -> Option<Secondary<'_>> {
        Some(Secondary {
            key: "holds",
            selects: "connections",
            match_selects: "executed programs",
            raises: false,
            filter: &self.holds,
        })
    }

    fn secondary_decides(&self, event: &Event) -> bool {
        connection(event).is_some()
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let EventBody::Exec(exec) = &event.body else { return };
        let Some((conn, depth)) = self.connection_of(&exec.process, event.boot) else { return };
        let same = same(conn);
        if is_excepted(rule, conn, event) || scene.is_told(rule, same) {
            return;
        }
        let found = Found {
            same,
            evidence: evidence(&exec.process, depth),
            silence: silence::of_started(&exec.process),
            judged_from: scene.now,
            life: if self.held.is_open(conn.id) { Life::With(conn.id) } else { Life::Moment },
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        scene.raise(rule, found);
    }

    fn on_secondary(&mut self, _rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(conn) = connection(event).filter(|conn| !self.held.is_open(conn.id)) else { return };
        let Some(holder) = conn.owner.process.as_deref().and_then(|owner| self.holder(owner)) else { return };
        // One that was there before was opened at some time since its process started.
        let at = conn.established.or(conn.born.map(|born| born.earliest)).unwrap_or(event.boot);
        self.held.follow(conn.id, holder, at, Box::new(conn.clone()), scene);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        if let Some(conn) = connection(event) {
            self.held.on_end(conn.id, event.boot, scene);
        }
    }

    fn on_timer(&mut self, _rule: &Rule, _token: u64, scene: &mut Scene<'_>) {
        self.held.on_timer(scene);
    }

    fn forgotten(&self) -> u64 {
        self.held.evicted()
    }

    fn recall(&self, rule: &Rule, event: &Event, _past: &Past<'_>) -> Option<Memory> {
        if connection(event).is_some() {
            let says = if self.holds.matches(event) {
                "the connection is remembered: programs that its owner executes raise an alert"
            } else {
                "the rule's `holds` does not match the connection"
            };
            return Some(Memory::lets_be(says, Vec::new()));
        }
        let EventBody::Exec(exec) = &event.body else { return None };
        let Some((conn, depth)) = self.connection_of(&exec.process, event.boot) else {
            let says = if self.beside {
                "no sibling of an ancestor has a connection that `holds` matches"
            } else {
                "neither it nor a near ancestor has a connection that `holds` matches"
            };
            let facts = vec![
                Evidence::number("connections_known", self.held.len() as u64),
                Evidence::number("processes_above", exec.process.ancestors.len() as u64),
            ];
            return Some(Memory::lets_be(says, facts));
        };
        let mut facts = vec![
            Evidence { name: "local", value: Value::End(conn.local) },
            Evidence { name: "remote", value: Value::End(conn.remote) },
        ];
        facts.extend(evidence(&exec.process, depth));
        if is_excepted(rule, conn, event) {
            return Some(Memory::lets_be("an exception matches the connection", facts));
        }
        Some(Memory::finds(
            same(conn),
            "a process that started it, or a sibling of one, has a matching connection",
            facts,
        ))
    }
}
