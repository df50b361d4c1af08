//! The local syslog socket (`/dev/log`): one datagram a message, as rsyslogd, syslog-ng and journald read it.
//!
//! The form is that of syslog(3): `<priority>Mmm dd hh:mm:ss tag[pid]: text`. Text comes escaped, so that no name of a
//! process begins a line of its own in the log. While the daemon restarts, messages wait a while; then they are dropped and counted.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::writer::{Target, Written};
use crate::event::alert::Severity;
use crate::units::WallNs;

/// `LOG_DAEMON` (sys/syslog.h).
const FACILITY: u8 = 3;
/// Longest message: rsyslogd and syslog-ng cut at 8 KiB by default.
const LONGEST: usize = 8 << 10;
/// How long a daemon that is not there, or takes nothing, is waited for before messages are dropped: it restarts in less.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(100);

/// Appends a message with its newline, which is not sent; the text must be escaped.
pub fn message(severity: Severity, at: WallNs, zone: &TimeZone, text: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let priority = FACILITY << 3 | level(severity);
    let time = jiff::Timestamp::from_nanosecond(i128::from(at.0)).unwrap_or_default();
    let time = time.to_zoned_datetime(zone.clone()).strftime("%b %e %H:%M:%S").to_string();
    // Writing to memory cannot fail.
    let _ = write!(out, "<{priority}>{time} conn[{}]: ", std::process::id());
    let room = LONGEST.saturating_sub(out.len() - begin);
    out.extend_from_slice(&text[..text.len().min(room)]);
    out.push(b'\n');
}

/// A connection to the local syslog daemon.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    patience: Duration,
    /// The last message could not be handed over: the next ones are tried once.
    is_down: bool,
}

impl Syslog {
    /// Messages go to the socket at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), socket: None, patience: PATIENCE, is_down: false }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let until = Instant::now() + self.patience;
        loop {
            let sent = self.hand_over(message);
            // A refused message would be refused again.
            let is_refused = sent.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE));
            if sent.is_ok() || is_refused || self.is_down || Instant::now() >= until {
                self.is_down = sent.is_err() && !is_refused;
                return sent;
            }
            // The daemon may have been restarted.
            self.socket = None;
            thread::sleep(PAUSE);
        }
    }

    fn hand_over(&mut self, message: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        let sent = socket.send(message);
        if sent.is_ok() {
            self.socket = Some(socket);
        }
        sent.map(|_| ())
    }
}

impl Target for Syslog {
    fn write(&mut self, lines: &[u8]) -> Written {
        let mut written = Written::default();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if let Err(error) = self.send(line.strip_suffix(b"\n").unwrap_or(line)) {
                written.dropped += 1;
                written.error = Some(error);
            }
        }
        written
    }
}

/// A daemon that does not read lets the sender wait (`unix_dgram_sendmsg`, net/unix/af_unix.c): not for ever.
fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PAUSE))?;
    socket.connect(path)?;
    Ok(socket)
}

/// The level of syslog(3).
const fn level(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 6,
        Severity::Low => 5,
        Severity::Medium => 4,
        Severity::High => 3,
        Severity::Critical => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_restarts() {
        let path = std::env::temp_dir().join(format!("conn-syslog-{}", std::process::id()));
        let mut syslog = Syslog { patience: Duration::ZERO, ..Syslog::new(&path) };
        let mut line = Vec::new();
        let at = WallNs(1_795_491_821_123_456_789);
        message(Severity::High, at, &TimeZone::UTC, b"rule: text", &mut line);
        let nobody = syslog.write(&line);
        assert_eq!((nobody.dropped, nobody.error.is_some()), (1, true), "nobody is there");
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).expect("bind");
            // The socket of before is distinguished from the new one by an error.
            let twice = [&line[..], &line[..]].concat();
            let dropped = syslog.write(&twice).dropped;
            let mut received = [0; 200];
            let length = daemon.recv(&mut received).expect("a message");
            let expected = format!("<27>Nov 24 03:43:41 conn[{}]: rule: text", std::process::id());
            assert_eq!(String::from_utf8_lossy(&received[..length]), expected);
            assert!(dropped <= 1);
            std::fs::remove_file(&path).expect("remove");
        }
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_messages_and_no_more() {
        let path = std::env::temp_dir().join(format!("conn-syslog-full-{}", std::process::id()));
        let _daemon = UnixDatagram::bind(&path).expect("bind");
        let mut syslog = Syslog { patience: Duration::ZERO, ..Syslog::new(&path) };
        // Its queue has room for `net.unix.max_dgram_qlen` messages, 10 by default, and for one buffer of the sender.
        let lines = b"<27>text\n".repeat(600);
        let mut dropped = 0;
        while dropped == 0 {
            dropped = syslog.write(&lines[..9 * 50]).dropped;
        }
        std::fs::remove_file(&path).expect("remove");
    }
}
