//! The process object, rendered once a process and not once an event.

use std::sync::Arc;

use crate::event::address::write_int;
use crate::event::escape::{is_binary, json_string};
use crate::event::names::Named;
use crate::process::info::ProcessInfo;

/// Sets of the cache; a power of two. Two entries a set: connector and acceptor of a busy pair never evict each other.
const SETS: usize = 256;
/// A longer rendering is not kept: bounds the cache to 4 MiB.
const LONGEST: usize = 8 << 10;

/// Renders processes.
///
/// The cache is keyed by the identity of the `Arc`, which it holds: as long as an entry lives, its address names
/// nothing else, and what an `Arc` holds does not change.
pub(crate) struct ProcessWriter {
    /// The first eight digits of the boot id.
    boot8: Box<str>,
    sets: Box<[[Option<Entry>; 2]]>,
}

struct Entry {
    process: Arc<ProcessInfo>,
    json: Box<[u8]>,
}

impl ProcessWriter {
    pub(crate) fn new(boot8: &str) -> Self {
        Self { boot8: boot8.into(), sets: std::iter::repeat_with(|| [None, None]).take(SETS).collect() }
    }

    /// Appends the object.
    pub(crate) fn write(&mut self, process: &Arc<ProcessInfo>, out: &mut Vec<u8>) {
        let address = Arc::as_ptr(process).addr();
        // Allocations are multiples of 16 bytes; the multiplication spreads what is left.
        let hash = (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let set = &mut self.sets[hash % SETS];
        for entry in set.iter().flatten() {
            if Arc::ptr_eq(&entry.process, process) {
                out.extend_from_slice(&entry.json);
                return;
            }
        }
        let start = out.len();
        render(&self.boot8, process, out);
        let json = &out[start..];
        if json.len() <= LONGEST {
            // The older entry goes.
            set.swap(0, 1);
            set[0] = Some(Entry { process: Arc::clone(process), json: json.into() });
        }
    }
}

fn render(boot8: &str, process: &ProcessInfo, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(boot8.as_bytes());
    out.push(b'-');
    write_int(process.pid.0, out);
    out.push(b'-');
    write_int(process.start.0, out);
    out.extend_from_slice(b"\",\"pid\":");
    write_int(process.pid.0, out);
    out.extend_from_slice(b",\"ppid\":");
    write_option(process.ppid.map(|pid| pid.0), out);
    out.extend_from_slice(b",\"start_ns\":");
    write_int(process.start.0, out);
    write_name(b"comm", Some(&process.comm), out);
    write_name(b"exe", process.exe.as_deref(), out);
    write_flag(b"exe_deleted", process.exe_deleted, out);
    write_args(&process.args, out);
    write_flag(b"args_truncated", process.args_truncated, out);
    out.extend_from_slice(b",\"uid\":");
    write_int(process.uid, out);
    out.extend_from_slice(b",\"gid\":");
    write_int(process.gid, out);
    out.extend_from_slice(b",\"login_uid\":");
    write_option(process.login_uid, out);
    out.extend_from_slice(b",\"cgroup_id\":");
    write_int(process.cgroup_id, out);
    write_flag(b"kernel", process.kernel, out);
    out.extend_from_slice(b",\"source\":\"");
    out.extend_from_slice(process.source.name().as_bytes());
    out.extend_from_slice(b"\"}");
}

fn write_name(key: &[u8], bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    write_key(key, out);
    let Some(bytes) = bytes else { return out.extend_from_slice(b"null") };
    let binary = is_binary(bytes);
    json_string(bytes, binary, out);
    write_escaped(key, binary, out);
}

/// The arguments are one field: one that is not UTF-8 escapes the backslashes of all, or a reader could not tell
/// which of them to undo.
fn write_args(args: &[Box<[u8]>], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"args\":[");
    let binary = args.iter().any(|arg| is_binary(arg));
    for (at, arg) in args.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json_string(arg, binary, out);
    }
    out.push(b']');
    write_escaped(b"args", binary, out);
}

fn write_escaped(key: &[u8], escaped: bool, out: &mut Vec<u8>) {
    if escaped {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(key);
        out.extend_from_slice(b"_escaped\":true");
    }
}

fn write_flag(key: &[u8], value: bool, out: &mut Vec<u8>) {
    write_key(key, out);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Appends `,"key":`.
pub(crate) fn write_key(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
}

/// Appends a number or `null`.
pub(crate) fn write_option(value: Option<impl itoa::Integer>, out: &mut Vec<u8>) {
    match value {
        Some(value) => write_int(value, out),
        None => out.extend_from_slice(b"null"),
    }
}
