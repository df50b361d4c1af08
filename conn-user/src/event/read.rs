//! Events read back from the lines that [`super::json`] writes: a recording.
//!
//! What JSON does not carry is not there afterwards: addresses of kernel objects, the file of an executable. Keys that are
//! not known are passed over: a newer conn may have written them. Each process is read once, however many events it is in.

mod alert;
mod process;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use conn_common::hook::HookId;
use serde_json::value::RawValue;
use thiserror::Error;

pub use self::alert::AlertLine;
use self::process::Processes;
pub(crate) use self::process::read as process_of;
pub use self::process::{KnownFacts, News, process};
use super::degraded::{Degradation, Degraded};
use super::json::StreamIdentity;
use super::model::{Event, EventBody, EventKind, ProcEvent, Repair, SCHEMA_VERSION, Start};
use super::names::{self, Named, from_name};
use super::time::Rfc3339Reader;
use super::wire::{Line, Stdio, Text, Who};
use crate::flow::born::{Born, BornBy};
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Method, Scope,
    Source, Traffic, UnknownReason, Unlisten,
};
use crate::flow::sample::{Counters, Sample};
use crate::host::interfaces::Device;
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Why a line is no event.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is not JSON, or not of this shape.
    #[error("not an event: {}", message(.0))]
    Json(#[from] serde_json::Error),
    /// It is not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// It is of a schema that this conn does not know.
    #[error("schema version {0}; this conn reads version {SCHEMA_VERSION}")]
    Schema(u32),
    /// A key that an event of this kind has is missing or `null`.
    #[error("a {kind} without `{key}`")]
    Missing {
        /// Kind of event.
        kind: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A value that has a name of its own is not one of these names.
    #[error("`{key}` is not {value:?}: it is one of {known}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is there.
        value: String,
        /// What could be.
        known: String,
    },
    /// The time of the event is none.
    #[error("`ts` is not a time in UTC with nine digits, such as 2026-11-24T03:41:27.123456789Z: {0:?}")]
    Time(String),
    /// A reference to a process that no line before wrote out.
    #[error("process {0} is not in an earlier line: is the beginning of the recording missing?")]
    Reference(String),
    /// An id is none.
    #[error("`{key}` is no id: {value:?}")]
    Id {
        /// The key.
        key: &'static str,
        /// What is there.
        value: String,
    },
}

/// An event of a recording.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events: a box would cost each an allocation")]
pub enum Recorded {
    /// An event as it was reported.
    Event(Event),
    /// An alert that was raised then, at this instant. A replay raises its own; for others see [`Reader::with_alerts`].
    Alert(BootNs),
    /// Time came to this instant, and nothing happened.
    Time(BootNs),
    /// Facts of a process became known at this instant, at this point of the stream.
    Facts(BootNs, KnownFacts),
    /// A connection was sampled at this point of the stream, at this instant.
    Sample(BootNs, Sample),
}

/// Reads lines.
#[derive(Debug, Default)]
pub struct Reader {
    processes: Processes,
    stream: Option<StreamIdentity>,
    runs: u64,
    short: String,
    time: Rfc3339Reader,
    /// Processes are read as the line has them.
    is_apart: bool,
    /// Alerts are read whole.
    has_alerts: bool,
}

impl Reader {
    /// Reads alerts whole too: they are events like the others. For those who show or store what another conn reported.
    ///
    /// Evidence has the type that its form shows. A text that is exactly the id of a process that an earlier line wrote out is that
    /// process: in compact lines the two look alike.
    #[must_use]
    pub const fn with_alerts(mut self) -> Self {
        self.has_alerts = true;
        self
    }

    /// Whose events the last line is among. The start of the run is 0 until a line reported it.
    pub const fn stream(&self) -> Option<&StreamIdentity> {
        self.stream.as_ref()
    }

    /// How many runs of an agent the lines so far are of. What is known of processes and connections is known within a run.
    pub const fn runs(&self) -> u64 {
        self.runs
    }

    /// What was found out, since the last call, of processes of earlier events.
    pub fn take_news(&mut self) -> Vec<News> {
        self.processes.take_news()
    }

    /// Reads a line, without its newline or with it.
    ///
    /// # Errors
    /// When it is no event of this schema.
    pub fn read(&mut self, line: &str) -> Result<Recorded, ReadError> {
        let mut short = std::mem::take(&mut self.short);
        short.clear();
        self.processes.shorten(line, &mut short);
        let recorded = self.read_short(&short);
        self.short = short;
        recorded
    }

    /// What an alert is about, read as an event that reports it: of a connection as it was opened or accepted, of a listener
    /// as it began. `None`: it is no alert, or about something else.
    ///
    /// # Errors
    /// When the line is no event of this schema.
    pub fn read_subject(&mut self, line: &str) -> Result<Option<Event>, ReadError> {
        self.is_apart = true;
        let subject = self.subject_of(line);
        self.is_apart = false;
        subject
    }

    fn subject_of(&mut self, line: &str) -> Result<Option<Event>, ReadError> {
        let line: Line<'_> = serde_json::from_str(line)?;
        if line.schema != SCHEMA_VERSION {
            return Err(ReadError::Schema(line.schema));
        }
        if named::<EventKind>("kind", &line.kind)? != EventKind::Alert || line.conn_id.is_none() {
            return Ok(None);
        }
        self.note_stream(&line)?;
        let change = if line.dir.is_none() {
            Change::Listen(self.listener(&line, EventKind::Alert)?)
        } else {
            let conn = self.conn(&line, EventKind::Alert)?;
            if conn.direction == Direction::In { Change::Accept(conn) } else { Change::Connect(conn) }
        };
        let body = EventBody::Flow(change);
        Ok(Some(Event { seq: line.seq, boot: line.boot_ns.into(), wall: self.wall(&line.ts)?, body }))
    }

    fn read_short(&mut self, line: &str) -> Result<Recorded, ReadError> {
        let line: Line<'_> = serde_json::from_str(line)?;
        if line.schema != SCHEMA_VERSION {
            return Err(ReadError::Schema(line.schema));
        }
        let kind: EventKind = named("kind", &line.kind)?;
        self.note_stream(&line)?;
        let body = match kind {
            EventKind::Connect => EventBody::Flow(Change::Connect(self.conn(&line, kind)?)),
            EventKind::Accept => EventBody::Flow(Change::Accept(self.conn(&line, kind)?)),
            EventKind::Established => EventBody::Flow(Change::Established(self.conn(&line, kind)?)),
            EventKind::Failed => {
                let failure =
                    Failure { errno: need(kind, "errno", line.errno)?, after: line.after_ns.map(DurationNs) };
                EventBody::Flow(Change::Failed(self.conn(&line, kind)?, failure))
            }
            EventKind::Close => {
                // The closer may refer to the owner.
                let conn = self.conn(&line, kind)?;
                EventBody::Flow(Change::Close(conn, self.ending(&line, kind)?))
            }
            EventKind::Listen => EventBody::Flow(Change::Listen(self.listener(&line, kind)?)),
            EventKind::Unlisten => {
                let listener = self.listener(&line, kind)?;
                let closer = self.actor("closer", line.closer.as_ref(), line.boot_ns.into())?;
                let end = Unlisten { closer, duration: line.duration_ns.map(DurationNs) };
                EventBody::Flow(Change::Unlisten(listener, end))
            }
            EventKind::Exec => {
                let mut exec = ProcEvent::new(self.process(&line, kind)?);
                exec.stdio = line.stdio.as_ref().map(ends).transpose()?;
                exec.parent_stdio = line.parent_stdio.as_ref().map(ends).transpose()?;
                let peers = line.stdio_peers.iter();
                exec.stdio_peers = peers.map(|peer| (Pid(peer.pid), peer.start_ns.into())).collect();
                EventBody::Exec(exec)
            }
            EventKind::Exit => {
                let status = match (line.code, line.signal) {
                    (Some(code), _) => ExitStatus::Code(code),
                    (None, signal) => ExitStatus::Signal(need(kind, "signal", signal)?),
                };
                EventBody::Exit(ProcEvent::new(self.process(&line, kind)?), status)
            }
            EventKind::Gap => EventBody::Gap(gap(&line, kind)?),
            EventKind::Repair => {
                let seen = need(kind, "seen_boot_ns", line.seen_boot_ns)?.into();
                EventBody::Repair(Repair { seen })
            }
            EventKind::Degraded => EventBody::Degraded(Degraded {
                what: named::<Degradation>("what", need(kind, "what", line.what.as_deref())?)?,
                place: line.place.as_deref().map(Into::into),
                count: need(kind, "count", line.count)?,
                total: need(kind, "total", line.total)?,
            }),
            EventKind::Start => {
                let attached = need(kind, "attached_boot_ns", line.attached_boot_ns)?.into();
                let has_facts = line.has_facts;
                // What was known in a run before is not known in this one.
                self.processes = Processes::of_run(has_facts);
                EventBody::Start(Start { attached, has_facts })
            }
            EventKind::Facts => {
                let at = line.boot_ns.into();
                let facts = self.processes.facts(need(kind, "process", line.process)?, at, line.settled)?;
                return Ok(Recorded::Facts(at, facts));
            }
            EventKind::Sample => return Ok(Recorded::Sample(line.boot_ns.into(), sample(&line, kind)?)),
            EventKind::Clock => return Ok(Recorded::Time(line.boot_ns.into())),
            EventKind::Alert if self.has_alerts => EventBody::Alert(Box::new(self.alert(&line)?)),
            EventKind::Alert => {
                // It may be the first to have a fact.
                if let Some(raw) = line.process {
                    self.processes.read(raw, line.boot_ns.into())?;
                }
                return Ok(Recorded::Alert(line.boot_ns.into()));
            }
        };
        let event = Event { seq: line.seq, boot: line.boot_ns.into(), wall: self.wall(&line.ts)?, body };
        Ok(Recorded::Event(event))
    }

    /// Takes note of whose events these are. A file may have the events of several runs, one after the other.
    fn note_stream(&mut self, line: &Line<'_>) -> Result<(), ReadError> {
        let host = line.host.as_deref().unwrap_or_default();
        let boot_id = line.boot_id.as_deref().unwrap_or_default();
        let named = match (&line.run, &line.conn_id) {
            (Some(run), _) => Some(("run", &**run)),
            (None, Some(id)) => Some(("conn_id", id.rsplit_once('-').map_or(&**id, |(run, _)| run))),
            (None, None) => None,
        };
        let start = |(key, run): (&'static str, &str)| {
            let digits = run.rsplit_once('-').and_then(|(_, digits)| u64::from_str_radix(digits, 16).ok());
            digits.map(BootNs).ok_or_else(|| ReadError::Id { key, value: run.to_owned() })
        };
        let start = named.map(start).transpose()?;
        if let Some(stream) = &mut self.stream
            && stream.boot_id == boot_id
            && stream.host == host
        {
            match start {
                Some(start) if stream.agent_start.0 == 0 => stream.agent_start = start,
                Some(start) if stream.agent_start != start => {
                    stream.agent_start = start;
                    // Only the start of a run says that it has them.
                    self.processes.has_facts = false;
                    self.runs += 1;
                }
                _ => {}
            }
            return Ok(());
        }
        let agent_start = start.unwrap_or_default();
        self.stream =
            Some(StreamIdentity { host: host.to_owned(), boot_id: boot_id.to_owned(), agent_start });
        self.processes = Processes::default();
        self.runs += 1;
        Ok(())
    }

    fn wall(&mut self, ts: &str) -> Result<WallNs, ReadError> {
        self.time.read(ts).ok_or_else(|| ReadError::Time(ts.to_owned()))
    }

    fn process(&mut self, line: &Line<'_>, kind: EventKind) -> Result<Arc<ProcessInfo>, ReadError> {
        self.read_process(need(kind, "process", line.process)?, line.boot_ns.into())
    }

    fn read_process(&mut self, raw: &RawValue, at: BootNs) -> Result<Arc<ProcessInfo>, ReadError> {
        if self.is_apart { self.processes.read_apart(raw) } else { self.processes.read(raw, at) }
    }

    fn conn(&mut self, line: &Line<'_>, kind: EventKind) -> Result<ConnEvent, ReadError> {
        let at = BootNs::from(line.boot_ns);
        let before = |duration: Option<u64>| duration.map(|duration| BootNs(at.0.saturating_sub(duration)));
        let established = match kind {
            // What was there before has an age in the place of a beginning.
            EventKind::Established if line.age.is_none() => Some(at),
            EventKind::Accept => before(line.queued_ns),
            EventKind::Close => before(line.duration_ns),
            _ => None,
        };
        let begun = match kind {
            EventKind::Connect => Some(at),
            EventKind::Established => before(line.connect_ns),
            EventKind::Failed => before(line.after_ns),
            _ => None,
        };
        Ok(ConnEvent {
            id: id("conn_id", need(kind, "conn_id", line.conn_id.as_deref())?)?,
            direction: named("dir", need(kind, "dir", line.dir.as_deref())?)?,
            transport: named("proto", need(kind, "proto", line.proto.as_deref())?)?,
            local: SocketAddr::new(need(kind, "laddr", line.laddr)?, line.lport.unwrap_or(0)),
            remote: SocketAddr::new(need(kind, "raddr", line.raddr)?, line.rport.unwrap_or(0)),
            mapped: line.mapped,
            device: device(line.device.as_ref()),
            netns: netns(line, kind)?,
            source: named("source", need(kind, "source", line.source.as_deref())?)?,
            born: born(line, at)?,
            kernel_socket: line.kernel_socket,
            owner: self.owner(line)?,
            listener: line.listener.as_ref().map(|who| self.actor("listener", Some(who), at)).transpose()?,
            begun: begun.unwrap_or_default(),
            established,
        })
    }

    fn listener(&mut self, line: &Line<'_>, kind: EventKind) -> Result<ListenEvent, ReadError> {
        let ip = need(kind, "laddr", line.laddr)?;
        // The model keeps a listener's address as it was bound.
        let ip = match ip {
            IpAddr::V4(v4) if line.mapped => IpAddr::V6(v4.to_ipv6_mapped()),
            ip => ip,
        };
        Ok(ListenEvent {
            id: id("conn_id", need(kind, "conn_id", line.conn_id.as_deref())?)?,
            transport: named("proto", need(kind, "proto", line.proto.as_deref())?)?,
            local: SocketAddr::new(ip, line.lport.unwrap_or(0)),
            netns: netns(line, kind)?,
            source: named("source", need(kind, "source", line.source.as_deref())?)?,
            born: born(line, line.boot_ns.into())?,
            kernel_socket: line.kernel_socket,
            owner: self.owner(line)?,
            socket_unit: line.socket_unit.as_deref().map(Arc::from),
            scope: line.v6only.map(|v6only| Scope { device: device(line.device.as_ref()), v6only }),
        })
    }

    fn ending(&mut self, line: &Line<'_>, kind: EventKind) -> Result<Ending, ReadError> {
        let traffic = match (line.bytes_in, line.bytes_out, line.srtt_us) {
            (Some(bytes_in), Some(bytes_out), Some(srtt_us)) => {
                Some(Traffic { bytes_in, bytes_out, retransmits: line.retransmits, srtt_us })
            }
            _ => None,
        };
        Ok(Ending {
            how: named::<EndedHow>("end", need(kind, "end", line.end.as_deref())?)?,
            errno: need(kind, "errno", line.errno)?,
            closer: self.actor("closer", line.closer.as_ref(), line.boot_ns.into())?,
            duration: line.duration_ns.map(DurationNs),
            traffic,
        })
    }

    fn owner(&mut self, line: &Line<'_>) -> Result<Actor, ReadError> {
        let who = Who {
            process: line.process,
            tid: line.tid,
            method: borrowed(line.method.as_ref()),
            hook: borrowed(line.hook.as_ref()),
            reason: borrowed(line.reason.as_ref()),
        };
        self.actor("method", Some(&who), line.boot_ns.into())
    }

    /// An actor; one that is not there at all is not known, for a reason that is not known either.
    fn actor(&mut self, key: &'static str, who: Option<&Who<'_>>, at: BootNs) -> Result<Actor, ReadError> {
        let Some(who) = who else {
            return Ok(Actor::unknown(UnknownReason::Lost));
        };
        let method = match who.method.as_deref() {
            Some("hook") => Method::Hook(hook(who.hook.as_deref().unwrap_or_default())?),
            Some("listener") => Method::Listener,
            Some("closer") => Method::Closer,
            Some("fd_table") => Method::FdTable,
            Some("unknown") | None => Method::Unknown(
                who.reason.as_deref().map_or(Ok(UnknownReason::Lost), |reason| named("reason", reason))?,
            ),
            Some(other) => return Err(wrong_name(key, other, &names::METHODS)),
        };
        let process = who.process.map(|raw| self.read_process(raw, at)).transpose()?;
        Ok(Actor { process, tid: who.tid.map(Pid), method })
    }
}

/// serde's own message ends with a place in this line's text, which is reported as line and column of the file.
fn message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what).to_owned()
}

fn borrowed<'t>(text: Option<&'t Text<'_>>) -> Option<Text<'t>> {
    text.map(|text| Text(Cow::Borrowed(text)))
}

fn need<T>(kind: EventKind, key: &'static str, value: Option<T>) -> Result<T, ReadError> {
    value.ok_or(ReadError::Missing { kind: kind.name(), key })
}

fn named<T: Named>(key: &'static str, name: &str) -> Result<T, ReadError> {
    from_name(name).ok_or_else(|| wrong_name(key, name, &names::all::<T>()))
}

fn wrong_name(key: &'static str, name: &str, known: &[&str]) -> ReadError {
    ReadError::Name { key, value: name.to_owned(), known: known.join(", ") }
}

fn hook(label: &str) -> Result<HookId, ReadError> {
    let known = || HookId::ALL.iter().copied();
    known()
        .find(|hook| hook.label() == label)
        .ok_or_else(|| wrong_name("hook", label, &known().map(HookId::label).collect::<Vec<_>>()))
}

/// The number behind the last dash: `752b100f-539cace2690-15`.
fn id(key: &'static str, text: &str) -> Result<ConnId, ReadError> {
    let number = text.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    number.map(ConnId).ok_or_else(|| ReadError::Id { key, value: text.to_owned() })
}

/// What an exec reports a connection. The rest is in the connection's own events.
fn ends(of: &Stdio<'_>) -> Result<Box<ConnEvent>, ReadError> {
    let local = SocketAddr::new(of.laddr, of.lport.unwrap_or(0));
    let remote = SocketAddr::new(of.raddr, of.rport.unwrap_or(0));
    let (id, direction) = (id("conn_id", &of.conn_id)?, named::<Direction>("dir", &of.dir)?);
    Ok(Box::new(ConnEvent {
        device: device(of.device.as_ref()),
        source: Source::Late,
        ..ConnEvent::new(id, direction, (local, remote), NetNs(0), Actor::unknown(UnknownReason::Lost))
    }))
}

fn device(name: Option<&Text<'_>>) -> Option<Arc<Device>> {
    name.map(|name| Arc::new(Device::new(name)))
}

fn netns(line: &Line<'_>, kind: EventKind) -> Result<NetNs, ReadError> {
    need(kind, "netns", line.netns.and_then(|inode| u32::try_from(inode).ok())).map(NetNs)
}

fn born(line: &Line<'_>, at: BootNs) -> Result<Option<Born>, ReadError> {
    let Some(age) = &line.age else { return Ok(None) };
    let back = |age: u64| BootNs(at.0.saturating_sub(age));
    Ok(Some(Born {
        earliest: age.at_most_ns.map_or(BootNs(0), back),
        latest: back(age.at_least_ns),
        earliest_by: named::<BornBy>("at_most_by", &age.at_most_by)?,
        latest_by: named::<BornBy>("at_least_by", &age.at_least_by)?,
    }))
}

fn sample(line: &Line<'_>, kind: EventKind) -> Result<Sample, ReadError> {
    let counters = line.asked_boot_ns.map(|asked| {
        Ok::<_, ReadError>(Counters {
            asked: asked.into(),
            bytes_in: need(kind, "bytes_in", line.bytes_in)?,
            bytes_out: need(kind, "bytes_out", line.bytes_out)?,
            received: need(kind, "received_boot_ns", line.received_boot_ns)?.into(),
            sent: need(kind, "sent_boot_ns", line.sent_boot_ns)?.into(),
        })
    });
    let id = id("conn_id", need(kind, "conn_id", line.conn_id.as_deref())?)?;
    Ok(Sample { id, counters: counters.transpose()? })
}

fn gap(line: &Line<'_>, kind: EventKind) -> Result<Gap, ReadError> {
    Ok(Gap {
        hook: hook(need(kind, "hook", line.hook.as_deref())?)?,
        cause: named::<GapCause>("cause", need(kind, "cause", line.cause.as_deref())?)?,
        cpu: line.cpu,
        lost: need(kind, "lost", line.lost)?,
        from: need(kind, "from_boot_ns", line.from_boot_ns)?.into(),
        to: need(kind, "to_boot_ns", line.to_boot_ns)?.into(),
    })
}
