//! The report as one JSON object: [`super::wire`] has its keys.

use serde_json::value::RawValue;

use super::expect::Expectation;
use super::report::{Report, error};
use super::seen::{Connections, Listeners, Program};
use super::wire::{ConnectionRow, Expected, ListenerRow, Run};
use crate::event::escape;
use crate::event::json::process::{shape, shown};
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::event::time::Rfc3339;
use crate::event::wire::{Text, encode};
use crate::process::info::ExitStatus;
use crate::units::WallNs;

/// Version of the report's schema; a field that changes its meaning or goes away raises it, a new field does not.
pub const SCHEMA_VERSION: u32 = 1;

/// Writes a report as a line. `wall`: when the run was over.
pub fn write(report: &Report, identity: &StreamIdentity, wall: WallNs, out: &mut Vec<u8>) {
    let (mut ts, boot8) = (Vec::new(), identity.boot8());
    Rfc3339::default().write(wall, &mut ts);
    let command_escaped = report.command.iter().any(|word| escape::is_binary(word));
    let (exit_code, signal) = match report.ended {
        ExitStatus::Code(code) => (Some(code), None),
        ExitStatus::Signal(signal) => (None, Some(signal)),
    };
    let missing = report.missing().map(|of| (&*of.rule.about.id).into()).collect();
    let run = Run {
        schema: SCHEMA_VERSION,
        ts: String::from_utf8_lossy(&ts).into_owned().into(),
        host: identity.host.as_str().into(),
        boot_id: identity.boot_id.as_str().into(),
        kind: "run".into(),
        command: report.command.iter().map(|word| Text(escape::value(word, command_escaped))).collect(),
        command_escaped,
        exit_code,
        signal,
        duration_ns: report.took.0,
        processes: report.processes as u64,
        verdict: report.verdict().name().map(Text::from),
        connections: report.connections.iter().map(connections).collect(),
        listeners: report.listeners.iter().map(listeners).collect(),
        rules: report.rules.iter().map(|rule| (&*rule.about.id).into()).collect(),
        unexpected: unexpected(report, identity),
        more_unexpected: report.more_unexpected,
        expected: report.expectations.iter().map(expectation).collect(),
        missing,
        still_running: report.survivors.iter().map(|process| shape(&boot8, process)).collect(),
        lost: report.loss.records,
        not_followed: report.loss.not_followed,
    };
    encode(&run, out);
    out.push(b'\n');
}

/// The alerts as events.
fn unexpected(report: &Report, identity: &StreamIdentity) -> Vec<Box<RawValue>> {
    let mut encoder = JsonEncoder::new(identity);
    let events = (1..).zip(&report.unexpected).map(|(seq, unexpected)| {
        let alert = &unexpected.alert;
        let body = EventBody::Alert(Box::new(alert.clone()));
        let mut line = Vec::new();
        encoder.encode(&Event { seq, boot: alert.at, wall: unexpected.wall, body }, &mut line);
        RawValue::from_string(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
    });
    // What the encoder writes is JSON: a test of its own.
    events.filter_map(Result::ok).collect()
}

fn connections(row: &Connections) -> ConnectionRow<'_> {
    let (program, program_escaped) = program(&row.path.program);
    ConnectionRow {
        program,
        program_escaped,
        dir: row.path.direction.name().into(),
        raddr: row.path.remote,
        port: Some(row.path.port).filter(|port| *port != 0),
        count: row.count,
        established: row.established,
        failed: row.failed,
        open: row.open,
        bytes_in: row.bytes_in,
        bytes_out: row.bytes_out,
        error: last_error(row.errno),
    }
}

fn listeners(row: &Listeners) -> ListenerRow<'_> {
    let (program, program_escaped) = program(&row.program);
    ListenerRow {
        program,
        program_escaped,
        laddr: row.local.ip(),
        lport: Some(row.local.port()).filter(|port| *port != 0),
        count: row.count,
        open: row.open,
    }
}

fn expectation(of: &Expectation) -> Expected<'_> {
    Expected {
        rule: (&*of.rule.about.id).into(),
        title: (&*of.rule.about.title).into(),
        expect: if of.of_listeners { "listener" } else { "connection" }.into(),
        r#match: of.rule.matches.to_string().into(),
        except: of.rule.except.iter().map(|except| except.to_string().into()).collect(),
        at_least: of.least,
        seen: of.seen,
        failed: of.failed,
        error: last_error(of.errno),
    }
}

/// The program, where the process is known, and whether it is escaped.
fn program(program: &Program) -> (Option<Text<'_>>, bool) {
    if program.name.is_empty() {
        return (None, false);
    }
    let (name, escaped) = shown(&program.name);
    (Some(name), escaped)
}

fn last_error(errno: Option<u16>) -> Option<Text<'static>> {
    errno.map(|errno| error(errno).into())
}
