//! Text for a terminal in the making.

use std::net::{IpAddr, SocketAddr};

use super::address::{write_int, write_ip};
use super::escape;
use crate::flow::model::Direction;
use crate::host::interfaces::Device;

/// A line or a cell of a table: its bytes, and the columns that they take on a terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    pub(crate) bytes: Vec<u8>,
    pub(crate) columns: usize,
    /// Where it may be broken.
    pub(crate) breaks: Vec<Break>,
}

/// A gap between two details: what may end a line, and what may begin the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Break {
    /// The first byte behind what comes before, and its column, without the spaces that pad it.
    pub(crate) end: usize,
    pub(crate) end_column: usize,
    /// The first byte of what comes next, and its column.
    pub(crate) next: usize,
    pub(crate) next_column: usize,
}

impl Words {
    /// Appends UTF-8 of our own, each of whose characters takes one column.
    pub(crate) fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        // The first byte of each character: those that continue one are 10xxxxxx.
        self.columns += self.bytes[before..].iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    }

    /// Appends text of our own, each of whose characters takes one column.
    pub(crate) fn text(&mut self, text: &str) {
        self.with(|out| out.extend_from_slice(text.as_bytes()));
    }

    /// Appends the gap between two details.
    pub(crate) fn gap(&mut self) {
        self.space("  ");
    }

    /// Appends the blank between two words of a detail that may be long.
    pub(crate) fn blank(&mut self) {
        self.space(" ");
    }

    fn space(&mut self, spaces: &str) {
        let end = self.bytes.trim_ascii_end().len();
        let end_column = self.columns - (self.bytes.len() - end);
        self.text(spaces);
        self.breaks.push(Break { end, end_column, next: self.bytes.len(), next_column: self.columns });
    }

    /// Columns without the spaces at the end.
    pub(crate) fn columns_shown(&self) -> usize {
        self.columns - (self.bytes.len() - self.bytes.trim_ascii_end().len())
    }

    /// Appends a number.
    pub(crate) fn number(&mut self, number: impl itoa::Integer) {
        self.with(|out| write_int(number, out));
    }

    /// Appends foreign bytes, escaped.
    pub(crate) fn word(&mut self, bytes: &[u8]) {
        self.columns += escape::word(bytes, &mut self.bytes);
    }

    /// Appends an address and port; port 0: not known.
    pub(crate) fn end(&mut self, end: SocketAddr) {
        self.end_over(end, None);
    }

    /// Appends an address and port of a socket that is bound to this interface: `[fe80::1%eth0]:80`. Only link-local addresses show it,
    /// which name an end no better without it (RFC 4007); for others see [`unshown`].
    pub(crate) fn end_over(&mut self, end: SocketAddr, device: Option<&Device>) {
        if end.is_ipv6() {
            self.text("[");
        }
        self.with(|out| write_ip(end.ip(), out));
        if let Some(device) = device.filter(|_| is_scoped(end)) {
            self.text("%");
            self.word(device.name().as_bytes());
        }
        self.text(if end.is_ipv6() { "]:" } else { ":" });
        self.port(end.port());
    }

    /// Appends a port; 0: not known.
    pub(crate) fn port(&mut self, port: u16) {
        match port {
            0 => self.text("?"),
            port => self.number(port),
        }
    }

    /// Whether nothing was appended yet.
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Whether an address shows the interface, see [`Words::end_over`].
fn is_scoped(end: SocketAddr) -> bool {
    matches!(end.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The interface that a socket with these ends is bound to, where no end shows it.
pub(crate) fn unshown<'d>(device: Option<&'d Device>, ends: &[SocketAddr]) -> Option<&'d Device> {
    device.filter(|_| !ends.iter().copied().any(is_scoped))
}

/// The word for a direction; `None`: a listener.
pub(crate) const fn direction(direction: Option<Direction>) -> &'static str {
    match direction {
        Some(Direction::Out) => "out",
        Some(Direction::In) => "in",
        Some(Direction::Unknown) => "?",
        None => "",
    }
}
