//! One client: its request, and the answer.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use super::{PATIENCE, Place, State, lock, refuse};
use crate::clock::{self, Clock};
use crate::event::kinds::KindSet;
use crate::event::model::EventKind;
use crate::event::names;
use crate::event::time::Rfc3339;
use crate::filter::Filter;
use crate::replay::search::Ask as Which;
use crate::service::access::Peer;
use crate::service::hub::{Ask, Subscription};
use crate::service::list::{self, Wanted};
use crate::service::protocol::{
    AlertFound, ListRequest, Listed, REQUEST_MAX, Request, Subscribed, Synced, TailRequest, read_request,
    write_ok,
};
use crate::service::status::{Clients, Rules, Status};
use crate::sockets::Selection;
use crate::sockets::json::{self, Asked};

/// Serves a client until it has its answer, or leaves.
pub(super) fn serve(state: &State, place: &Place, mut stream: UnixStream, peer: Peer) {
    let who = format!("pid {} (uid {}, gid {})", peer.pid, peer.uid, peer.gid);
    let request =
        match read_line(&mut stream).map(|line| read_request(&line).map_err(|error| error.to_string())) {
            Ok(Ok(request)) => request,
            Ok(Err(why)) => {
                state.log(&format!("refused {who}: {why}"));
                return refuse(&mut stream, &why);
            }
            // It says nothing that could be answered.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => {
                let why = format!("no request: {error}");
                state.log(&format!("refused {who}: {why}"));
                return refuse(&mut stream, &why);
            }
        };
    state.log(&format!("client {}: {who} asks for {}", place.id, request.name()));
    let answered = match &request {
        Request::Tail(of) => tail(state, place, &mut stream, of),
        Request::List(of) => list(state, &mut stream, of),
        Request::Status => status(state, &mut stream),
        Request::Sync => sync(state).map(|history| send(&mut stream, &Synced { history })),
        Request::Rules => {
            send(&mut stream, &*state.rules());
            Ok(())
        }
        Request::Alert { id } => alert(state, &mut stream, id),
    };
    if let Err(Refused(why)) = answered {
        state.log(&format!("refused client {}: {why}", place.id));
        refuse(&mut stream, &why);
    }
}

/// Why a client does not get what it asks for.
struct Refused(String);

impl<T: std::fmt::Display> From<T> for Refused {
    fn from(why: T) -> Self {
        Self(why.to_string())
    }
}

/// Reads a request within a time, and not more than it may have.
fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut part = [0; 4 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long"));
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        line.extend_from_slice(&part[..read]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return String::from_utf8(line)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"));
        }
        if line.len() >= REQUEST_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("longer than {REQUEST_MAX} bytes"),
            ));
        }
    }
}

/// Answers. A client that is gone, or does not read, gets nothing.
fn send(stream: &mut UnixStream, ok: &impl serde::Serialize) {
    let mut line = Vec::new();
    write_ok(ok, &mut line);
    let _ = stream.write_all(&line);
}

/// Asks the agent's thread, and waits for its answer.
fn ask<T>(state: &State, ask: impl FnOnce(SyncSender<T>) -> Ask) -> Result<T, Refused> {
    let (answer, answered) = sync_channel(1);
    state.asker.ask(ask(answer)).map_err(|_| "the agent ends")?;
    answered.recv_timeout(PATIENCE).map_err(|_| Refused("the agent does not answer".to_owned()))
}

/// Has the history commit. Returns its folder.
fn sync(state: &State) -> Result<Option<String>, Refused> {
    let Some(keeper) = &state.facts.keeper else { return Ok(None) };
    keeper.commit().map_err(|why| format!("the history cannot be committed: {why}"))?;
    Ok(Some(keeper.folder().display().to_string()))
}

fn kinds(of: &TailRequest, filter: &Filter) -> Result<KindSet, Refused> {
    let Some(named) = &of.kinds else {
        let asked = [EventKind::Exec, EventKind::Exit].into_iter().filter(|kind| filter.asks_for(*kind));
        return Ok(KindSet::DEFAULT.and(asked));
    };
    let kind = |name: &String| {
        names::from_name(name).ok_or_else(|| Refused(format!("{name:?} is no kind of event")))
    };
    named.iter().map(kind).collect()
}

fn tail(state: &State, place: &Place, stream: &mut UnixStream, of: &TailRequest) -> Result<(), Refused> {
    let filter = Filter::with_names(&of.filter, &state.names())?;
    let kinds = kinds(of, &filter)?;
    let (answered, gate) = sync_channel(1);
    // What goes on in this stream has no time: a client may sleep.
    let own = stream.try_clone()?;
    own.set_write_timeout(None)?;
    let compact = of.compact;
    let subscription = Subscription { id: place.id, filter, kinds, compact, stream: own, answered: gate };
    let seq = ask(state, |answer| Ask::Tail(Box::new(subscription), answer))??;
    let leave = || drop(state.asker.ask(Ask::Leave(place.id)));
    let history = match if of.sync { sync(state) } else { Ok(None) } {
        Ok(history) => history,
        Err(why) => {
            refuse(stream, &why.0);
            leave();
            return Ok(());
        }
    };
    send(stream, &Subscribed { agent: state.facts.about.clone(), seq, history });
    let _ = answered.send(());
    // Until it leaves, or the agent ends its connection. It has nothing more to say.
    stream.set_read_timeout(None)?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
    leave();
    Ok(())
}

fn list(state: &State, stream: &mut UnixStream, of: &ListRequest) -> Result<(), Refused> {
    let selection = [Selection::Connected, Selection::Listening, Selection::All]
        .into_iter()
        .find(|selection| selection.name() == of.selection || of.selection.is_empty())
        .ok_or_else(|| format!("{:?} is no selection: connected, listening or all", of.selection))?;
    let filter = Filter::for_sockets(&of.filter, &state.names())?;
    let sort = of.sort.as_deref().map(str::parse).transpose()?;
    let one = lock(&state.listing);
    let mut begun = |keys: Vec<u64>| {
        let count = keys.len();
        ask(state, |answer| Ask::Begun(keys, answer)).unwrap_or_else(|_| vec![None; count])
    };
    let wanted = Wanted { selection, filter: &filter, sort, facts: of.facts };
    let listing = list::list(wanted, &mut begun)?;
    drop(one);
    let mut out = Vec::new();
    write_ok(&Listed { agent: state.facts.about.clone() }, &mut out);
    let (asked, wall) = (Asked { selection, filter: filter.to_string() }, Clock::now().wall(listing.ended));
    json::write(&listing, &asked, &state.identity, wall, &mut out);
    let _ = stream.write_all(&out);
    Ok(())
}

fn alert(state: &State, stream: &mut UnixStream, id: &str) -> Result<(), Refused> {
    let which = Which::read(id).ok_or_else(|| format!("{id:?} is no id of an alert"))?;
    let lines = ask(state, |answer| Ask::Alert(which, answer))?;
    if lines.is_empty() {
        return Err(format!("the agent remembers no alert {id:?}").into());
    }
    let mut out = Vec::new();
    write_ok(&AlertFound { lines: lines.len() }, &mut out);
    for line in &lines {
        out.extend_from_slice(line);
    }
    let _ = stream.write_all(&out);
    Ok(())
}

fn status(state: &State, stream: &mut UnixStream) -> Result<(), Refused> {
    let counts = ask(state, Ask::Counts)?;
    let mut since = Vec::new();
    Rfc3339::default().write(state.facts.since_wall, &mut since);
    let status = Status {
        agent: state.facts.about.clone(),
        since: String::from_utf8_lossy(&since).into_owned(),
        running_for_ns: clock::boot_now().since(state.facts.since).0,
        backend: state.facts.backend.clone(),
        events: counts.events,
        seq: counts.seq,
        events_per_second: counts.events_per_second,
        gaps: counts.gaps,
        repairs: counts.repairs,
        dropped: counts.dropped,
        rules: Rules { active: counts.rules, folders: state.facts.folders.clone() },
        open_alerts: counts.open_alerts,
        clients: Clients {
            now: state.clients() as u64,
            tails: counts.tails,
            total: state.next.load(std::sync::atomic::Ordering::Relaxed) - 1,
            refused: state.refused.load(std::sync::atomic::Ordering::Relaxed),
            dropped: counts.client_dropped,
        },
        memory_bytes: memory(),
        history: state.facts.keeper.as_ref().map(|keeper| keeper.state()),
    };
    send(stream, &status);
    Ok(())
}

/// Resident memory, bytes.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
