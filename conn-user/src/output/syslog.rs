//! The local syslog socket (`/dev/log`): one datagram a message, as rsyslogd, syslog-ng and journald read it.
//!
//! The form is that of syslog(3): `<priority>Mmm dd hh:mm:ss tag[pid]: text`. Text comes escaped, so that no name of a
//! process begins a line of its own in the log. A socket that is not there (the daemon restarts) or full costs the message,
//! which is counted; it is opened again for the next one.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use crate::event::alert::Severity;
use crate::units::WallNs;

/// `LOG_DAEMON` (sys/syslog.h).
const FACILITY: u8 = 3;
/// Longest message: rsyslogd and syslog-ng cut at 8 KiB by default.
const LONGEST: usize = 8 << 10;

/// Counters of a [`Syslog`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyslogStats {
    /// Messages that were handed over.
    pub sent: u64,
    /// Messages that were not.
    pub dropped: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    zone: TimeZone,
    message: Vec<u8>,
    stats: SyslogStats,
}

impl Syslog {
    /// Messages go to the socket at this path, times are in this zone.
    pub fn new(path: impl Into<PathBuf>, zone: TimeZone) -> Self {
        Self { path: path.into(), socket: None, zone, message: Vec::new(), stats: SyslogStats::default() }
    }

    /// Sends a message, which must be escaped. Never waits.
    pub fn send(&mut self, severity: Severity, at: WallNs, text: &[u8]) {
        self.message.clear();
        let priority = FACILITY << 3 | level(severity);
        let time = jiff::Timestamp::from_nanosecond(i128::from(at.0)).unwrap_or_default();
        let time = time.to_zoned_datetime(self.zone.clone()).strftime("%b %e %H:%M:%S").to_string();
        // Writing to memory cannot fail.
        let _ = write!(self.message, "<{priority}>{time} conn[{}]: ", std::process::id());
        let room = LONGEST.saturating_sub(self.message.len());
        self.message.extend_from_slice(&text[..text.len().min(room)]);
        let sent = self.hand_over() || {
            // The daemon may have been restarted.
            self.socket = None;
            self.hand_over()
        };
        if sent { self.stats.sent += 1 } else { self.stats.dropped += 1 }
    }

    /// The counters.
    pub const fn stats(&self) -> SyslogStats {
        self.stats
    }

    fn hand_over(&mut self) -> bool {
        if self.socket.is_none() {
            self.socket = connect(&self.path).ok();
        }
        self.socket.as_ref().is_some_and(|socket| socket.send(&self.message).is_ok())
    }
}

fn connect(path: &Path) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
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
        let mut syslog = Syslog::new(&path, TimeZone::UTC);
        let send = |syslog: &mut Syslog| {
            syslog.send(Severity::High, WallNs(1_795_491_821_123_456_789), b"rule: text");
        };
        send(&mut syslog);
        assert_eq!(syslog.stats(), SyslogStats { sent: 0, dropped: 1 }, "nobody is there");
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).expect("bind");
            send(&mut syslog);
            let mut message = [0; 200];
            let length = daemon.recv(&mut message).expect("a message");
            let expected = format!("<27>Nov 24 03:43:41 conn[{}]: rule: text", std::process::id());
            assert_eq!(String::from_utf8_lossy(&message[..length]), expected);
            std::fs::remove_file(&path).expect("remove");
        }
        assert_eq!(syslog.stats(), SyslogStats { sent: 2, dropped: 1 });
    }
}
