//! `find = "spawn"`: a process that has a connection which `holds` matches executes a program, or one of its descendants does.
//! Remote command execution looks like that when the connected program relays the output through pipes, a
//! pseudo-terminal or a socket pair.
//!
//! `find = "spawn-beside"`: a sibling of an ancestor of the program has the connection. Remote command execution looks
//! like that when a shell and a network tool are joined by a pipe or a named pipe: the shell's commands are the tool's
//! nephews.
//!
//! Programs that ran already when the rule began are judged, too, where the connection is surely older than the program, or its
//! owner exchanges data with the standard input and output of the program: a daemon that opens connections now and then does not
//! make a reverse shell of the script that it started before.
//!
//! With `received`, a connection counts only if it received data shortly before the execution, or was established then; with `answered`
//! the severity is low unless data were sent after that. The kernel is asked in the background ([`waiting`]). A program that runs already is
//! judged without it.
//!
//! Exceptions of the rule apply to the executed program and to the connection: a program that runs commands for its peer
//! by design is known by its executable.

#[cfg(test)]
mod tests;
mod waiting;

use std::net::SocketAddr;

use smallvec::SmallVec;

use self::waiting::{Execution, Waiting};
use super::is_existing;
use crate::event::alert::{Evidence, Subject, Value};
use crate::event::model::{Event, EventBody, ProcEvent};
use crate::filter::Filter;
use crate::flow::model::{Actor, Change, ConnEvent, ConnId, Direction, Source, Transport};
use crate::flow::sample::Sample;
use crate::process::hash::IntMap;
use crate::process::info::{ProcessInfo, TICK_NS};
use crate::process::lineage;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Context, Detector, Secondary, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::program::{self, ProcessKey};
use crate::rules::suppression;
use crate::units::{BootNs, DurationNs, NetNs, Pid};

/// Limit of tracked connections; one beyond it is counted as forgotten.
const OPEN_MAX: usize = 65_536;
/// Number of programs above a process that are checked for a connection ([`lineage::near`]); with `beside`, of ancestors. Commands of an
/// interactive session are farther from the program that accepted it.
const ANCESTORS: usize = 3;
/// Connections that are remembered with a process. Any of them will do: all match the same filter.
const SOME: usize = 8;
/// Connections that are sampled for one execution. With more, all of them count.
const CONNECTIONS_MAX: usize = 64;

/// Tracks the open connections of a process. Nothing is allocated for a connection: servers have many.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    open: u32,
    /// Ids of open connections, 0 where there is none.
    some: [u64; SOME],
    next: usize,
}

impl Held {
    fn add(&mut self, id: u64) {
        self.open += 1;
        let slot = self.some.iter().position(|one| *one == 0).unwrap_or(self.next);
        self.some[slot] = id;
        self.next = (slot + 1) % SOME;
    }

    fn remove(&mut self, id: u64) {
        self.open -= 1;
        if let Some(slot) = self.some.iter_mut().find(|one| **one == id) {
            *slot = 0;
        }
    }
}

/// An open connection.
#[derive(Clone, Debug)]
struct Open {
    /// Its key in [`Spawn::held`].
    holder: ProcessKey,
    owner: Actor,
    direction: Direction,
    local: SocketAddr,
    remote: SocketAddr,
    netns: NetNs,
    /// It was opened between these instants.
    opened: [BootNs; 2],
}

impl Open {
    fn owner(&self) -> Option<&ProcessInfo> {
        self.owner.process.as_deref()
    }

    /// Returns the dedup key: program that has the connection, its parent, network namespace and peer.
    fn dedup_key(&self) -> u64 {
        let (name, parent) = (self.owner().map(program::name), self.owner().and_then(program::parent));
        let port = if self.direction == Direction::In { self.local.port() } else { self.remote.port() };
        program::key(&(name, parent, self.netns.0, self.remote.ip(), port))
    }

    /// Returns whether an exception of the rule matches the connection: its owner, direction, addresses and ports.
    fn is_excepted(&self, id: ConnId, rule: &Rule, event: &Event) -> bool {
        let conn = ConnEvent {
            id,
            direction: self.direction,
            transport: Transport::Tcp,
            local: self.local,
            remote: self.remote,
            mapped: false,
            device: None,
            netns: self.netns,
            source: Source::Live,
            born: None,
            kernel_socket: false,
            owner: self.owner.clone(),
            listener: None,
            begun: event.boot,
            established: None,
        };
        rule.excepts(&Event { body: EventBody::Flow(Change::Established(conn)), ..*event })
    }
}

impl Open {
    /// Explains what becomes of a program that may serve this connection.
    fn note(&self, says: &'static str, depth: usize, event: &Event, exec: &ProcEvent) -> Note {
        let ends = [("local", self.local), ("remote", self.remote)];
        let ends = ends.map(|(name, end)| Evidence::new(name, Value::End(end)));
        let executed = Execution::new(event, &exec.process).evidence(depth);
        Note::new(says).with(ends).with(executed)
    }

    /// Explains why nothing is found.
    fn excepted(&self, depth: usize, event: &Event, exec: &ProcEvent) -> Note {
        self.note("an exception matches the connection", depth, event, exec)
    }
}

/// Detects programs executed by, or beside, a process with a connection.
#[derive(Clone, Debug)]
pub(super) struct Spawn {
    holds: Filter,
    beside: bool,
    /// By the owner, or with `beside` by the owner's parent.
    held: IntMap<ProcessKey, Held>,
    open: IntMap<u64, Open>,
    forgotten: u64,
    /// How long before the execution a connection may have received data at most; `None`: however long.
    received: Option<DurationNs>,
    /// How long after the execution data may be sent for an answer to it; `None`: it needs none.
    answered: Option<DurationNs>,
    waiting: Waiting,
}

impl Spawn {
    pub(super) fn new(
        holds: &Filter,
        beside: bool,
        received: Option<DurationNs>,
        answered: Option<DurationNs>,
    ) -> Self {
        Self {
            holds: holds.clone(),
            beside,
            held: IntMap::default(),
            open: IntMap::default(),
            forgotten: 0,
            received,
            answered,
            waiting: Waiting::default(),
        }
    }

    /// Returns the process under which a connection of this owner is tracked.
    fn holder(&self, owner: &ProcessInfo) -> Option<ProcessKey> {
        if self.beside {
            let parent = owner.ancestors.first()?;
            return Some(ProcessKey::new(parent.pid, parent.start));
        }
        Some(ProcessKey::new(owner.pid, owner.start))
    }

    /// Returns one of the connections that are remembered with a holder.
    fn find_some(&self, holder: ProcessKey, fits: impl Fn(&Open) -> bool) -> Option<(ConnId, &Open)> {
        let held = self.held.get(&holder)?;
        let fitting = |id: u64| Some((ConnId(id), self.open.get(&id).filter(|open| fits(open))?));
        held.some.iter().find_map(|id| fitting(*id))
    }

    /// Returns a connection of a holder that fits.
    fn find(&self, holder: ProcessKey, fits: impl Fn(&Open) -> bool) -> Option<(ConnId, &Open)> {
        self.held.get(&holder)?;
        // Where there were more, the one that is left may be none of the remembered ones. The first, so that a replay
        // finds the same.
        let is_own = |(_, open): &(&u64, &Open)| open.holder == holder && fits(open);
        self.find_some(holder, &fits).or_else(|| {
            let (id, open) = self.open.iter().filter(is_own).min_by_key(|(id, _)| **id)?;
            Some((ConnId(*id), open))
        })
    }

    /// Returns what [`Self::connection_of`] does, of a program that may be older than the connection. All of them come at the start, so
    /// none is compared with every connection.
    fn connection_of_running(&self, exec: &ProcEvent) -> Option<(ConnId, &Open, usize)> {
        let process = &exec.process;
        // Of a start from /proc the part below a tick is not known.
        let started = BootNs(process.start.0.saturating_add(TICK_NS));
        let is_peer = |open: &Open| {
            let is = |&(pid, start): &(Pid, BootNs)| {
                open.owner().is_some_and(|owner| {
                    ProcessKey::new(owner.pid, owner.start) == ProcessKey::new(pid, start)
                })
            };
            exec.stdio_peers.iter().any(is)
        };
        let above = || process.ancestors.iter().map(|one| ProcessKey::new(one.pid, one.start));
        if self.beside {
            // The tool and the shell were started together; which of them was first says nothing.
            let is_above =
                |owner: &ProcessInfo| above().any(|one| one == ProcessKey::new(owner.pid, owner.start));
            let fits = |open: &Open| is_peer(open) && open.owner().is_some_and(|owner| !is_above(owner));
            return above().take(ANCESTORS + 1).find_map(|holder| {
                let (id, open) = self.find_some(holder, fits)?;
                Some((id, open, 0))
            });
        }
        let depth = |holder| above().position(|one| one == holder).map_or(0, |at| at + 1);
        let peers = exec.stdio_peers.iter().map(|&(pid, start)| ProcessKey::new(pid, start));
        let by_peer = peers.clone().find_map(|holder| {
            let (id, open) = self.find_some(holder, |open| open.opened[0] <= started)?;
            Some((id, open, depth(holder)))
        });
        let own = std::iter::once(ProcessKey::new(process.pid, process.start));
        by_peer.or_else(|| {
            let near = lineage::near(&process.ancestors, ANCESTORS);
            let above = near.map(|one| ProcessKey::new(one.pid, one.start));
            own.chain(above).enumerate().find_map(|(depth, holder)| {
                let (id, open) = self.find_some(holder, |open| open.opened[1] <= process.start)?;
                Some((id, open, depth))
            })
        })
    }

    /// Returns the connection for a program that was executed now, or runs already.
    fn connection_for(&self, event: &Event, exec: &ProcEvent) -> Option<(ConnId, &Open, usize)> {
        if is_existing(event) { self.connection_of_running(exec) } else { self.connection_of(&exec.process) }
    }

    /// Returns the connection that the program may serve, and how many generations above it the connection was found.
    fn connection_of(&self, process: &ProcessInfo) -> Option<(ConnId, &Open, usize)> {
        self.holders(process).find_map(|(depth, holder)| {
            let (id, open) = self.find(holder, |open| self.fits(open, process))?;
            Some((id, open, depth))
        })
    }

    /// Returns all connections that the program may serve, nearest first, each with the generations above. `None`: there are too many.
    fn connections_of(&self, process: &ProcessInfo) -> Option<SmallVec<[(ConnId, usize); 4]>> {
        let mut found = SmallVec::new();
        for (depth, holder) in self.holders(process) {
            let Some(held) = self.held.get(&holder) else { continue };
            let remembered = held.some.iter().copied().filter(|id| *id != 0);
            let mut ids: SmallVec<[u64; SOME]> = if remembered.clone().count() == held.open as usize {
                remembered.collect()
            } else {
                let own = self.open.iter().filter(|(_, open)| open.holder == holder);
                own.map(|(id, _)| *id).take(CONNECTIONS_MAX + 1).collect()
            };
            ids.sort_unstable();
            let fits = |id: &u64| self.open.get(id).is_some_and(|open| self.fits(open, process));
            found.extend(ids.into_iter().filter(fits).map(|id| (ConnId(id), depth)));
            if found.len() > CONNECTIONS_MAX {
                return None;
            }
        }
        Some(found)
    }

    /// Explains that there is no connection which the program may serve.
    fn no_connection(&self, event: &Event, exec: &ProcEvent) -> Note {
        let says = if is_existing(event) {
            "no connection that `holds` matches is known to be older than the program, and no process has one that exchanges data with its standard input and output"
        } else if self.beside {
            "no sibling of an ancestor has a connection that `holds` matches"
        } else {
            "neither it nor a near ancestor has a connection that `holds` matches"
        };
        Note::new(says).with([
            Evidence::number("connections_known", self.open.len() as u64),
            Evidence::number("processes_above", exec.process.ancestors.len() as u64),
        ])
    }

    /// Returns the processes whose connections the program may serve, and how many generations above it they are.
    fn holders(&self, process: &ProcessInfo) -> impl Iterator<Item = (usize, ProcessKey)> {
        let own = std::iter::once(ProcessKey::new(process.pid, process.start));
        let most = if self.beside { ANCESTORS } else { usize::MAX };
        let near = lineage::near(&process.ancestors, ANCESTORS).take(most);
        let above = near.map(|one| ProcessKey::new(one.pid, one.start));
        // What the parent's other children do is nothing of the program's.
        let nearest = if self.beside { 2 } else { 0 };
        own.chain(above).enumerate().skip(nearest)
    }

    /// Returns whether the program may serve a connection of one of its [`Self::holders`].
    fn fits(&self, open: &Open, process: &ProcessInfo) -> bool {
        let is_above = |owner: &ProcessInfo| {
            process.ancestors.iter().any(|one| (one.pid, one.start) == (owner.pid, owner.start))
        };
        // A child of an ancestor that is an ancestor itself is above the program and not beside it.
        !self.beside || open.owner().is_some_and(|owner| !is_above(owner))
    }

    /// Raises an alert about a connection and an executed program.
    fn raise(
        &self,
        conn: ConnEvent,
        execution: &Execution,
        depth: usize,
        rule: &Rule,
        context: &mut Context<'_>,
    ) {
        let Some(open) = self.open.get(&conn.id.0) else { return };
        let dedup_key = open.dedup_key();
        if context.is_reported(rule, dedup_key) {
            return;
        }
        let process = &execution.process;
        let found = Found {
            dedup_key,
            evidence: execution.evidence(depth),
            suppress: suppression::of_started(process),
            judged_from: context.now,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn)),
        };
        context.raise_as(rule, found, execution.severity(rule));
    }
}

/// Returns when a connection was opened: not before the first instant, not after the second.
fn opened(conn: &ConnEvent, event: &Event) -> [BootNs; 2] {
    match &conn.born {
        Some(born) => [born.earliest, born.latest],
        None if conn.source == Source::Live => {
            let at = conn.established.unwrap_or(event.boot).min(event.boot);
            [at; 2]
        }
        None => [BootNs(0), event.boot],
    }
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

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let EventBody::Exec(exec) = &event.body else { return };
        if self.received.is_some() && !is_existing(event) && self.wait(event, exec, rule, context) {
            return;
        }
        let Some((id, open, depth)) = self.connection_for(event, exec) else {
            return context.note(|| self.no_connection(event, exec));
        };
        if open.is_excepted(id, rule, event) {
            return context.note(|| open.excepted(depth, event, exec));
        }
        let Some(conn) = context.flows.connection(id) else {
            return context.note(|| open.note("the connection has ended", depth, event, exec));
        };
        context.note(|| {
            let says = "a process that started it, or a sibling of one, has a matching connection";
            open.note(says, depth, event, exec)
        });
        self.raise(conn, &Execution::new(event, &exec.process), depth, rule, context);
    }

    fn may_concern(&self, event: &Event) -> bool {
        let EventBody::Exec(exec) = &event.body else { return true };
        self.connection_for(event, exec).is_some()
    }

    fn on_secondary(&mut self, _rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        context.note(|| {
            Note::new("the connection is remembered: programs that its owner executes raise an alert")
        });
        if self.open.contains_key(&conn.id.0) {
            return;
        }
        let Some(holder) = conn.owner.process.as_deref().and_then(|owner| self.holder(owner)) else {
            return context.note(|| Note::new("whose connection it is is not known"));
        };
        if self.open.len() >= OPEN_MAX {
            self.forgotten += 1;
            context.note(|| Note::new("the connection is not remembered: limit reached"));
        } else if context.follow(conn.id) {
            let open = Open {
                holder,
                owner: conn.owner.clone(),
                direction: conn.direction,
                local: conn.local,
                remote: conn.remote,
                netns: conn.netns,
                opened: opened(conn, event),
            };
            self.open.insert(conn.id.0, open);
            self.held.entry(holder).or_default().add(conn.id.0);
        }
    }

    fn on_sample(&mut self, rule: &Rule, sample: &Sample, context: &mut Context<'_>) {
        self.judge_sample(rule, sample, context);
    }

    fn on_no_sample(&mut self, rule: &Rule, id: ConnId, context: &mut Context<'_>) {
        self.judge_without_sample(rule, id, context);
    }

    fn on_timer(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        self.on_time(rule, token, context);
    }

    fn on_end(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        self.judge_ended(rule, conn, event, context);
        let Some(open) = self.open.remove(&conn.id.0) else { return };
        if let Some(held) = self.held.get_mut(&open.holder) {
            held.remove(conn.id.0);
            if held.open == 0 {
                self.held.remove(&open.holder);
            }
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
