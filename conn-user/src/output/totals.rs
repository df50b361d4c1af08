//! What was seen and what was lost, reported at the end of a run.

use std::fmt;

use conn_common::hook::HookId;

use crate::event::address::write_int;
use crate::event::degraded::Degradation;
use crate::event::model::EventKind;
use crate::event::names::Named as _;

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events, by the order of [`EventKind::ALL`].
    events: [u64; EventKind::ALL.len()],
    /// Records of each hook that was attached, in the order of attaching.
    pub records: Vec<HookTotals>,
    /// Gaps that were reported.
    pub gaps: u64,
    /// Records lost, in all gaps.
    pub lost: u64,
    /// Records that arrived and could not be understood.
    pub undecoded: u64,
    /// How often the kernel skipped a program, because one was already running on the CPU: an event that left no
    /// record, and no number in a sequence.
    pub missed: u64,
    /// Hooks whose skipped programs this kernel does not count.
    pub uncounted: Vec<HookId>,
    /// What was dropped or not followed because a limit was reached.
    pub overflow: Overflow,
    /// How often the tables were repaired after a loss.
    pub repairs: u64,
    /// Repairs for which no snapshot could be taken.
    pub repairs_failed: u64,
}

/// What bounded tables did not take, or evicted too early: how much, in each way that is not counted elsewhere in the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow([u64; Self::KINDS.len()]);

impl Overflow {
    /// The ways, in the order in which they are printed.
    const KINDS: [Degradation; 9] = [
        Degradation::Processes,
        Degradation::Connections,
        Degradation::Listeners,
        Degradation::HeldEvents,
        Degradation::Inspections,
        Degradation::Files,
        Degradation::Arguments,
        Degradation::Alerts,
        Degradation::RuleState,
    ];

    /// Returns what this function counts of each.
    pub fn of(count: impl Fn(Degradation) -> u64) -> Self {
        Self(Self::KINDS.map(count))
    }

    fn counts(&self) -> impl Iterator<Item = (Degradation, u64)> {
        Self::KINDS.into_iter().zip(self.0)
    }
}

/// Counters of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookTotals {
    /// Which.
    pub hook: HookId,
    /// Records that arrived.
    pub seen: u64,
    /// Records that were lost.
    pub lost: u64,
}

impl Totals {
    /// Counts an event.
    pub const fn count(&mut self, kind: EventKind) {
        self.events[kind as usize] += 1;
    }

    /// How many events of a kind there were.
    pub const fn events(&self, kind: EventKind) -> u64 {
        self.events[kind as usize]
    }

    /// Appends one JSON line: the last line on standard error of `conn tail --json`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"kind\":\"totals\",\"events\":{");
        for (at, kind) in EventKind::ALL.into_iter().filter(|kind| !kind.is_of_recording()).enumerate() {
            write_key(at > 0, kind.name(), out);
            write_int(self.events(kind), out);
        }
        out.extend_from_slice(b"},\"records\":{");
        for (at, hook) in self.records.iter().enumerate() {
            write_key(at > 0, hook.hook.label(), out);
            out.extend_from_slice(b"{\"seen\":");
            write_int(hook.seen, out);
            out.extend_from_slice(b",\"lost\":");
            write_int(hook.lost, out);
            out.push(b'}');
        }
        out.push(b'}');
        for (key, number) in [
            ("gaps", self.gaps),
            ("lost", self.lost),
            ("undecoded", self.undecoded),
            ("missed", self.missed),
            ("repairs", self.repairs),
            ("repairs_failed", self.repairs_failed),
        ] {
            write_key(true, key, out);
            write_int(number, out);
        }
        out.extend_from_slice(b",\"uncounted\":[");
        for (at, hook) in self.uncounted.iter().enumerate() {
            out.extend_from_slice(if at > 0 { b",\"" } else { b"\"" });
            out.extend_from_slice(hook.label().as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"],\"overflow\":{");
        for (at, (what, number)) in self.overflow.counts().enumerate() {
            write_key(at > 0, what.name(), out);
            write_int(number, out);
        }
        out.extend_from_slice(b"}}\n");
    }
}

/// For people: how many events, and what was lost, then a line for each thing that is not as it should be; no newline at the
/// end. `{:#}`: also events by kind, records by hook, and what this kernel does not count.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |kind: &EventKind| *kind != EventKind::Gap && self.events(*kind) > 0;
        let events: u64 = EventKind::ALL.into_iter().filter(shown).map(|kind| self.events(kind)).sum();
        write!(f, "{} event{}, ", grouped(events), if events == 1 { "" } else { "s" })?;
        if self.lost == 0 && self.gaps == 0 && self.missed == 0 {
            f.write_str("nothing lost")?;
        } else {
            write!(f, "{}, {}", plural(self.gaps, "gap"), plural(self.lost, "lost record"))?;
        }
        if f.alternate() {
            let mut between = "\nevents by kind: ";
            for kind in EventKind::ALL.into_iter().filter(shown) {
                write!(f, "{between}{} {}", self.events(kind), kind.name())?;
                between = ", ";
            }
            let width = self.records.iter().map(|hook| hook.hook.label().len()).max().unwrap_or(0);
            let digits = self.records.iter().map(|hook| hook.seen.to_string().len()).max().unwrap_or(0);
            if !self.records.is_empty() {
                f.write_str("\nrecords by hook:")?;
            }
            for hook in &self.records {
                write!(f, "\n  {:width$}  {:>digits$}", hook.hook.label(), hook.seen)?;
                if hook.lost > 0 {
                    write!(f, "  {} lost", hook.lost)?;
                }
            }
        }
        if self.repairs > 0 {
            write!(f, "\n{} after a loss", plural(self.repairs, "repair"))?;
        }
        if self.repairs_failed > 0 {
            write!(
                f,
                "\n{} without a snapshot: the state may be wrong",
                plural(self.repairs_failed, "failed repair")
            )?;
        }
        if self.missed > 0 {
            write!(f, "\n{} skipped by the kernel", plural(self.missed, "program run"))?;
        }
        if f.alternate() && !self.uncounted.is_empty() {
            let hooks = self.uncounted.len();
            write!(f, "\nnot counted by this kernel: skipped runs of {}", plural(hooks as u64, "hook"))?;
        }
        let mut between = "\ndegraded: ";
        for (what, number) in self.overflow.counts().filter(|(_, number)| *number > 0) {
            write!(f, "{between}{number} {}", what.counted())?;
            between = ", ";
        }
        if self.undecoded > 0 {
            write!(f, "\n{} not understood: a bug, please report it", plural(self.undecoded, "record"))?;
        }
        Ok(())
    }
}

/// A number with its thousands apart: `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn write_key(comma: bool, key: &str, out: &mut Vec<u8>) {
    if comma {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Totals {
        let mut totals = Totals { gaps: 1, lost: 12, undecoded: 0, ..Totals::default() };
        totals.uncounted = vec![HookId::FentryTcpConnect];
        totals.overflow = Overflow::of(|what| if what == Degradation::Connections { 3 } else { 0 });
        totals.records = vec![
            HookTotals { hook: HookId::FentryTcpConnect, seen: 1234, lost: 0 },
            HookTotals { hook: HookId::State, seen: 7, lost: 12 },
        ];
        for kind in [EventKind::Connect, EventKind::Connect, EventKind::Close, EventKind::Gap] {
            totals.count(kind);
        }
        totals
    }

    #[test]
    fn json() {
        let mut line = Vec::new();
        sample().write_json(&mut line);
        let expected = concat!(
            r#"{"kind":"totals","events":{"connect":2,"accept":0,"established":0,"failed":0,"close":1,"listen":0,"#,
            r#""unlisten":0,"exec":0,"exit":0,"gap":1,"repair":0,"degraded":0,"heartbeat":0,"alert":0},"records":{"fentry:tcp_connect":{"seen":1234,"lost":0},"#,
            r#""tp_btf:inet_sock_set_state":{"seen":7,"lost":12}},"gaps":1,"lost":12,"undecoded":0,"missed":0,"repairs":0,"repairs_failed":0,"uncounted":["fentry:tcp_connect"],"#,
            r#""overflow":{"processes":0,"connections":3,"listeners":0,"held_events":0,"inspections":0,"files":0,"arguments":0,"alerts":0,"#,
            r#""rule_state":0}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line.clone()).expect("UTF-8"), expected);
        let _: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    }

    #[test]
    fn text() {
        let degraded = "\ndegraded: 3 connections not followed to their end";
        assert_eq!(sample().to_string(), format!("3 events, 1 gap, 12 lost records{degraded}"));
        let details = "3 events, 1 gap, 12 lost records\nevents by kind: 2 connect, 1 close\nrecords by hook:\n  \
                       fentry:tcp_connect          1234\n  tp_btf:inet_sock_set_state     7  12 lost\n\
                       not counted by this kernel: skipped runs of 1 hook";
        assert_eq!(format!("{:#}", sample()), format!("{details}{degraded}"));
        assert_eq!(Totals::default().to_string(), "0 events, nothing lost");
        assert_eq!(format!("{:#}", Totals::default()), "0 events, nothing lost");
        let mut many = Totals::default();
        many.events[EventKind::Connect as usize] = 12_345_678;
        assert_eq!(many.to_string(), "12,345,678 events, nothing lost");
        let undecoded = Totals { undecoded: 1, ..Totals::default() };
        assert!(undecoded.to_string().ends_with("\n1 record not understood: a bug, please report it"));
    }

    #[test]
    fn kinds_index_the_counters() {
        for (at, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
