//! An event as one line of JSON: the keys, and their order, of `docs/events.md` and [`super::schema`].

mod alert;
pub(crate) mod process;
#[cfg(test)]
mod tests;
mod written_out;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(crate) use self::process::write_key;
use self::process::{ProcessWriter, write_option};
use self::written_out::WrittenOut;
use super::address::{write_int, write_ip};
use super::age::Age;
use super::degraded::Degraded;
use super::heartbeat::Heartbeat;
use super::model::{Event, EventBody, SCHEMA_VERSION};
use super::names::{self, Named};
use super::time::Rfc3339;
use super::{community, errno, escape};
use crate::flow::born::Born;
use crate::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, Ending, Failure, ListenEvent, Method, Source, Transport,
    canonical_ip,
};
use crate::host::interfaces::Device;
use crate::kernel::gap::Gap;
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, DurationNs, NetNs, Pid};

/// What names this machine, this boot and this run in every event. By default nobody: what no agent saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamIdentity {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// When this run of the agent started: makes connection ids of two runs differ.
    pub agent_start: BootNs,
}

impl StreamIdentity {
    /// The first eight digits of the boot id: what names of processes and connections begin with.
    pub fn boot8(&self) -> String {
        self.boot_id.chars().filter(char::is_ascii_hexdigit).take(8).collect()
    }
}

/// Encodes events as JSON lines.
pub struct JsonEncoder {
    time: Rfc3339,
    processes: ProcessWriter,
    /// What can be referred to, if processes are written out once and not in each line.
    written_out: Option<WrittenOut>,
    /// `,"host":"…","boot_id":"…","kind":"`
    host: Vec<u8>,
    /// `,"conn_id":"…-…-`
    conn_id: Vec<u8>,
    /// `…-…-`, what names of this run begin with.
    run: Vec<u8>,
}

impl JsonEncoder {
    /// An encoder for the events of one run.
    pub fn new(identity: &StreamIdentity) -> Self {
        let boot8 = identity.boot8();
        let mut host = b",\"host\":".to_vec();
        escape::json_string(identity.host.as_bytes(), false, &mut host);
        host.extend_from_slice(b",\"boot_id\":");
        escape::json_string(identity.boot_id.as_bytes(), false, &mut host);
        host.extend_from_slice(b",\"kind\":\"");
        let run = format!("{boot8}-{:x}-", identity.agent_start.0).into_bytes();
        let conn_id = [b",\"conn_id\":\"".as_slice(), &run].concat();
        let (time, processes) = (Rfc3339::default(), ProcessWriter::new(&boot8));
        Self { time, processes, written_out: None, host, conn_id, run }
    }

    /// Writes each process out once, and then refers to it by its id: for those who read all lines.
    #[must_use]
    pub fn compact(self) -> Self {
        Self { written_out: Some(WrittenOut::default()), ..self }
    }

    /// Forgets which processes are written out: a line before may not have reached its reader.
    pub fn write_out_anew(&mut self) {
        if let Some(written_out) = &mut self.written_out {
            *written_out = WrittenOut::default();
        }
    }

    /// Appends the event as one line, with its newline.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.head(event, out);
        match &event.body {
            EventBody::Flow(change) => self.flow(change, event.boot, out),
            EventBody::Exec(exec) => {
                self.process(Some(&exec.process), b",\"process\":", out);
                let connections: [(&[u8], _); 2] =
                    [(b",\"stdio\":", &exec.stdio), (b",\"parent_stdio\":", &exec.parent_stdio)];
                for (key, conn) in
                    connections.into_iter().filter_map(|(key, conn)| Some((key, conn.as_ref()?)))
                {
                    out.extend_from_slice(key);
                    out.extend_from_slice(b"{\"dir\":\"");
                    out.extend_from_slice(conn.direction.name().as_bytes());
                    out.push(b'"');
                    write_end(b",\"laddr\":\"", b",\"lport\":", conn.local, out);
                    write_end(b",\"raddr\":\"", b",\"rport\":", conn.remote, out);
                    write_device(conn.device.as_deref(), out);
                    self.conn_id(conn.id, out);
                    out.push(b'}');
                }
                write_peers(&exec.stdio_peers, out);
            }
            EventBody::Exit(exit, status) => {
                self.process(Some(&exit.process), b",\"process\":", out);
                let (key, number): (&[u8], u8) = match status {
                    ExitStatus::Code(code) => (b",\"code\":", *code),
                    ExitStatus::Signal(signal) => (b",\"signal\":", *signal),
                };
                out.extend_from_slice(key);
                write_int(number, out);
            }
            EventBody::Gap(gap) => write_gap(gap, out),
            EventBody::Alert(alert) => self.alert(alert, event.boot, out),
            EventBody::Clock => {}
            EventBody::Repair(repair) => {
                write_instant(b"seen_boot_ns", repair.seen, out);
            }
            EventBody::Degraded(degraded) => write_degraded(degraded, out),
            EventBody::Heartbeat(heartbeat) => write_heartbeat(heartbeat, out),
            EventBody::Facts(facts) => {
                self.process(Some(&facts.process), b",\"process\":", out);
                write_key(b"settled", out);
                out.extend_from_slice(if facts.is_settled { b"true" } else { b"false" });
            }
            EventBody::Sample(sample) => {
                self.conn_id(sample.id, out);
                if let Some(counters) = &sample.counters {
                    write_instant(b"asked_boot_ns", counters.asked, out);
                    write_key(b"bytes_in", out);
                    write_int(counters.bytes_in, out);
                    write_key(b"bytes_out", out);
                    write_int(counters.bytes_out, out);
                    write_instant(b"received_boot_ns", counters.received, out);
                    write_instant(b"sent_boot_ns", counters.sent, out);
                }
            }
            EventBody::Start(start) => {
                write_text(b"run", self.run.strip_suffix(b"-").unwrap_or(&self.run), out);
                write_instant(b"attached_boot_ns", start.attached, out);
                if start.has_facts {
                    out.extend_from_slice(b",\"has_facts\":true");
                }
            }
        }
        out.extend_from_slice(b"}\n");
    }

    fn head(&mut self, event: &Event, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"schema\":");
        write_int(SCHEMA_VERSION, out);
        out.extend_from_slice(b",\"seq\":");
        write_int(event.seq, out);
        out.extend_from_slice(b",\"ts\":\"");
        self.time.write(event.wall, out);
        out.push(b'"');
        write_instant(b"boot_ns", event.boot, out);
        out.extend_from_slice(&self.host);
        out.extend_from_slice(event.body.kind().name().as_bytes());
        out.push(b'"');
    }

    fn flow(&mut self, change: &Change, at: BootNs, out: &mut Vec<u8>) {
        match change {
            Change::Connect(conn) => self.conn(conn, at, out),
            Change::Accept(conn) => {
                self.conn(conn, at, out);
                if let Some(listener) = &conn.listener {
                    self.process(listener.process.as_ref(), b",\"listener\":{\"process\":", out);
                    write_method(listener.method, out);
                    out.push(b'}');
                }
                out.extend_from_slice(b",\"queued_ns\":");
                write_duration(conn.established.map(|established| at.since(established)), out);
            }
            Change::Established(conn) => {
                self.conn(conn, at, out);
                out.extend_from_slice(b",\"connect_ns\":");
                write_duration(conn.connect_time(), out);
            }
            Change::Failed(conn, failure) => {
                self.conn(conn, at, out);
                write_failure(failure, out);
            }
            Change::Close(conn, ending) => {
                self.conn(conn, at, out);
                self.ending(ending, &conn.owner, out);
            }
            Change::Listen(listener) => self.listener(listener, at, out),
            Change::Unlisten(listener, end) => {
                self.listener(listener, at, out);
                out.extend_from_slice(b",\"duration_ns\":");
                write_duration(end.duration, out);
                self.closer(&end.closer, &listener.owner, out);
            }
        }
    }

    fn conn(&mut self, conn: &ConnEvent, at: BootNs, out: &mut Vec<u8>) {
        self.conn_id(conn.id, out);
        write_community_id(conn.local, conn.remote, out);
        out.extend_from_slice(match conn.direction {
            Direction::Out => b",\"dir\":\"out\"".as_slice(),
            Direction::In => b",\"dir\":\"in\"",
            Direction::Unknown => b",\"dir\":\"unknown\"",
        });
        write_transport(conn.transport, out);
        write_family(conn.local.ip(), conn.mapped, out);
        write_end(b",\"laddr\":\"", b",\"lport\":", conn.local, out);
        write_end(b",\"raddr\":\"", b",\"rport\":", conn.remote, out);
        write_device(conn.device.as_deref(), out);
        write_netns(conn.netns, conn.source, out);
        write_born(conn.born.as_ref(), conn.source, at, out);
        write_kernel_socket(conn.kernel_socket, out);
        self.owner(&conn.owner, out);
    }

    fn listener(&mut self, listener: &ListenEvent, at: BootNs, out: &mut Vec<u8>) {
        let (ip, mapped) = canonical_ip(listener.local.ip());
        self.conn_id(listener.id, out);
        write_transport(listener.transport, out);
        write_family(ip, mapped, out);
        write_end(b",\"laddr\":\"", b",\"lport\":", SocketAddr::new(ip, listener.local.port()), out);
        if let Some(scope) = &listener.scope {
            write_device(scope.device.as_deref(), out);
            write_key(b"v6only", out);
            out.extend_from_slice(if scope.v6only { b"true" } else { b"false" });
        }
        write_netns(listener.netns, listener.source, out);
        write_born(listener.born.as_ref(), listener.source, at, out);
        write_kernel_socket(listener.kernel_socket, out);
        if listener.is_systemds() {
            out.extend_from_slice(b",\"socket_unit\":");
            match &listener.socket_unit {
                Some(unit) => escape::json_string(unit.as_bytes(), false, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        self.owner(&listener.owner, out);
    }

    fn ending(&mut self, ending: &Ending, owner: &Actor, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"end\":\"");
        out.extend_from_slice(ending.how.name().as_bytes());
        out.extend_from_slice(b"\",\"errno\":");
        write_int(ending.errno, out);
        out.extend_from_slice(b",\"error\":");
        write_error(ending.errno, b"null", out);
        out.extend_from_slice(b",\"duration_ns\":");
        write_duration(ending.duration, out);
        out.extend_from_slice(b",\"bytes_in\":");
        write_option(ending.traffic.map(|traffic| traffic.bytes_in), out);
        out.extend_from_slice(b",\"bytes_out\":");
        write_option(ending.traffic.map(|traffic| traffic.bytes_out), out);
        out.extend_from_slice(b",\"retransmits\":");
        write_option(ending.traffic.and_then(|traffic| traffic.retransmits), out);
        out.extend_from_slice(b",\"srtt_us\":");
        write_option(ending.traffic.map(|traffic| traffic.srtt_us), out);
        self.closer(&ending.closer, owner, out);
    }

    fn conn_id(&self, id: ConnId, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.conn_id);
        write_int(id.0, out);
        out.push(b'"');
    }

    fn owner(&mut self, owner: &Actor, out: &mut Vec<u8>) {
        self.process(owner.process.as_ref(), b",\"process\":", out);
        write_tid(owner, out);
        write_method(owner.method, out);
    }

    /// The closer, whose process is a reference where it is that of the owner.
    fn closer(&mut self, closer: &Actor, owner: &Actor, out: &mut Vec<u8>) {
        match (&closer.process, &owner.process) {
            (Some(closer), Some(owner)) if Arc::ptr_eq(closer, owner) => {
                out.extend_from_slice(b",\"closer\":{\"process\":");
                self.processes.refer(closer, out);
            }
            (process, _) => self.process(process.as_ref(), b",\"closer\":{\"process\":", out),
        }
        write_tid(closer, out);
        write_method(closer.method, out);
        out.push(b'}');
    }

    fn process(&mut self, process: Option<&Arc<ProcessInfo>>, key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(key);
        match process {
            Some(process) => {
                if self.written_out.as_mut().is_some_and(|written_out| written_out.has(process)) {
                    self.processes.refer(process, out);
                } else {
                    self.processes.write(process, out);
                }
            }
            None => out.extend_from_slice(b"null"),
        }
    }
}

/// Nothing where there are none.
fn write_peers(peers: &[(Pid, BootNs)], out: &mut Vec<u8>) {
    let Some(last) = peers.len().checked_sub(1) else { return };
    out.extend_from_slice(b",\"stdio_peers\":[");
    for (at, (pid, start)) in peers.iter().enumerate() {
        out.extend_from_slice(b"{\"pid\":");
        write_int(pid.0, out);
        write_instant(b"start_ns", *start, out);
        out.extend_from_slice(if at == last { b"}".as_slice() } else { b"}," });
    }
    out.push(b']');
}

fn write_degraded(degraded: &Degraded, out: &mut Vec<u8>) {
    write_text(b"what", degraded.what.name().as_bytes(), out);
    if let Some(place) = &degraded.place {
        write_text(b"place", place.as_bytes(), out);
    }
    for (key, number) in [(&b"count"[..], degraded.count), (b"total", degraded.total)] {
        write_key(key, out);
        write_int(number, out);
    }
}

fn write_heartbeat(of: &Heartbeat, out: &mut Vec<u8>) {
    for (key, number) in [
        (&b"every_ns"[..], of.every.0),
        (b"uptime_ns", of.uptime.0),
        (b"records_lost", of.lost),
        (b"dropped", of.dropped),
        (b"open_alerts", of.open_alerts),
    ] {
        write_key(key, out);
        write_int(number, out);
    }
}

fn write_gap(gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"hook\":\"");
    out.extend_from_slice(gap.hook.label().as_bytes());
    out.extend_from_slice(b"\",\"cause\":\"");
    out.extend_from_slice(gap.cause.name().as_bytes());
    out.extend_from_slice(b"\",\"cpu\":");
    write_option(gap.cpu, out);
    out.extend_from_slice(b",\"lost\":");
    write_int(gap.lost, out);
    write_instant(b"from_boot_ns", gap.from, out);
    write_instant(b"to_boot_ns", gap.to, out);
}

fn write_community_id(local: SocketAddr, remote: SocketAddr, out: &mut Vec<u8>) {
    if let Some(id) = community::id(local, remote) {
        out.extend_from_slice(b",\"community_id\":\"");
        out.extend_from_slice(&id);
        out.push(b'"');
    }
}

/// Appends a key and a text that is UTF-8 (of one that need not be, see [`escape::json_string`]).
pub(crate) fn write_text(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    write_key(key, out);
    escape::json_string(value, false, out);
}

/// Appends a key and an instant: a string of digits, see [`super::wire::Instant`].
fn write_instant(key: &[u8], instant: BootNs, out: &mut Vec<u8>) {
    write_key(key, out);
    out.push(b'"');
    write_int(instant.0, out);
    out.push(b'"');
}

fn write_transport(transport: Transport, out: &mut Vec<u8>) {
    out.extend_from_slice(match transport {
        Transport::Tcp => b",\"proto\":\"tcp\"".as_slice(),
        Transport::Mptcp => b",\"proto\":\"mptcp\"",
    });
}

fn write_family(ip: IpAddr, mapped: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if ip.is_ipv4() { b",\"family\":\"ipv4\"" } else { b",\"family\":\"ipv6\"" });
    out.extend_from_slice(if mapped { b",\"mapped\":true".as_slice() } else { b",\"mapped\":false" });
}

fn write_end(address_key: &[u8], port_key: &[u8], end: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(address_key);
    write_ip(end.ip(), out);
    out.push(b'"');
    out.extend_from_slice(port_key);
    write_option(Some(end.port()).filter(|port| *port != 0), out);
}

/// The interface that a socket is bound to, where it is.
fn write_device(device: Option<&Device>, out: &mut Vec<u8>) {
    if let Some(device) = device {
        write_text(b"device", device.name().as_bytes(), out);
    }
}

fn write_netns(netns: NetNs, source: Source, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"netns\":");
    write_int(netns.0, out);
    out.extend_from_slice(b",\"source\":\"");
    out.extend_from_slice(source.name().as_bytes());
    out.push(b'"');
}

/// The age of what was there before it was seen; what was seen from its beginning has times instead.
fn write_born(born: Option<&Born>, source: Source, at: BootNs, out: &mut Vec<u8>) {
    match born {
        Some(born) => {
            out.extend_from_slice(b",\"age\":");
            Age::of(born, at).write_json(out);
        }
        None if source == Source::Live => {}
        None => out.extend_from_slice(b",\"age\":null"),
    }
}

fn write_kernel_socket(kernel: bool, out: &mut Vec<u8>) {
    if kernel {
        out.extend_from_slice(b",\"kernel_socket\":true");
    }
}

fn write_tid(actor: &Actor, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"tid\":");
    write_option(actor.tid.map(|tid| tid.0), out);
}

fn write_method(method: Method, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"method\":\"");
    out.extend_from_slice(names::method(method).as_bytes());
    match method {
        Method::Hook(hook) => {
            out.extend_from_slice(b"\",\"hook\":\"");
            out.extend_from_slice(hook.label().as_bytes());
        }
        Method::Unknown(reason) => {
            out.extend_from_slice(b"\",\"reason\":\"");
            out.extend_from_slice(reason.name().as_bytes());
        }
        Method::Listener | Method::Closer | Method::FdTable => {}
    }
    out.push(b'"');
}

fn write_failure(failure: &Failure, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"errno\":");
    write_int(failure.errno, out);
    out.extend_from_slice(b",\"error\":");
    write_error(failure.errno, b"\"cancelled\"", out);
    out.extend_from_slice(b",\"after_ns\":");
    write_duration(failure.after, out);
}

/// Appends the name of an error, `zero` for 0; a number that Linux does not know becomes `E524`.
fn write_error(errno: u16, zero: &[u8], out: &mut Vec<u8>) {
    if errno == 0 {
        return out.extend_from_slice(zero);
    }
    out.push(b'"');
    if let Some(name) = errno::name(errno) {
        out.extend_from_slice(name.as_bytes());
    } else {
        out.push(b'E');
        write_int(errno, out);
    }
    out.push(b'"');
}

fn write_duration(duration: Option<DurationNs>, out: &mut Vec<u8>) {
    write_option(duration.map(|duration| duration.0), out);
}
