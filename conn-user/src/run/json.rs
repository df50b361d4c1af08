//! The report as one JSON object: the keys, and their order, of `docs/run.md`.

use super::expect::Expectation;
use super::report::{Report, error};
use super::seen::{Connections, Listeners, Program};
use crate::event::address::{write_int, write_ip};
use crate::event::escape;
use crate::event::json::process::{ProcessWriter, write_escaped, write_option};
use crate::event::json::{JsonEncoder, StreamIdentity, write_key, write_text};
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::event::time::Rfc3339;
use crate::process::info::ExitStatus;
use crate::units::WallNs;

/// Version of the report's schema; a field that changes its meaning or goes away raises it, a new field does not.
pub const SCHEMA_VERSION: u32 = 1;

/// Writes a report as a line. `wall`: when the run was over.
pub fn write(report: &Report, identity: &StreamIdentity, wall: WallNs, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"schema\":");
    write_int(SCHEMA_VERSION, out);
    out.extend_from_slice(b",\"ts\":\"");
    Rfc3339::default().write(wall, out);
    out.push(b'"');
    write_text(b"host", identity.host.as_bytes(), out);
    write_text(b"boot_id", identity.boot_id.as_bytes(), out);
    write_text(b"kind", b"run", out);
    write_key(b"command", out);
    let binary = report.command.iter().any(|word| escape::is_binary(word));
    list(&report.command, out, |word, out| escape::json_string(word, binary, out));
    write_escaped(b"command", binary, out);
    let (code, signal) = match report.ended {
        ExitStatus::Code(code) => (Some(code), None),
        ExitStatus::Signal(signal) => (None, Some(signal)),
    };
    write_key(b"exit_code", out);
    write_option(code, out);
    write_key(b"signal", out);
    write_option(signal, out);
    number(b"duration_ns", report.took.0, out);
    number(b"processes", report.processes as u64, out);
    write_key(b"verdict", out);
    match report.verdict().name() {
        Some(name) => escape::json_string(name.as_bytes(), false, out),
        None => out.extend_from_slice(b"null"),
    }
    write_key(b"connections", out);
    list(&report.connections, out, connections);
    write_key(b"listeners", out);
    list(&report.listeners, out, listeners);
    write_key(b"rules", out);
    list(&report.rules, out, |rule, out| escape::json_string(rule.about.id.as_bytes(), false, out));
    write_key(b"unexpected", out);
    let mut encoder = JsonEncoder::new(identity);
    let mut seq = 0;
    list(&report.unexpected, out, |unexpected, out| {
        seq += 1;
        let alert = &unexpected.alert;
        let body = EventBody::Alert(Box::new(alert.clone()));
        encoder.encode(&Event { seq, boot: alert.at, wall: unexpected.wall, body }, out);
        // It ends its line; here it is a value.
        while out.last() == Some(&b'\n') {
            out.pop();
        }
    });
    number(b"more_unexpected", report.more_unexpected, out);
    write_key(b"expected", out);
    list(&report.expectations, out, expectation);
    write_key(b"missing", out);
    let missing: Vec<&Expectation> = report.missing().collect();
    list(&missing, out, |of, out| escape::json_string(of.rule.about.id.as_bytes(), false, out));
    write_key(b"still_running", out);
    let mut processes = ProcessWriter::new(&identity.boot8());
    list(&report.survivors, out, |process, out| processes.write(process, out));
    number(b"lost", report.loss.records, out);
    number(b"not_followed", report.loss.not_followed, out);
    out.extend_from_slice(b"}\n");
}

fn connections(row: &Connections, out: &mut Vec<u8>) {
    program(&row.path.program, out);
    write_text(b"dir", row.path.direction.name().as_bytes(), out);
    out.extend_from_slice(b",\"raddr\":\"");
    write_ip(row.path.remote, out);
    out.push(b'"');
    write_key(b"port", out);
    write_option(Some(row.path.port).filter(|port| *port != 0), out);
    for (key, value) in [
        (&b"count"[..], row.count),
        (b"established", row.established),
        (b"failed", row.failed),
        (b"open", row.open),
        (b"bytes_in", row.bytes_in),
        (b"bytes_out", row.bytes_out),
    ] {
        number(key, value, out);
    }
    last_error(row.errno, out);
    out.push(b'}');
}

fn listeners(row: &Listeners, out: &mut Vec<u8>) {
    program(&row.program, out);
    out.extend_from_slice(b",\"laddr\":\"");
    write_ip(row.local.ip(), out);
    out.push(b'"');
    write_key(b"lport", out);
    write_option(Some(row.local.port()).filter(|port| *port != 0), out);
    number(b"count", row.count, out);
    number(b"open", row.open, out);
    out.push(b'}');
}

fn expectation(of: &Expectation, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"rule\":");
    escape::json_string(of.rule.about.id.as_bytes(), false, out);
    write_text(b"title", of.rule.about.title.as_bytes(), out);
    write_text(b"expect", if of.of_listeners { b"listener" } else { b"connection" }, out);
    write_text(b"match", of.rule.matches.to_string().as_bytes(), out);
    write_key(b"except", out);
    list(&of.rule.except, out, |except, out| {
        escape::json_string(except.to_string().as_bytes(), false, out);
    });
    number(b"at_least", of.least.into(), out);
    number(b"seen", of.seen.into(), out);
    number(b"failed", of.failed, out);
    last_error(of.errno, out);
    out.push(b'}');
}

/// Begins an object with the program.
fn program(program: &Program, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"program\":");
    if program.name.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        let binary = escape::is_binary(&program.name);
        escape::json_string(&program.name, binary, out);
        write_escaped(b"program", binary, out);
    }
}

fn last_error(errno: Option<u16>, out: &mut Vec<u8>) {
    write_key(b"error", out);
    match errno {
        Some(errno) => escape::json_string(error(errno).as_bytes(), false, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn number(key: &[u8], value: u64, out: &mut Vec<u8>) {
    write_key(key, out);
    write_int(value, out);
}

fn list<T>(values: &[T], out: &mut Vec<u8>, mut write: impl FnMut(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}
