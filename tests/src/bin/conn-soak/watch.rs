//! What the agent reports to syslog.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What was reported so far.
#[derive(Default)]
struct Reported {
    /// Ports of intrusions.
    raised: BTreeSet<u16>,
    /// Records in gaps.
    lost: u64,
    /// Reports that the agent does less than it should.
    degraded: u64,
}

/// Reads the messages in a thread, for as long as the program runs.
pub(crate) struct Watch(Arc<Mutex<Reported>>);

impl Watch {
    pub(crate) fn start(syslog: UnixDatagram) -> Self {
        let reported = Arc::<Mutex<Reported>>::default();
        let own = Arc::clone(&reported);
        thread::spawn(move || {
            let mut room = [0; 16 << 10];
            while let Ok(length) = syslog.recv(&mut room) {
                let message = String::from_utf8_lossy(&room[..length]).into_owned();
                own.lock().unwrap_or_else(PoisonError::into_inner).take(&message);
            }
        });
        Self(reported)
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_raised(&self, port: u16) -> bool {
        self.reported().raised.contains(&port)
    }

    pub(crate) fn raised(&self) -> usize {
        self.reported().raised.len()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.reported().lost
    }

    pub(crate) fn degraded(&self) -> u64 {
        self.reported().degraded
    }

    /// What the totals count that was not reported.
    pub(crate) fn unreported(&self, totals: &str) -> Vec<String> {
        let number = |before: &str| {
            let at = totals.find(before)?;
            let digits: String = totals[..at]
                .chars()
                .rev()
                .skip_while(|c| *c == ' ')
                .take_while(char::is_ascii_digit)
                .collect();
            digits.chars().rev().collect::<String>().parse::<u64>().ok()
        };
        let reported = self.reported();
        let lost = number(" lost record").unwrap_or(0);
        let mut problems = Vec::new();
        if lost > reported.lost {
            problems.push(format!("{lost} records were lost, gaps report {}", reported.lost));
        }
        if totals.contains("that were dropped: ") && reported.degraded == 0 {
            problems.push("lines were dropped, and nothing reports it".to_owned());
        }
        problems
    }
}

impl Reported {
    fn take(&mut self, message: &str) {
        let Some((_, text)) = message.split_once("]: ") else { return };
        if text.contains(" soak.intrusion: ") && !text.contains(" resolved ") {
            let ports = text.split("127.0.0.1:").skip(1);
            let digits = ports.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
            self.raised.extend(digits.filter_map(|port| port.parse::<u16>().ok()));
        } else if let Some((count, _)) = text.strip_prefix("--- ").and_then(|rest| rest.split_once(" record"))
        {
            self.lost += count.parse::<u64>().unwrap_or(0);
        } else if text.contains(" dropped") || text.contains(" not ") {
            self.degraded += 1;
        }
    }
}
