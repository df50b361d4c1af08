//! Serves the clients: a thread accepts, each client has one of its own, and what it asks is bounded in size, time and number.

mod serve;

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use super::Keeper;
use super::access::{Bound, Peer};
use super::hub::Asker;
use super::protocol::{About, RuleSources, write_error};
use crate::event::escape;
use crate::filter::Names;
use crate::units::{BootNs, WallNs};

/// How many clients there may be.
const CLIENTS_MAX: usize = 32;
/// Of one user, who is not root.
const OF_USER_MAX: usize = 16;
/// Connections of one minute that are logged; how many more there were is logged with the next.
const LOGGED_MAX: u32 = 60;
/// How long a client may take for its request, and for an answer that is no stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of an agent beside what its thread knows.
pub struct Facts {
    /// Who answers.
    pub about: About,
    /// When it attached.
    pub since: BootNs,
    /// The same by the wall clock.
    pub since_wall: WallNs,
    /// The backend of its hooks.
    pub backend: String,
    /// Rule folders; empty: the default rules.
    pub folders: Vec<String>,
    /// What keeps its events.
    pub keeper: Option<Arc<dyn Keeper>>,
    /// Takes what is to be logged.
    pub log: Box<dyn Fn(&str) + Send + Sync>,
}

/// What the clients' threads share.
pub struct State {
    facts: Facts,
    identity: crate::event::json::StreamIdentity,
    asker: Asker,
    rules: Mutex<(Arc<RuleSources>, Arc<Names>)>,
    /// One list at a time: it costs as much as there are sockets.
    listing: Mutex<()>,
    clients: Mutex<Clients>,
    next: AtomicU64,
    refused: AtomicU64,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Clients {
    by_user: HashMap<u32, usize>,
    all: usize,
}

/// Bounds what clients have logged.
#[derive(Debug)]
struct Log {
    since: Instant,
    count: u32,
    left_out: u64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Of an agent with these facts and rules.
    pub fn new(
        facts: Facts,
        identity: crate::event::json::StreamIdentity,
        asker: Asker,
        rules: RuleSources,
        names: Arc<Names>,
    ) -> Self {
        Self {
            facts,
            identity,
            asker,
            rules: Mutex::new((Arc::new(rules), names)),
            listing: Mutex::default(),
            clients: Mutex::default(),
            next: AtomicU64::new(1),
            refused: AtomicU64::new(0),
            log: Mutex::new(Log { since: Instant::now(), count: 0, left_out: 0 }),
        }
    }

    /// Other rules are active.
    pub fn set_rules(&self, rules: RuleSources, names: Arc<Names>) {
        *lock(&self.rules) = (Arc::new(rules), names);
    }

    fn rules(&self) -> Arc<RuleSources> {
        Arc::clone(&lock(&self.rules).0)
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&lock(&self.rules).1)
    }

    fn clients(&self) -> usize {
        lock(&self.clients).all
    }

    /// Logs a line, unless there were many of late.
    fn log(&self, line: &str) {
        // What a client says may be in it, and be of several lines.
        let line = &*escape::string(line.lines().next().unwrap_or_default().as_bytes());
        let mut log = lock(&self.log);
        if log.since.elapsed() >= Duration::from_mins(1) {
            let left_out = std::mem::take(&mut log.left_out);
            (log.since, log.count) = (Instant::now(), 0);
            if left_out > 0 {
                (self.facts.log)(&format!(
                    "{left_out} connections of clients were not logged: limit reached"
                ));
            }
        }
        log.count += 1;
        if log.count <= LOGGED_MAX {
            drop(log);
            (self.facts.log)(line);
        } else {
            log.left_out += 1;
        }
    }

    /// A place for a client of this user, or why there is none.
    fn admit(self: &Arc<Self>, uid: u32) -> Result<Place, String> {
        let mut clients = lock(&self.clients);
        let own = clients.by_user.get(&uid).copied().unwrap_or(0);
        let full = if clients.all >= CLIENTS_MAX {
            Some(format!("there are {CLIENTS_MAX} clients already"))
        } else if uid != 0 && own >= OF_USER_MAX {
            Some(format!("uid {uid} has {OF_USER_MAX} clients already"))
        } else {
            None
        };
        if let Some(full) = full {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(full);
        }
        clients.all += 1;
        *clients.by_user.entry(uid).or_default() += 1;
        Ok(Place { state: Arc::clone(self), uid, id: self.next.fetch_add(1, Ordering::Relaxed) })
    }
}

/// A client's place among those there may be.
struct Place {
    state: Arc<State>,
    uid: u32,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = lock(&self.state.clients);
        clients.all -= 1;
        if let Some(own) = clients.by_user.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                clients.by_user.remove(&self.uid);
            }
        }
    }
}

/// A server. When it is dropped, nobody else is served; who is served is the hub's to end.
#[derive(Debug)]
pub struct Server {
    bound: Arc<Bound>,
    is_ending: Arc<AtomicBool>,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(bound: Bound, state: Arc<State>) -> io::Result<Self> {
        let (bound, is_ending) = (Arc::new(bound), Arc::new(AtomicBool::new(false)));
        let (own, ends) = (Arc::clone(&bound), Arc::clone(&is_ending));
        thread::Builder::new().name("conn-socket".to_owned()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match own.listener.accept() {
                    Ok((stream, _)) => accept(&state, stream),
                    Err(_) if ends.load(Ordering::Relaxed) => return,
                    // Too many files are open, or it was interrupted.
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self { bound, is_ending })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // Not left to the thread, which may outlive the process's last moment.
        self.bound.remove();
        // Whoever waits in accept(2) is woken (`unix_shutdown`, net/unix/af_unix.c).
        let _ = shutdown(&self.bound.listener, Shutdown::Both);
    }
}

/// Gives a client a thread, or the reason why not.
fn accept(state: &Arc<State>, mut stream: UnixStream) {
    let Ok(peer) = Peer::of(&stream) else { return };
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let place = match state.admit(peer.uid) {
        Ok(place) => place,
        Err(why) => {
            state.log(&format!("refused pid {} (uid {}, gid {}): {why}", peer.pid, peer.uid, peer.gid));
            refuse(&mut stream, &why);
            return;
        }
    };
    let name = "conn-client".to_owned();
    let started =
        thread::Builder::new().name(name).spawn(move || serve::serve(&place.state, &place, stream, peer));
    if let Err(error) = started {
        state.log(&format!("cannot serve pid {}: {error}", peer.pid));
    }
}

fn refuse(stream: &mut UnixStream, why: &str) {
    use io::Write as _;
    let mut line = Vec::new();
    write_error(why, &mut line);
    // It fits: nothing was sent before.
    let _ = stream.write_all(&line);
}
