//! The agent's side of the socket: what clients get of each event, and what they ask the agent's thread.
//!
//! Without a client an event costs a count. An event is encoded once for all clients that get whole lines; who gets compact ones has an
//! encoder of its own, for what it was given decides what it can be referred to.

mod rate;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use memchr::memchr_iter;
use tokio::sync::Notify;

use self::rate::Rate;
use super::protocol::{Notice, write_notice};
use super::status::{Counts, Dropped, Gaps, Repairs};
use crate::agent::View;
use crate::agent::health::CLIENTS;
use crate::clock::boot_now;
use crate::event::alert::AlertId;
use crate::event::degraded::Degradation;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::kinds::KindSet;
use crate::event::model::{Event, EventBody, EventKind};
use crate::event::names::Named as _;
use crate::filter::Filter;
use crate::flow::table::Begun;
use crate::output::writer::{Class, Room, Target, Writer, Written};
use crate::replay::search::Ask as Which;

/// Questions that wait at most; who asks waits for its turn.
const ASKS_MAX: usize = 64;
/// What may wait for a client. There are a few dozen at most.
const ROOM: Room = Room { waiting: 4 << 20, reserve: 1 << 20 };
/// Lines of alerts that are remembered, and their bytes in sum.
const ALERTS_MAX: usize = 1_024;
const ALERT_BYTES_MAX: usize = 8 << 20;
/// How long the end waits for clients that have not read everything.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client that wants events.
pub struct Subscription {
    /// Its number among the clients.
    pub id: u64,
    /// Which events.
    pub filter: Filter,
    /// Of which kinds, gaps apart.
    pub kinds: KindSet,
    /// With each process written out once.
    pub compact: bool,
    /// Where lines go.
    pub stream: UnixStream,
    /// They wait until something comes here: the client has its answer.
    pub answered: Receiver<()>,
}

/// A question to the agent's thread. Who asked may be gone.
pub enum Ask {
    /// To get events. The answer is the number of the last event before them.
    Tail(Box<Subscription>, SyncSender<io::Result<u64>>),
    /// The client with this number wants no more.
    Leave(u64),
    /// When what these sockets carry began, by their keys.
    Begun(Vec<u64>, SyncSender<Vec<Option<Begun>>>),
    /// How the agent is.
    Counts(SyncSender<Box<Counts>>),
    /// The lines of an alert.
    Alert(Which, SyncSender<Vec<Arc<[u8]>>>),
}

/// Where questions go in.
#[derive(Clone)]
pub struct Asker {
    asks: SyncSender<Ask>,
    wake: Arc<Notify>,
}

impl Asker {
    /// Asks, and waits while too many questions wait.
    ///
    /// # Errors
    /// The agent ends.
    pub fn ask(&self, ask: Ask) -> io::Result<()> {
        let sent = match self.asks.try_send(ask) {
            Err(TrySendError::Full(ask)) => {
                self.wake.notify_one();
                self.asks.send(ask).is_ok()
            }
            sent => sent.is_ok(),
        };
        self.wake.notify_one();
        if sent { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}

struct Subscriber {
    id: u64,
    filter: Filter,
    kinds: KindSet,
    compact: Option<JsonEncoder>,
    writer: Writer,
    stream: UnixStream,
    /// Events that it lost and does not know of yet.
    unreported: u64,
}

/// See the module.
pub struct Hub {
    asks: Receiver<Ask>,
    wake: Arc<Notify>,
    identity: StreamIdentity,
    json: JsonEncoder,
    line: Vec<u8>,
    subscribers: Vec<Subscriber>,
    /// Events that clients lost which are gone.
    dropped: u64,
    name: Arc<str>,
    seq: u64,
    kinds: [u64; EventKind::ALL.len()],
    rate: Rate,
    /// The lines of alerts, the oldest first.
    alerts: VecDeque<(u64, AlertId, Arc<[u8]>)>,
    alert_bytes: usize,
}

impl Hub {
    /// Of the run with this identity. `wake` is notified when there is something to do for its owner: then it calls [`Self::flush`] and
    /// [`Self::look`].
    pub fn new(identity: &StreamIdentity, wake: Arc<Notify>) -> (Self, Asker) {
        let (asks_in, asks) = sync_channel(ASKS_MAX);
        let hub = Self {
            asks,
            wake: Arc::clone(&wake),
            identity: identity.clone(),
            json: JsonEncoder::new(identity),
            line: Vec::new(),
            subscribers: Vec::new(),
            dropped: 0,
            name: CLIENTS.into(),
            seq: 0,
            kinds: [0; EventKind::ALL.len()],
            rate: Rate::new(boot_now()),
            alerts: VecDeque::new(),
            alert_bytes: 0,
        };
        (hub, Asker { asks: asks_in, wake })
    }

    /// Takes an event. Never waits.
    pub fn on_event(&mut self, event: &Event) {
        let kind = event.body.kind();
        if event.seq > 0 {
            self.seq = event.seq;
            self.kinds[kind as usize] += 1;
        }
        let mut is_encoded = false;
        if let EventBody::Alert(alert) = &event.body {
            self.encode(event);
            is_encoded = true;
            self.remember(event.seq, alert.id);
        }
        if self.subscribers.is_empty() || kind.is_of_recording() {
            return;
        }
        let is_important = kind == EventKind::Alert || kind.is_always_shown();
        let class = if is_important { Class::Important } else { Class::Event };
        for at in 0..self.subscribers.len() {
            if !self.subscribers[at].shows(event) {
                continue;
            }
            if self.subscribers[at].compact.is_none() && !is_encoded {
                self.encode(event);
                is_encoded = true;
            }
            let (one, line) = (&mut self.subscribers[at], &self.line);
            one.report(class);
            let encoder = &mut one.compact;
            let is_taken = one.writer.line(class, |out| match encoder {
                Some(encoder) => encoder.encode(event, out),
                None => out.extend_from_slice(line),
            });
            one.unreported += u64::from(!is_taken);
        }
    }

    fn encode(&mut self, event: &Event) {
        self.line.clear();
        self.json.encode(event, &mut self.line);
    }

    /// Remembers the line of an alert, which was just encoded.
    fn remember(&mut self, seq: u64, id: AlertId) {
        self.alert_bytes += self.line.len();
        self.alerts.push_back((seq, id, self.line.as_slice().into()));
        while self.alerts.len() > ALERTS_MAX || self.alert_bytes > ALERT_BYTES_MAX {
            let Some((_, _, line)) = self.alerts.pop_front() else { break };
            self.alert_bytes -= line.len();
        }
    }

    /// Hands over what clients get. Never waits.
    pub fn flush(&mut self) {
        let dropped = &mut self.dropped;
        self.subscribers.retain_mut(|one| {
            one.report(Class::Event);
            // Its notices are for people who look after an output; the client has it in its own stream.
            let is_read = one.writer.flush().is_ok() && one.writer.notices().is_ok();
            if !is_read {
                *dropped += one.leave();
            }
            is_read
        });
    }

    /// Answers what was asked. `outputs` are those of the agent beside the socket.
    pub fn look(&mut self, agent: View<'_>, outputs: &[Writer]) {
        let (kinds, now) = (&self.kinds, boot_now);
        self.rate.take(|| (now(), kinds.iter().sum()));
        while let Ok(ask) = self.asks.try_recv() {
            // Who asked may be gone.
            match ask {
                Ask::Tail(subscription, answer) => drop(answer.try_send(self.subscribe(*subscription))),
                Ask::Leave(id) => self.leave(id),
                Ask::Begun(keys, answer) => {
                    let begun = keys.into_iter().map(|key| agent.pipeline.begun(key)).collect();
                    drop(answer.try_send(begun));
                }
                Ask::Counts(answer) => drop(answer.try_send(Box::new(self.counts(agent, outputs)))),
                Ask::Alert(which, answer) => drop(answer.try_send(self.alert(&which))),
            }
        }
    }

    fn subscribe(&mut self, of: Subscription) -> io::Result<u64> {
        let stream = of.stream.try_clone()?;
        let target = ClientTarget { stream: of.stream, answered: Some(of.answered) };
        let name = format!("client {}", of.id);
        let writer = Writer::start(name, target, Arc::clone(&self.wake))?.with_room(ROOM);
        let compact = of.compact.then(|| JsonEncoder::new(&self.identity).compact());
        let Subscription { id, filter, kinds, .. } = of;
        self.subscribers.push(Subscriber { id, filter, kinds, compact, writer, stream, unreported: 0 });
        Ok(self.seq)
    }

    fn leave(&mut self, id: u64) {
        if let Some(at) = self.subscribers.iter().position(|one| one.id == id) {
            self.dropped += self.subscribers.swap_remove(at).leave();
        }
    }

    fn alert(&self, which: &Which) -> Vec<Arc<[u8]>> {
        let run = format!("{}-{:x}-a", self.identity.boot8(), self.identity.agent_start.0);
        // The number of a line names the alert, of which all lines are meant.
        let id = self.alerts.iter().find(|(seq, id, _)| match which {
            Which::Id(own) => own == id,
            Which::Seq(own) => own == seq,
            Which::Name(own) => own.strip_prefix(&run).is_some_and(|number| *number == id.0.to_string()),
            Which::Only => true,
        });
        let Some(&(_, id, _)) = id else { return Vec::new() };
        self.alerts.iter().filter(|(_, own, _)| *own == id).map(|(_, _, line)| Arc::clone(line)).collect()
    }

    fn counts(&self, agent: View<'_>, outputs: &[Writer]) -> Counts {
        let pipeline = agent.pipeline;
        let stats = pipeline.stats();
        let own = Degradation::ALL.iter().map(|&what| (what, None, stats.dropped(what)));
        let lines = outputs
            .iter()
            .map(|output| (Degradation::Output, Some(output.name().to_string()), output.dropped()));
        let dropped = own.chain(lines).filter(|(_, _, count)| *count > 0);
        let dropped =
            dropped.map(|(what, place, count)| Dropped { what: what.name().to_owned(), place, count });
        let mut counts = Counts {
            seq: self.seq,
            events_per_second: self.rate.per_second(boot_now(), self.kinds.iter().sum()),
            gaps: Gaps {
                count: pipeline.gaps(),
                lost: pipeline.counts().values().map(|count| count.lost).sum(),
                undecoded: pipeline.undecoded(),
            },
            repairs: Repairs { done: agent.repairs.done, failed: agent.repairs.failed },
            dropped: dropped.collect(),
            rules: pipeline.engine().map_or(0, |engine| engine.rules().count() as u64),
            tails: self.subscribers.len() as u64,
            client_dropped: self.dropped(),
            ..Counts::default()
        };
        for kind in EventKind::ALL.into_iter().filter(|kind| self.kinds[*kind as usize] > 0) {
            counts.events.insert(kind.name().to_owned(), self.kinds[kind as usize]);
        }
        for severity in pipeline.open_severities() {
            *counts.open_alerts.entry(severity.name().to_owned()).or_default() += 1;
        }
        counts
    }

    fn dropped(&self) -> u64 {
        self.dropped + self.subscribers.iter().map(|one| one.writer.dropped()).sum::<u64>()
    }

    /// What clients lost, as of an output.
    pub fn lost(&self) -> (Arc<str>, u64) {
        (Arc::clone(&self.name), self.dropped())
    }

    /// Reports to every client that nothing more comes, and waits a moment for those that still read.
    pub async fn finish(&mut self) {
        self.flush();
        let end = Notice::End("the agent ends".to_owned());
        for one in &mut self.subscribers {
            one.report(Class::Important);
            one.writer.line(Class::Important, |out| write_notice(&end, out));
        }
        let all = async {
            for one in &mut self.subscribers {
                let _ = one.writer.drain().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
        for mut one in std::mem::take(&mut self.subscribers) {
            self.dropped += one.leave();
        }
    }
}

impl Subscriber {
    fn shows(&self, event: &Event) -> bool {
        let kind = event.body.kind();
        (kind.is_always_shown() || self.kinds.contains(kind)) && self.filter.passes(event)
    }

    /// Reports what it lost, as soon as there is room for that.
    fn report(&mut self, class: Class) {
        if self.unreported == 0 || !self.writer.has_room(class) {
            return;
        }
        let notice = Notice::Dropped(self.unreported);
        self.writer.line(class, |out| write_notice(&notice, out));
        self.unreported = 0;
        // A line that it lost may have been the one that wrote a process out.
        if let Some(encoder) = &mut self.compact {
            encoder.write_out_anew();
        }
    }

    /// Ends its connection, also for its writer's thread and for the one that waits for it to leave. Returns how much it lost.
    fn leave(&mut self) -> u64 {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.writer.dropped()
    }
}

/// A client's connection.
struct ClientTarget {
    stream: UnixStream,
    /// Until when lines wait.
    answered: Option<Receiver<()>>,
}

impl Target for ClientTarget {
    fn write(&mut self, lines: &[u8]) -> Written {
        use io::Write as _;
        let answered = self.answered.take().map_or(Ok(()), |answered| answered.recv());
        let answered = answered.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        match answered.and_then(|()| self.stream.write_all(lines)) {
            Ok(()) => Written::default(),
            Err(error) => Written { dropped: memchr_iter(b'\n', lines).count() as u64, error: Some(error) },
        }
    }

    /// There is one connection: it does not come back.
    fn is_gone(&self, _error: &io::Error) -> bool {
        true
    }
}
