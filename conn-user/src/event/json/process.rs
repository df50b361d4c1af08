//! The process object, rendered once a process and not once an event.

use std::sync::Arc;

use crate::event::address::write_int;
use crate::event::escape::{self, is_binary, json_string};
use crate::event::names::Named;
use crate::process::identity::Tty;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;

/// Sets of the cache; a power of two. Two entries a set: connector and acceptor of a busy pair never evict each other.
const SETS: usize = 256;
/// A longer rendering is not kept: bounds the cache to 4 MiB.
const LONGEST: usize = 8 << 10;

/// Renders processes.
///
/// The cache is keyed by the identity of the `Arc`, which it holds: as long as an entry lives, its address names
/// nothing else. What an `Arc` holds does not change, but for its identity, whose version is kept.
pub(crate) struct ProcessWriter {
    /// The first eight digits of the boot id.
    boot8: Box<str>,
    sets: Box<[[Option<Entry>; 2]]>,
}

struct Entry {
    process: Arc<ProcessInfo>,
    version: u16,
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
        // Read before the rendering: what comes meanwhile makes it anew the next time.
        let version = process.identity.version();
        let found = set
            .iter_mut()
            .find(|entry| entry.as_ref().is_some_and(|entry| Arc::ptr_eq(&entry.process, process)));
        if let Some(Some(entry)) = &found
            && entry.version == version
        {
            out.extend_from_slice(&entry.json);
            return;
        }
        let start = out.len();
        render(&self.boot8, process, out);
        let json = &out[start..];
        let entry = (json.len() <= LONGEST).then(|| Entry {
            process: Arc::clone(process),
            version,
            json: json.into(),
        });
        match found {
            Some(old) => *old = entry,
            None if entry.is_some() => {
                // The older entry goes.
                set.swap(0, 1);
                set[0] = entry;
            }
            None => {}
        }
    }
}

fn render(boot8: &str, process: &ProcessInfo, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(boot8.as_bytes());
    out.push(b'-');
    write_int(process.pid.0, out);
    out.push(b'-');
    write_int(process.start_ticks(), out);
    out.extend_from_slice(b"\",\"pid\":");
    write_int(process.pid.0, out);
    out.extend_from_slice(b",\"ppid\":");
    write_option(process.ppid.map(|pid| pid.0), out);
    out.extend_from_slice(b",\"start_ns\":");
    write_int(process.start.0, out);
    write_name(b"comm", Some(&process.comm), out);
    write_exe(process, out);
    write_args(&process.args, out);
    write_flag(b"args_truncated", process.args_truncated, out);
    let state = process.identity.state();
    write_name(b"cwd", state.and_then(|state| state.cwd.as_deref()), out);
    match state.map_or(&Tty::Unknown, |state| &state.tty) {
        Tty::Unknown => write_name(b"tty", None, out),
        Tty::None => {}
        Tty::Named(name) => write_name(b"tty", Some(name.as_bytes()), out),
    }
    out.extend_from_slice(b",\"uid\":");
    write_int(process.uid, out);
    out.extend_from_slice(b",\"gid\":");
    write_int(process.gid, out);
    write_name(b"user", process.user.as_deref(), out);
    out.extend_from_slice(b",\"login_uid\":");
    write_option(process.login_uid, out);
    out.extend_from_slice(b",\"cgroup_id\":");
    write_int(process.cgroup_id, out);
    write_placement(process.placement.as_deref(), out);
    out.extend_from_slice(b",\"netns\":");
    write_option(state.and_then(|state| state.netns).map(|netns| netns.0), out);
    write_key(b"mnt_ns", out);
    write_option(process.mount_ns.map(|mount_ns| mount_ns.id.0), out);
    write_known_flag(b"mnt_ns_host", process.mount_ns.map(|mount_ns| mount_ns.is_host), out);
    write_flag(b"kernel", process.kernel, out);
    out.extend_from_slice(b",\"source\":\"");
    out.extend_from_slice(process.source.name().as_bytes());
    out.extend_from_slice(b"\",\"ancestors\":[");
    for (at, ancestor) in process.ancestors.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"{\"pid\":".as_slice() } else { b",{\"pid\":" });
        write_int(ancestor.pid.0, out);
        write_name(b"comm", Some(&ancestor.comm), out);
        write_name(b"exe", ancestor.exe.as_deref(), out);
        write_known_flag(b"exe_host", ancestor.exe_is_host, out);
        write_key(b"start_ns", out);
        write_int(ancestor.start.0, out);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

fn write_exe(process: &ProcessInfo, out: &mut Vec<u8>) {
    let file = process.identity.exe();
    write_name(b"exe", process.exe.as_deref(), out);
    write_flag(b"exe_deleted", process.exe_is_deleted(), out);
    write_flag(b"exe_memfd", process.exe_is_memfd(), out);
    if process.exe_is_conn {
        write_flag(b"exe_conn", true, out);
    }
    write_name(b"exe_fs", file.and_then(|file| file.fs.as_deref()), out);
    write_name(b"exe_mount", file.and_then(|file| file.mount.as_deref()), out);
    write_known_flag(b"exe_host", process.identity.exe_is_host(), out);
    write_known_flag(b"exe_writable", file.and_then(|file| file.writable), out);
    write_known_flag(b"exe_user_writable", file.and_then(|file| file.user_writable), out);
    match process.identity.sha256() {
        Some(hash) => {
            write_key(b"exe_sha256", out);
            out.push(b'"');
            escape::hex_bytes(hash, out);
            out.push(b'"');
        }
        None => write_name(b"exe_sha256", None, out),
    }
    if process.identity.copy_of_settled() {
        write_name(b"exe_copy_of", process.identity.copy_of().map(str::as_bytes), out);
    }
    // Only what a rule had compared.
    if let Some(replaced) = process.identity.replaced() {
        write_name(b"exe_replaced", Some(replaced.name().as_bytes()), out);
    }
}

/// What does not apply is absent, what is not known is `null`.
fn write_placement(place: Option<&Placement>, out: &mut Vec<u8>) {
    let Some(place) = place else {
        return out.extend_from_slice(b",\"cgroup\":null,\"unit\":null,\"container\":null");
    };
    write_name(b"cgroup", Some(&place.cgroup), out);
    for (key, name) in
        [(b"unit".as_slice(), &place.unit), (b"user_unit", &place.user_unit), (b"slice", &place.slice)]
    {
        if let Some(name) = name {
            write_name(key, Some(name), out);
        }
    }
    let Some(container) = &place.container else { return };
    out.extend_from_slice(b",\"container\":{\"runtime\":");
    match container.runtime {
        Some(runtime) => json_string(runtime.name().as_bytes(), false, out),
        None => out.extend_from_slice(b"null"),
    }
    write_name(b"id", Some(&container.id), out);
    if let Some(pod) = &container.pod {
        write_name(b"pod", Some(pod), out);
    }
    out.push(b'}');
}

fn write_name(key: &[u8], bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    write_key(key, out);
    let Some(bytes) = bytes else { return out.extend_from_slice(b"null") };
    let binary = is_binary(bytes);
    json_string(bytes, binary, out);
    write_escaped(key, binary, out);
}

/// The arguments are one field: one that is not UTF-8 escapes the backslashes of all, or a reader could not report
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

pub(crate) fn write_escaped(key: &[u8], escaped: bool, out: &mut Vec<u8>) {
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

/// `null` where it is not known.
fn write_known_flag(key: &[u8], value: Option<bool>, out: &mut Vec<u8>) {
    match value {
        Some(value) => write_flag(key, value, out),
        None => write_name(key, None, out),
    }
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
