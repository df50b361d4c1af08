//! An event as a line for people, an alert as a short line and its details below.
//!
//! `time  KIND  dir  process[pid]  user  local -> remote  details`, in columns that stay put, as far as the
//! terminal has room ([`layout`]); what comes from other programs is escaped ([`super::escape`]).

mod alert;
mod layout;
mod line;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::tz::TimeZone;

use layout::Layout;

use super::alert::{Alert, Covered};
use super::degraded::Degraded;
use super::heartbeat::Heartbeat;
use super::human;
use super::model::{Event, EventBody, EventKind};
use super::names::Named;
use super::time::{Day, TimeOfDay};
use super::words::Words;
use crate::flow::model::{
    Actor, Change, ConnEvent, Direction, ListenEvent, Method, Source, Transport, canonical_ip,
};
use crate::host::netns_names::NetNsNames;
use crate::kernel::gap::{Gap, GapCause};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::{BootNs, NetNs, WallNs};

/// Columns of `ESTABLISHED`, the longest kind.
const KIND_COLUMNS: usize = 11;
/// `255.255.255.255:65535`; IPv6 moves what follows.
const END_COLUMNS: usize = 21;

/// How to show events.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Use colour.
    pub color: bool,
    /// Columns of the terminal. A line that is longer goes on below it; one of an `exec`, whose arguments can
    /// fill a screen, is cut. `None` (no terminal): every event is one line with all columns, an alert also
    /// its details.
    pub width: Option<usize>,
    /// The network namespace that needs no mention: the agent's own.
    pub netns: Option<NetNs>,
    /// The time zone of the times.
    pub zone: TimeZone,
    /// Begin with a line that has the date and the time zone: for events of the past. Where the day or the zone's offset
    /// changes there is one in any case, but in lines without a head.
    pub dated: bool,
}

/// Writes events as lines for people.
#[derive(Debug)]
pub struct TextFormatter {
    options: TextOptions,
    time: TimeOfDay,
    line: Words,
    headless: bool,
    namespaces: NetNsNames,
    /// Of the last event.
    day: Option<Day>,
}

impl TextFormatter {
    /// A formatter with these options.
    pub fn new(options: TextOptions) -> Self {
        let time = TimeOfDay::new(options.zone.clone());
        let namespaces = NetNsNames::default();
        Self { options, time, line: Words::default(), headless: false, namespaces, day: None }
    }

    /// Shows network namespaces by these names.
    #[must_use]
    pub fn with_namespaces(self, namespaces: NetNsNames) -> Self {
        Self { namespaces, ..self }
    }

    /// One line an event, without the time and the kind: for a log, which has both.
    pub fn headless(options: TextOptions) -> Self {
        Self { headless: true, ..Self::new(options) }
    }

    /// Takes note that the terminal has another width now.
    pub fn set_width(&mut self, width: Option<usize>) {
        self.options.width = width;
    }

    /// Appends the event with its newline; before it, where that is due, a line with the date.
    pub fn format(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.date(event, out);
        self.line.clear();
        match &event.body {
            EventBody::Alert(alert) if !self.headless => return self.alert_block(event, alert, out),
            EventBody::Alert(alert) => self.alert_line(event, alert),
            EventBody::Gap(gap) => self.gap(event, gap),
            EventBody::Facts(facts) => {
                self.head(event);
                self.who(None, Some(&facts.process));
            }
            EventBody::Sample(_) => {
                self.head(event);
                self.line.text("a connection was sampled");
            }
            EventBody::Repair(_) => {
                self.head(event);
                self.line.text("compared with the kernel's sockets after a loss");
            }
            EventBody::Degraded(degraded) => {
                self.head(event);
                self.degraded(degraded);
            }
            EventBody::Heartbeat(heartbeat) => {
                self.head(event);
                self.heartbeat(heartbeat);
            }
            EventBody::Clock => {
                self.head(event);
                self.line.text("timers fired");
            }
            EventBody::Start(_) => {
                self.head(event);
                self.line.text("tracing");
            }
            EventBody::Flow(change) => {
                self.head(event);
                self.flow(change, event.boot);
            }
            EventBody::Exec(exec) => {
                self.head(event);
                self.who(None, Some(&exec.process));
                self.line.exec(&exec.process);
            }
            EventBody::Exit(exit, status) => {
                self.head(event);
                self.who(None, Some(&exit.process));
                let (text, number) = match status {
                    ExitStatus::Code(code) => ("exit code ", *code),
                    ExitStatus::Signal(signal) => ("killed by signal ", *signal),
                };
                self.line.text(text);
                self.line.number(number);
            }
        }
        let color = color(event.body.kind()).filter(|_| self.options.color);
        match (&event.body, self.options.width) {
            (EventBody::Exec(_), Some(width)) => self.line.finish_cut(width, color, out),
            (_, width) => self.line.finish(width, color, out),
        }
    }

    fn date(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.headless {
            return;
        }
        let Some(day) = self.time.day(event.wall).filter(|day| self.day != Some(*day)) else { return };
        if self.options.dated || self.day.is_some() {
            out.extend_from_slice(format!("--- {day} ---\n").as_bytes());
        }
        self.day = Some(day);
    }

    fn alert_line(&mut self, event: &Event, alert: &Alert) {
        let since = self.covered_since(event, alert);
        self.line.alert(alert, event.boot, &since);
    }

    /// A line that says what happened to whom, and below it what a responder needs to judge it.
    fn alert_block(&mut self, event: &Event, alert: &Alert, out: &mut Vec<u8>) {
        self.head(event);
        self.line.alert_head(alert, event.boot);
        let color = Some(alert::color(alert)).filter(|_| self.options.color);
        self.line.finish(self.options.width, color, out);
        let since = self.covered_since(event, alert);
        let netns = alert.subject.netns().filter(|netns| self.options.netns.is_some_and(|own| own != *netns));
        let netns = netns.map(|netns| (netns, self.namespaces.name(netns)));
        for detail in alert::details(alert.phase) {
            self.line.clear();
            self.line.text(detail.label());
            let label = self.line.bytes.len();
            self.line.alert_detail(*detail, alert, event.boot, &since, netns);
            if self.line.bytes.len() > label {
                self.line.finish_detail(self.options.width, out);
            }
        }
    }

    /// The time since which it was watched, where that is not always.
    fn covered_since(&mut self, event: &Event, alert: &Alert) -> Vec<u8> {
        let mut text = Vec::new();
        if let Covered::Since(since) = alert.covered {
            self.time.write_beside(event.wall, wall_of(event, since), 3, &mut text);
        }
        text
    }

    const fn layout(&self) -> Layout {
        Layout::of(self.options.width)
    }

    fn head(&mut self, event: &Event) {
        if self.headless {
            return;
        }
        let layout = self.layout();
        self.line.with(|out| self.time.write(event.wall, layout.decimals, out));
        self.line.text("  ");
        let kind = event.body.kind().name();
        self.line.with(|out| out.extend(kind.bytes().map(|byte| byte.to_ascii_uppercase())));
        if layout.is_wide || event.body.kind() != EventKind::Alert {
            self.line.pad_from(kind.len(), KIND_COLUMNS);
        }
        self.line.text("  ");
    }

    /// The direction, the process and its user.
    fn who(&mut self, direction: Option<Direction>, process: Option<&Arc<ProcessInfo>>) {
        let layout = self.layout();
        if layout.is_wide {
            self.line.direction(direction);
        }
        self.line.process_column(process, layout.process_columns);
        if layout.is_wide {
            self.line.user_column(process);
        }
    }

    fn degraded(&mut self, degraded: &Degraded) {
        if let Some(place) = &degraded.place {
            self.line.text(place);
            self.line.text(": ");
        }
        self.line.number(degraded.count);
        self.line.text(" ");
        self.line.text(degraded.what.counted());
        if degraded.total > degraded.count {
            self.line.text(", in all ");
            self.line.number(degraded.total);
        }
    }

    fn heartbeat(&mut self, of: &Heartbeat) {
        self.line.text("up ");
        self.line.with(|out| human::write_duration(of.uptime, out));
        for (number, what) in
            [(of.open_alerts, " open alerts"), (of.lost, " records lost"), (of.dropped, " lines dropped")]
        {
            self.line.text(", ");
            self.line.number(number);
            self.line.text(what);
        }
    }

    fn gap(&mut self, event: &Event, gap: &Gap) {
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
        self.line.with(|out| self.time.write_beside(event.wall, wall_of(event, gap.from), 6, out));
        self.line.text(" and ");
        self.line.with(|out| self.time.write_beside(event.wall, wall_of(event, gap.to), 6, out));
        self.line.text(" ---");
    }

    fn flow(&mut self, change: &Change, at: BootNs) {
        match change {
            Change::Connect(conn) | Change::Established(conn) => self.conn(conn, |_| ()),
            Change::Accept(conn) => {
                self.conn(conn, |_| ());
                if let Some(process) = conn.listener.as_ref().and_then(|listener| listener.process.as_ref())
                    && !same(Some(process), conn.owner.process.as_ref())
                {
                    self.line.detail("listener ");
                    self.line.process(process);
                }
            }
            Change::Failed(conn, failure) => self.conn(conn, |line| line.failure(failure)),
            Change::Close(conn, ending) => self.conn(conn, |line| {
                line.ending(ending, conn.born.as_ref(), at);
                line.closer(&ending.closer, &conn.owner);
            }),
            Change::Listen(listener) => self.listener(listener, |_| ()),
            Change::Unlisten(listener, end) => self.listener(listener, |line| {
                line.unlisten(end, listener.born.as_ref(), at);
                line.closer(&end.closer, &listener.owner);
            }),
        }
    }

    /// A connection, and how it ended before what is known besides.
    fn conn(&mut self, conn: &ConnEvent, ending: impl FnOnce(&mut Words)) {
        self.who(Some(conn.direction), conn.owner.process.as_ref());
        let device = conn.device.as_deref();
        if self.layout().is_wide {
            let start = self.line.columns;
            self.line.end_over(conn.local, device);
            self.line.pad_from(self.line.columns - start, END_COLUMNS);
            self.line.text(" ");
            self.line.text(line::arrow(conn.direction));
            self.line.text(" ");
            let start = self.line.columns;
            self.line.end_over(conn.remote, device);
            self.line.pad_from(self.line.columns - start, END_COLUMNS);
        } else {
            self.line.ends_short(conn);
        }
        self.line.service(conn.service_port());
        self.line.device(device, &[conn.local, conn.remote]);
        ending(&mut self.line);
        self.common_details(
            &conn.owner,
            conn.transport,
            conn.mapped,
            conn.netns,
            conn.source,
            conn.kernel_socket,
        );
    }

    fn listener(&mut self, listener: &ListenEvent, ending: impl FnOnce(&mut Words)) {
        self.who(None, listener.owner.process.as_ref());
        let (ip, mapped) = canonical_ip(listener.local.ip());
        let start = self.line.columns;
        let local = SocketAddr::new(ip, listener.local.port());
        let device = listener.scope.as_ref().and_then(|scope| scope.device.as_deref());
        self.line.end_over(local, device);
        if self.layout().is_wide {
            self.line.pad_from(self.line.columns - start, 2 * END_COLUMNS + 4);
        }
        self.line.service(listener.local.port());
        if let Some(unit) = listener.socket_unit.as_ref().filter(|_| listener.is_systemds()) {
            self.line.detail("for ");
            self.line.word(unit.as_bytes());
        }
        self.line.device(device, &[local]);
        if listener.scope.as_ref().is_some_and(|scope| scope.v6only) && ip.is_unspecified() {
            self.line.detail("v6only");
        }
        ending(&mut self.line);
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
            line.exe_if_it_says_more(process);
        }
        if transport == Transport::Mptcp {
            line.detail(transport.name());
        }
        if mapped {
            line.detail("mapped");
        }
        if self.options.netns.is_some_and(|own| own != netns) {
            line.netns(netns, self.namespaces.name(netns));
        }
        if kernel_socket {
            line.detail("kernel socket");
        }
        if source != Source::Live {
            line.detail(source.name());
        }
    }
}

/// The wall clock's time of another instant, by the clocks of the event itself.
const fn wall_of(event: &Event, boot: BootNs) -> WallNs {
    WallNs(event.wall.0.saturating_add(boot.0).saturating_sub(event.boot.0))
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
