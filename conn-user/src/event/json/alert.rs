//! An alert in JSON: its subject with the keys of an event about it, and `alert` with what the rule says.

use super::process::write_option;
use super::{JsonEncoder, write_instant, write_int, write_key, write_text};
use crate::event::address::write_ip;
use crate::event::alert::{Alert, Covered, Evidence, Subject, Value};
use crate::event::escape;
use crate::event::names::Named;
use crate::units::BootNs;

impl JsonEncoder {
    pub(super) fn alert(&mut self, alert: &Alert, at: BootNs, out: &mut Vec<u8>) {
        match &alert.subject {
            Subject::Connection(conn) => self.conn(conn, at, out),
            Subject::Listener(listener) => self.listener(listener, at, out),
            Subject::Process(process) => self.process(Some(process), b",\"process\":", out),
            Subject::Absence => {}
        }
        out.extend_from_slice(b",\"alert\":{\"id\":\"");
        out.extend_from_slice(&self.run);
        out.push(b'a');
        write_int(alert.id.0, out);
        out.extend_from_slice(b"\",\"phase\":\"");
        out.extend_from_slice(alert.phase.name().as_bytes());
        out.extend_from_slice(b"\",\"severity\":\"");
        out.extend_from_slice(alert.severity.name().as_bytes());
        out.push(b'"');
        write_text(b"rule", alert.rule.id.as_bytes(), out);
        out.extend_from_slice(b",\"rule_kind\":\"");
        out.extend_from_slice(alert.rule.kind.name().as_bytes());
        out.push(b'"');
        write_text(b"title", alert.rule.title.as_bytes(), out);
        out.extend_from_slice(b",\"attack\":[");
        for (at, id) in alert.rule.attack.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            escape::json_string(id.as_bytes(), false, out);
        }
        out.extend_from_slice(b"],\"evidence\":{");
        self.evidences(&alert.evidence, out);
        out.extend_from_slice(b"},\"coverage\":");
        write_covered(alert.covered, out);
        out.extend_from_slice(b",\"suppress\":");
        match &alert.suppress {
            Some(words) => escape::json_string(words.as_bytes(), false, out),
            None => out.extend_from_slice(b"null"),
        }
        write_instant(b"raised_boot_ns", alert.raised, out);
        out.extend_from_slice(b",\"repeats\":");
        write_int(alert.repeats, out);
        out.push(b'}');
    }

    /// Appends pieces of evidence as an object.
    pub fn encode_evidence(&mut self, evidence: &[Evidence], out: &mut Vec<u8>) {
        out.push(b'{');
        self.evidences(evidence, out);
        out.push(b'}');
    }

    fn evidences(&mut self, all: &[Evidence], out: &mut Vec<u8>) {
        for (at, evidence) in all.iter().enumerate() {
            self.evidence(evidence, at == 0, out);
        }
    }

    /// Durations are in nanoseconds, and their keys say so.
    fn evidence(&mut self, evidence: &Evidence, first: bool, out: &mut Vec<u8>) {
        if !first {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(evidence.name.as_bytes());
        if matches!(evidence.value, Value::Duration(_)) {
            out.extend_from_slice(b"_ns");
        }
        out.extend_from_slice(b"\":");
        self.value(&evidence.value, out);
    }

    fn value(&mut self, value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Text(text) => escape::json_string(text, true, out),
            Value::Number(number) => write_int(*number, out),
            Value::Duration(duration) => write_int(duration.0, out),
            Value::Score(score) => out.extend_from_slice(format!("{score:.3}").as_bytes()),
            Value::End(end) => {
                out.extend_from_slice(b"{\"ip\":\"");
                write_ip(end.ip(), out);
                out.extend_from_slice(b"\",\"port\":");
                write_option(Some(end.port()).filter(|port| *port != 0), out);
                out.push(b'}');
            }
            Value::Process(process) => self.processes.write(process, out),
            Value::List(values) => {
                out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    self.value(value, out);
                }
                out.push(b']');
            }
        }
    }
}

fn write_covered(covered: Covered, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"seen\":\"");
    out.extend_from_slice(match covered {
        Covered::All => b"all".as_slice(),
        Covered::Since(_) => b"since",
        Covered::Except { .. } => b"except",
        Covered::Unknown => b"unknown",
    });
    out.push(b'"');
    match covered {
        Covered::Since(since) => {
            write_instant(b"since_boot_ns", since, out);
        }
        Covered::Except { lost, repaired } => {
            write_key(b"lost", out);
            write_int(lost, out);
            write_key(b"repaired", out);
            out.extend_from_slice(if repaired { b"true" } else { b"false" });
        }
        Covered::All | Covered::Unknown => {}
    }
    out.push(b'}');
}
