//! An event as one line for people.
//!
//! `time  KIND  dir  process[pid]  uid  local -> remote  details`, in columns that stay put; what comes from other
//! programs is escaped ([`super::escape`]). User ids stay numbers: those of a directory service and of containers have
//! no names here.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthChar;

use super::address::{write_int, write_ip};
use super::age::Age;
use super::model::{Event, EventBody, EventKind};
use super::names::Named;
use super::time::TimeOfDay;
use super::{errno, escape, human};
use crate::flow::born::Born;
use crate::flow::model::{
    Actor, Change, ConnEvent, Direction, Ending, Failure, ListenEvent, Method, Source, Transport, Unlisten,
    canonical_ip,
};
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::process::placement::Runtime;
use crate::units::{BootNs, DurationNs, NetNs, WallNs};

/// Columns of `ESTABLISHED`, the longest kind.
const KIND_COLUMNS: usize = 11;
const DIRECTION_COLUMNS: usize = 3;
/// A comm of 15 bytes and a pid of seven digits fit.
const PROCESS_COLUMNS: usize = 24;
/// `uid=65534`
const UID_COLUMNS: usize = 9;
/// `255.255.255.255:65535`; IPv6 moves what follows.
const END_COLUMNS: usize = 21;

/// How to show events.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Use colour.
    pub color: bool,
    /// Columns of the terminal: an `exec` line, whose arguments can fill a screen, is cut there; every other line is
    /// whole, for its end matters most. `None` (no terminal): nothing is cut.
    pub width: Option<usize>,
    /// The network namespace that needs no mention: the agent's own.
    pub netns: Option<NetNs>,
    /// The time zone of the times.
    pub zone: TimeZone,
}

/// Writes events as lines for people.
#[derive(Debug)]
pub struct TextFormatter {
    options: TextOptions,
    time: TimeOfDay,
    line: Line,
}

impl TextFormatter {
    /// A formatter with these options.
    pub fn new(options: TextOptions) -> Self {
        let time = TimeOfDay::new(options.zone.clone());
        Self { options, time, line: Line::default() }
    }

    /// Takes note that the terminal has another width now.
    pub fn set_width(&mut self, width: Option<usize>) {
        self.options.width = width;
    }

    /// Appends the event as one line, with its newline.
    pub fn format(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.line.clear();
        match &event.body {
            EventBody::Gap(gap) => self.gap(event, gap),
            EventBody::Flow(change) => {
                self.head(event);
                self.flow(change, event.boot);
            }
            EventBody::Exec(exec) => {
                self.head(event);
                self.line.process_head(None, Some(&exec.process));
                self.line.exec(&exec.process);
            }
            EventBody::Exit(exit, status) => {
                self.head(event);
                self.line.process_head(None, Some(&exit.process));
                let (text, number) = match status {
                    ExitStatus::Code(code) => ("exit code ", *code),
                    ExitStatus::Signal(signal) => ("killed by signal ", *signal),
                };
                self.line.text(text);
                self.line.number(number);
            }
        }
        let width = self.options.width.filter(|_| event.body.kind() == EventKind::Exec);
        self.line.finish(width, color(event.body.kind()).filter(|_| self.options.color), out);
    }

    fn head(&mut self, event: &Event) {
        self.line.with(|out| self.time.write(event.wall, 3, out));
        self.line.gap();
        let kind = event.body.kind().name();
        self.line.with(|out| out.extend(kind.bytes().map(|byte| byte.to_ascii_uppercase())));
        self.line.pad_from(kind.len(), KIND_COLUMNS);
        self.line.gap();
    }

    /// Boot times of a gap become times of day by the clocks of the event itself.
    fn gap(&mut self, event: &Event, gap: &Gap) {
        let wall = |boot: BootNs| WallNs(event.wall.0.saturating_sub(event.boot.0).saturating_add(boot.0));
        self.line.text("--- ");
        self.line.number(gap.lost);
        self.line.text(match (gap.cause, gap.lost) {
            (GapCause::RingFull, 1) => " record lost: ",
            (GapCause::RingFull, _) => " records lost: ",
            (GapCause::Skipped, 1) => " run skipped by the kernel: ",
            (GapCause::Skipped, _) => " runs skipped by the kernel: ",
        });
        self.line.text(gap.hook.label());
        if let Some(cpu) = gap.cpu {
            self.line.text(" on CPU ");
            self.line.number(cpu);
        }
        self.line.text(", between ");
        self.line.with(|out| self.time.write(wall(gap.from), 6, out));
        self.line.text(" and ");
        self.line.with(|out| self.time.write(wall(gap.to), 6, out));
        self.line.text(" ---");
    }

    fn flow(&mut self, change: &Change, at: BootNs) {
        match change {
            Change::Connect(conn) | Change::Established(conn) => self.conn(conn),
            Change::Accept(conn) => {
                self.conn(conn);
                if let Some(process) = conn.listener.as_ref().and_then(|listener| listener.process.as_ref())
                    && !same(Some(process), conn.owner.process.as_ref())
                {
                    self.line.detail("listener ");
                    self.line.process(process);
                }
            }
            Change::Failed(conn, failure) => {
                self.conn(conn);
                self.line.failure(failure);
            }
            Change::Close(conn, ending) => {
                self.conn(conn);
                self.line.ending(ending, conn.born.as_deref(), at);
                self.line.closer(&ending.closer, &conn.owner);
            }
            Change::Listen(listener) => self.listener(listener),
            Change::Unlisten(listener, end) => {
                self.listener(listener);
                self.line.unlisten(end, listener.born.as_deref(), at);
                self.line.closer(&end.closer, &listener.owner);
            }
        }
    }

    fn conn(&mut self, conn: &ConnEvent) {
        self.line.process_head(Some(conn.direction), conn.owner.process.as_ref());
        let start = self.line.columns;
        self.line.end(conn.local);
        self.line.pad_from(self.line.columns - start, END_COLUMNS);
        self.line.text(match conn.direction {
            Direction::Out => " -> ",
            Direction::In => " <- ",
            Direction::Unknown => " -- ",
        });
        let start = self.line.columns;
        self.line.end(conn.remote);
        self.line.pad_from(self.line.columns - start, END_COLUMNS);
        self.common_details(
            &conn.owner,
            conn.transport,
            conn.mapped,
            conn.netns,
            conn.source,
            conn.kernel_socket,
        );
    }

    fn listener(&mut self, listener: &ListenEvent) {
        self.line.process_head(None, listener.owner.process.as_ref());
        let (ip, mapped) = canonical_ip(listener.local.ip());
        let start = self.line.columns;
        self.line.end(SocketAddr::new(ip, listener.local.port()));
        self.line.pad_from(self.line.columns - start, 2 * END_COLUMNS + 4);
        if let Some(unit) = listener.socket_unit.as_ref().filter(|_| listener.is_systemds()) {
            self.line.detail("for ");
            self.line.word(unit.as_bytes());
        }
        self.common_details(
            &listener.owner,
            listener.transport,
            mapped,
            listener.netns,
            listener.source,
            listener.kernel_socket,
        );
    }

    fn common_details(
        &mut self,
        owner: &Actor,
        transport: Transport,
        mapped: bool,
        netns: NetNs,
        source: Source,
        kernel_socket: bool,
    ) {
        let line = &mut self.line;
        match owner.method {
            Method::Hook(_) => {}
            Method::Listener => line.detail("owner: by its listener"),
            Method::Closer => line.detail("owner: by its closer"),
            Method::FdTable => line.detail("owner: by its descriptor"),
            Method::Unknown(reason) => {
                line.detail("owner unknown: ");
                line.text(reason.name());
            }
        }
        if let Some(process) = &owner.process {
            line.place(process);
            line.exe_if_telling(process);
        }
        if transport == Transport::Mptcp {
            line.detail(transport.name());
        }
        if mapped {
            line.detail("mapped");
        }
        if self.options.netns.is_some_and(|own| own != netns) {
            line.detail("netns=");
            line.number(netns.0);
        }
        if kernel_socket {
            line.detail("kernel socket");
        }
        if source != Source::Live {
            line.detail(source.name());
        }
    }
}

/// Colour is a signal, not a decoration: an SGR sequence for a whole line.
const fn color(kind: EventKind) -> Option<&'static [u8]> {
    match kind {
        EventKind::Failed => Some(b"\x1b[31m"),
        EventKind::Close | EventKind::Unlisten | EventKind::Exit => Some(b"\x1b[2m"),
        EventKind::Listen => Some(b"\x1b[33m"),
        EventKind::Gap => Some(b"\x1b[7;31m"),
        _ => None,
    }
}

fn same(one: Option<&Arc<ProcessInfo>>, other: Option<&Arc<ProcessInfo>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (None, None) => true,
        _ => false,
    }
}

/// A line in the making: its bytes, and the columns they take.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    columns: usize,
}

impl Line {
    fn clear(&mut self) {
        self.bytes.clear();
        self.columns = 0;
    }

    /// Appends ASCII.
    fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.columns += self.bytes.len() - before;
    }

    fn text(&mut self, ascii: &str) {
        self.with(|out| out.extend_from_slice(ascii.as_bytes()));
    }

    fn number(&mut self, number: impl itoa::Integer) {
        self.with(|out| write_int(number, out));
    }

    /// Appends foreign bytes, escaped.
    fn word(&mut self, bytes: &[u8]) {
        self.columns += escape::word(bytes, &mut self.bytes);
    }

    fn gap(&mut self) {
        self.text("  ");
    }

    /// Pads a column of which `used` are taken; one that is too long moves what follows.
    fn pad_from(&mut self, used: usize, columns: usize) {
        let missing = columns.saturating_sub(used);
        self.bytes.resize(self.bytes.len() + missing, b' ');
        self.columns += missing;
    }

    /// Begins a detail.
    fn detail(&mut self, ascii: &str) {
        self.gap();
        self.text(ascii);
    }

    fn process_head(&mut self, direction: Option<Direction>, process: Option<&Arc<ProcessInfo>>) {
        let direction = match direction {
            Some(Direction::Out) => "out",
            Some(Direction::In) => "in",
            Some(Direction::Unknown) => "?",
            None => "",
        };
        self.text(direction);
        self.pad_from(direction.len(), DIRECTION_COLUMNS);
        self.gap();
        let start = self.columns;
        match process {
            Some(process) => self.process(process),
            None => self.text("?"),
        }
        self.pad_from(self.columns - start, PROCESS_COLUMNS);
        self.gap();
        let start = self.columns;
        if let Some(process) = process {
            self.text("uid=");
            self.number(process.uid);
        }
        self.pad_from(self.columns - start, UID_COLUMNS);
        self.gap();
    }

    fn process(&mut self, process: &ProcessInfo) {
        self.word(&process.comm);
        self.text("[");
        self.number(process.pid.0);
        self.text("]");
    }

    fn end(&mut self, end: SocketAddr) {
        if end.is_ipv6() {
            self.text("[");
        }
        self.with(|out| write_ip(end.ip(), out));
        self.text(if end.is_ipv6() { "]:" } else { ":" });
        match end.port() {
            0 => self.text("?"),
            port => self.number(port),
        }
    }

    /// The container, or else the unit.
    fn place(&mut self, process: &ProcessInfo) {
        let Some(place) = &process.placement else { return };
        if let Some(container) = &place.container {
            self.detail(container.runtime.map_or("container", Runtime::name));
            self.text("=");
            self.word(container.short_id());
        } else if let Some(unit) = place.user_unit.as_ref().or(place.unit.as_ref()) {
            self.detail("unit=");
            self.word(unit);
        }
    }

    /// The path of the executable where it says more than the name.
    fn exe_if_telling(&mut self, process: &ProcessInfo) {
        let Some(exe) = &process.exe else { return };
        let base = exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe);
        // The kernel keeps 15 bytes of a name (TASK_COMM_LEN in include/linux/sched.h).
        if process.exe_deleted || base.get(..15).unwrap_or(base) != &*process.comm {
            self.detail("exe=");
            self.exe(process);
        }
    }

    fn exe(&mut self, process: &ProcessInfo) {
        match &process.exe {
            Some(exe) => self.word(exe),
            None => self.text("?"),
        }
        if process.exe_deleted {
            self.text(" (deleted)");
        }
    }

    fn exec(&mut self, process: &ProcessInfo) {
        self.exe(process);
        self.text(" :");
        for arg in &process.args {
            self.text(" ");
            self.word(arg);
        }
        if process.args_truncated {
            self.text(" ...");
        }
        if let Some(ppid) = process.ppid {
            self.detail("ppid=");
            self.number(ppid.0);
        }
    }

    fn failure(&mut self, failure: &Failure) {
        self.gap();
        self.error(failure.errno, "cancelled");
        if let Some(after) = failure.after {
            self.text(" after ");
            self.with(|out| human::write_duration(after, out));
        }
    }

    fn error(&mut self, errno: u16, zero: &str) {
        match (errno, errno::name(errno)) {
            (0, _) => self.text(zero),
            (_, Some(name)) => self.text(name),
            (_, None) => {
                self.text("errno ");
                self.number(errno);
            }
        }
    }

    fn ending(&mut self, ending: &Ending, born: Option<&Born>, at: BootNs) {
        self.detail(ending.how.name());
        if ending.errno != 0 {
            self.text(" ");
            self.error(ending.errno, "");
        }
        self.lasted(ending.duration, "", "open ", born, at);
        let Some(traffic) = ending.traffic else { return };
        self.detail("in ");
        self.with(|out| human::write_bytes(traffic.bytes_in, out));
        self.text(" out ");
        self.with(|out| human::write_bytes(traffic.bytes_out, out));
        if traffic.srtt_us > 0 {
            self.detail("rtt ");
            let rtt = DurationNs(u64::from(traffic.srtt_us) * 1_000);
            self.with(|out| human::write_duration(rtt, out));
        }
        if traffic.retransmits > 0 {
            self.detail("retrans ");
            self.number(traffic.retransmits);
        }
    }

    fn unlisten(&mut self, end: &Unlisten, born: Option<&Born>, at: BootNs) {
        self.lasted(end.duration, "after ", "after ", born, at);
    }

    /// How long something lasted that ended at `at`: exactly, or between two bounds. Each has its own word before it.
    fn lasted(
        &mut self,
        exact: Option<DurationNs>,
        word: &str,
        age_word: &str,
        born: Option<&Born>,
        at: BootNs,
    ) {
        if let Some(duration) = exact {
            self.detail(word);
            self.with(|out| human::write_duration(duration, out));
        } else if let Some(born) = born {
            self.detail(age_word);
            self.with(|out| Age::of(born, at).write_text(out));
        }
    }

    fn closer(&mut self, closer: &Actor, owner: &Actor) {
        if let Some(process) = &closer.process
            && !same(Some(process), owner.process.as_ref())
        {
            self.detail("closed by ");
            self.process(process);
        }
    }

    fn finish(&mut self, width: Option<usize>, color: Option<&[u8]>, out: &mut Vec<u8>) {
        let line = self.bytes.trim_ascii_end();
        out.extend_from_slice(color.unwrap_or_default());
        match width {
            Some(width) if self.columns > width && str::from_utf8(line).is_ok() => cut(line, width, out),
            _ => out.extend_from_slice(line),
        }
        if color.is_some() {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b'\n');
    }
}

/// Appends as much of the line as fits, and a sign that it goes on.
fn cut(line: &[u8], width: usize, out: &mut Vec<u8>) {
    let line = str::from_utf8(line).unwrap_or_default();
    let mut left = width.saturating_sub(1);
    let fits = line.char_indices().find(|(_, c)| {
        let columns = c.width().unwrap_or(0);
        let full = columns > left;
        left -= columns.min(left);
        full
    });
    match fits {
        Some((end, _)) => {
            out.extend_from_slice(&line.as_bytes()[..end]);
            out.extend_from_slice("…".as_bytes());
        }
        None => out.extend_from_slice(line.as_bytes()),
    }
}
