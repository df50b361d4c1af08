//! What a run did: its connections and listeners, those of a sort in one row.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::flow::model::{Change, ConnEvent, ConnId, Direction, ListenEvent, canonical_ip};
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::rules::suppression;

/// Most rows of each of the two tables. What is beyond them is counted.
const ROWS_MAX: usize = 4_096;
/// Most connections and listeners that are open at once.
const OPEN_MAX: usize = 1 << 20;

/// The program of a process: the path of its executable, or its name where that is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Program {
    /// Path or name; attacker-controlled bytes. Empty: the process is not known.
    pub name: Box<[u8]>,
    /// The word of a filter that says it; `None`: it is not text, or not known.
    pub filter: Option<Box<str>>,
}

impl Program {
    fn of(process: Option<&ProcessInfo>) -> Self {
        let name = process.map(|process| process.exe.as_deref().unwrap_or(&process.comm).into());
        Self { name: name.unwrap_or_default(), filter: process.and_then(suppression::of_process) }
    }
}

/// What is the same of connections in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Who opened or accepted them.
    pub program: Program,
    /// Which way.
    pub direction: Direction,
    /// The other side.
    pub remote: IpAddr,
    /// The port of the side that was connected to; 0: not known.
    pub port: u16,
}

/// Connections of a sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Which.
    pub path: Path,
    /// How many were opened or accepted.
    pub count: u64,
    /// Of these, how many were established.
    pub established: u64,
    /// Of these, how many failed.
    pub failed: u64,
    /// The error of the last that failed; 0: it was cancelled.
    pub errno: Option<u16>,
    /// Of these, how many were open at the end.
    pub open: u64,
    /// Payload received on those that were closed.
    pub bytes_in: u64,
    /// Payload sent on those that were closed.
    pub bytes_out: u64,
}

/// Listeners of a sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Who listened.
    pub program: Program,
    /// Where; port 0: not known.
    pub local: SocketAddr,
    /// How many.
    pub count: u64,
    /// Of these, how many listened still at the end.
    pub open: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    row: usize,
    established: bool,
}

/// The connections and listeners of a run.
#[derive(Debug, Default)]
pub struct Seen {
    rows: Vec<Connections>,
    by_path: HashMap<Path, usize>,
    open: IntMap<u64, Open>,
    listeners: Vec<Listeners>,
    by_place: HashMap<(Program, SocketAddr), usize>,
    listening: IntMap<u64, usize>,
    not_shown: u64,
}

impl Seen {
    /// Whether a connection or listener is one of the run's that is open.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.open.contains_key(&id.0) || self.listening.contains_key(&id.0)
    }

    /// Takes a change of a connection or listener of the run.
    pub fn on_change(&mut self, change: &Change) {
        match change {
            Change::Connect(conn) => drop(self.begin(conn)),
            Change::Accept(conn) | Change::Established(conn) => {
                // One that was reported already is established now.
                let Some(row) = self.begin(conn) else { return };
                if let (Some(open), Some(row)) = (self.open.get_mut(&conn.id.0), self.rows.get_mut(row))
                    && !open.established
                {
                    open.established = true;
                    row.established += 1;
                }
            }
            Change::Failed(conn, failure) => {
                if let Some(row) = self.end(conn) {
                    row.failed += 1;
                    row.errno = Some(failure.errno);
                }
            }
            Change::Close(conn, ending) => {
                if let Some(row) = self.end(conn)
                    && let Some(traffic) = ending.traffic
                {
                    row.bytes_in = row.bytes_in.saturating_add(traffic.bytes_in);
                    row.bytes_out = row.bytes_out.saturating_add(traffic.bytes_out);
                }
            }
            Change::Listen(listener) => self.listen(listener),
            Change::Unlisten(listener, _) => {
                let row = self.listening.remove(&listener.id.0).and_then(|row| self.listeners.get_mut(row));
                if let Some(row) = row {
                    row.open -= 1;
                }
            }
        }
    }

    /// The row of a connection, which begins with it unless it did before.
    fn begin(&mut self, conn: &ConnEvent) -> Option<usize> {
        if let Some(open) = self.open.get(&conn.id.0) {
            return Some(open.row);
        }
        let path = Path {
            program: Program::of(conn.owner.process.as_deref()),
            direction: conn.direction,
            remote: canonical_ip(conn.remote.ip()).0,
            port: conn.service_port(),
        };
        let row = match self.by_path.get(&path) {
            Some(row) => *row,
            None if self.rows.len() >= ROWS_MAX => {
                self.not_shown += 1;
                return None;
            }
            None => {
                self.by_path.insert(path.clone(), self.rows.len());
                self.rows.push(Connections {
                    path,
                    count: 0,
                    established: 0,
                    failed: 0,
                    errno: None,
                    open: 0,
                    bytes_in: 0,
                    bytes_out: 0,
                });
                self.rows.len() - 1
            }
        };
        if self.open.len() >= OPEN_MAX {
            self.not_shown += 1;
            return None;
        }
        self.open.insert(conn.id.0, Open { row, established: false });
        if let Some(of) = self.rows.get_mut(row) {
            of.count += 1;
            of.open += 1;
        }
        Some(row)
    }

    /// The row of a connection that ends. One whose beginning was not reported (nobody accepted it) begins here.
    fn end(&mut self, conn: &ConnEvent) -> Option<&mut Connections> {
        self.begin(conn)?;
        let open = self.open.remove(&conn.id.0)?;
        let row = self.rows.get_mut(open.row)?;
        row.open -= 1;
        Some(row)
    }

    fn listen(&mut self, listener: &ListenEvent) {
        if self.listening.contains_key(&listener.id.0) {
            return;
        }
        let program = Program::of(listener.owner.process.as_deref());
        let local = SocketAddr::new(canonical_ip(listener.local.ip()).0, listener.local.port());
        let place = (program.clone(), local);
        let row = match self.by_place.get(&place) {
            Some(row) => *row,
            None if self.listeners.len() >= ROWS_MAX => {
                self.not_shown += 1;
                return;
            }
            None => {
                self.by_place.insert(place, self.listeners.len());
                self.listeners.push(Listeners { program, local, count: 0, open: 0 });
                self.listeners.len() - 1
            }
        };
        if self.listening.len() >= OPEN_MAX {
            self.not_shown += 1;
            return;
        }
        self.listening.insert(listener.id.0, row);
        if let Some(of) = self.listeners.get_mut(row) {
            of.count += 1;
            of.open += 1;
        }
    }

    /// Connections and listeners that are in no row: limit reached.
    pub const fn not_shown(&self) -> u64 {
        self.not_shown
    }

    /// The rows, sorted: by program, direction, address and port.
    pub fn into_rows(self) -> (Vec<Connections>, Vec<Listeners>) {
        let (mut rows, mut listeners) = (self.rows, self.listeners);
        let key = |path: &Path| (path.program.clone(), path.direction as u8, path.remote, path.port);
        rows.sort_by_cached_key(|row| key(&row.path));
        listeners.sort_by(|a, b| (&a.program, a.local).cmp(&(&b.program, b.local)));
        (rows, listeners)
    }
}
