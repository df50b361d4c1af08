//! A line in the making.

use std::net::SocketAddr;
use std::sync::Arc;

use unicode_width::UnicodeWidthChar;

use super::same;
use crate::event::age::Age;
use crate::event::names::Named;
use crate::event::words::{self, Words};
use crate::event::{errno, human, services};
use crate::flow::born::Born;
use crate::flow::model::{Actor, ConnEvent, Direction, Ending, Failure, Unlisten};
use crate::host::interfaces::Device;
use crate::process::info::{ProcessInfo, ProcessSource};
use crate::process::placement::Runtime;
use crate::units::{BootNs, DurationNs, NetNs};

const DIRECTION_COLUMNS: usize = 3;
/// `uid=65534`, and most names.
const USER_COLUMNS: usize = 9;

/// From where to where.
pub(super) const fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "->",
        Direction::In => "<-",
        Direction::Unknown => "--",
    }
}

impl Words {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.columns = 0;
        self.breaks.clear();
    }

    /// Pads a column of which `used` are taken; one that is too long moves what follows.
    pub(super) fn pad_from(&mut self, used: usize, columns: usize) {
        let missing = columns.saturating_sub(used);
        self.bytes.resize(self.bytes.len() + missing, b' ');
        self.columns += missing;
    }

    /// Begins a detail.
    pub(super) fn detail(&mut self, ascii: &str) {
        self.gap();
        self.text(ascii);
    }

    /// The interface that a socket is bound to, where none of its ends shows it.
    pub(super) fn device(&mut self, device: Option<&Device>, ends: &[SocketAddr]) {
        if let Some(device) = words::unshown(device, ends) {
            self.detail("device=");
            self.word(device.name().as_bytes());
        }
    }

    pub(super) fn direction(&mut self, direction: Option<Direction>) {
        let direction = words::direction(direction);
        self.text(direction);
        self.pad_from(direction.len(), DIRECTION_COLUMNS);
        self.text("  ");
    }

    pub(super) fn process_column(&mut self, process: Option<&Arc<ProcessInfo>>, columns: usize) {
        let start = self.columns;
        match process {
            Some(process) => self.process(process),
            None => self.text("?"),
        }
        self.pad_from(self.columns - start, columns);
        self.gap();
    }

    pub(super) fn user_column(&mut self, process: Option<&Arc<ProcessInfo>>) {
        let start = self.columns;
        if let Some(process) = process {
            self.user(process);
        }
        self.pad_from(self.columns - start, USER_COLUMNS);
        self.gap();
    }

    fn user(&mut self, process: &ProcessInfo) {
        match &process.user {
            Some(name) => self.word(name),
            None => {
                self.text("uid=");
                self.number(process.uid);
            }
        }
    }

    pub(super) fn user_detail(&mut self, process: &ProcessInfo) {
        self.detail(if process.user.is_some() { "user=" } else { "" });
        self.user(process);
    }

    /// The other end, and its own port where that is the service.
    pub(super) fn ends_short(&mut self, conn: &ConnEvent) {
        if conn.direction != Direction::Out {
            self.text(":");
            self.port(conn.local.port());
            self.text(" ");
        }
        self.text(arrow(conn.direction));
        self.text(" ");
        self.end_over(conn.remote, conn.device.as_deref());
    }

    /// The service that a port is known for.
    pub(super) fn service(&mut self, port: u16) {
        if let Some(name) = services::name(port) {
            // Not apart from its port.
            self.text("  ");
            self.text(name);
        }
    }

    pub(super) fn process(&mut self, process: &ProcessInfo) {
        self.word(&process.comm);
        self.text("[");
        self.number(process.pid.0);
        self.text("]");
    }

    /// The network namespace, by its name where it has one.
    pub(crate) fn netns(&mut self, netns: NetNs, name: Option<&[u8]>) {
        self.detail("netns=");
        match name {
            Some(name) => self.word(name),
            None => self.number(netns.0),
        }
    }

    /// The container, or else the unit.
    pub(super) fn place(&mut self, process: &ProcessInfo) {
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
    pub(super) fn exe_if_it_says_more(&mut self, process: &ProcessInfo) {
        if process.exe_says_more() {
            self.detail("exe=");
            self.exe(process);
        }
    }

    /// The path of the executable, and what is wrong with it.
    pub(crate) fn exe(&mut self, process: &ProcessInfo) {
        match &process.exe {
            Some(exe) => self.word(exe),
            None => self.text("?"),
        }
        if let Some(name) = process.identity.copy_of() {
            self.text(" (copy of ");
            self.word(name.as_bytes());
            self.text(")");
        }
        if process.exe_is_deleted() {
            self.text(" (deleted)");
        }
        if process.exe_is_foreign() {
            self.text(" (foreign)");
        }
    }

    pub(super) fn exec(&mut self, process: &ProcessInfo) {
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
        if process.source == ProcessSource::ProcScan {
            self.detail("found running");
        }
    }

    pub(super) fn failure(&mut self, failure: &Failure) {
        self.gap();
        self.error(failure.errno, "cancelled");
        if let Some(after) = failure.after {
            self.text(" after ");
            self.with(|out| human::write_duration(after, out));
        }
    }

    pub(super) fn error(&mut self, errno: u16, zero: &str) {
        match (errno, errno::name(errno)) {
            (0, _) => self.text(zero),
            (_, Some(name)) => self.text(name),
            (_, None) => {
                self.text("errno ");
                self.number(errno);
            }
        }
    }

    pub(super) fn ending(&mut self, ending: &Ending, born: Option<&Born>, at: BootNs) {
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
        if let Some(retransmits) = traffic.retransmits.filter(|count| *count > 0) {
            self.detail("retrans ");
            self.number(retransmits);
        }
    }

    pub(super) fn unlisten(&mut self, end: &Unlisten, born: Option<&Born>, at: BootNs) {
        self.lasted(end.duration, "after ", "after ", born, at);
    }

    /// How long something lasted that ended at `at`: exactly, or between two bounds. Each has its own word before it.
    pub(super) fn lasted(
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
            self.with(|out| Age::of(born, at).write_text("", out));
        }
    }

    pub(super) fn closer(&mut self, closer: &Actor, owner: &Actor) {
        if let Some(process) = &closer.process
            && !same(Some(process), owner.process.as_ref())
        {
            self.detail("closed by ");
            self.process(process);
        }
    }

    /// Appends the line with its newline, as much of it as fits.
    pub(super) fn finish_cut(&mut self, width: usize, color: Option<&[u8]>, out: &mut Vec<u8>) {
        let line = self.bytes.trim_ascii_end();
        out.extend_from_slice(color.unwrap_or_default());
        match str::from_utf8(line) {
            Ok(line) if self.columns > width => cut(line, width, out),
            _ => out.extend_from_slice(line),
        }
        if color.is_some() {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b'\n');
    }
}

/// Appends as much of the line as fits, and a sign that it goes on.
fn cut(line: &str, width: usize, out: &mut Vec<u8>) {
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
