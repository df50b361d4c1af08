//! The process object, rendered once a process and not once an event.

use std::sync::Arc;

use crate::event::address::write_int;
use crate::event::escape::{self, is_binary};
use crate::event::names::Named;
use crate::event::wire::{self, Text, encode};
use crate::process::identity::Tty;
use crate::process::info::ProcessInfo;
use crate::process::lineage::Ancestor;
use crate::process::placement::Container;

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

    /// Appends a reference to a process that is written out before.
    pub(crate) fn refer(&self, process: &ProcessInfo, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.boot8.as_bytes());
        for number in [u64::from(process.pid.0), process.start_ticks()] {
            out.push(b'-');
            write_int(number, out);
        }
        out.push(b'"');
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
    encode(&shape(boot8, process), out);
}

/// The form that a process has in JSON.
pub(crate) fn shape<'a>(boot8: &str, process: &'a ProcessInfo) -> wire::Process<'a> {
    let (state, file) = (process.identity.state(), process.identity.exe());
    let (comm, comm_escaped) = shown(&process.comm);
    let (exe, exe_escaped) = shown_option(process.exe.as_deref());
    let (exe_fs, exe_fs_escaped) = shown_option(file.and_then(|file| file.fs.as_deref()));
    let (exe_mount, exe_mount_escaped) = shown_option(file.and_then(|file| file.mount.as_deref()));
    let (cwd, cwd_escaped) = shown_option(state.and_then(|state| state.cwd.as_deref()));
    let (user, user_escaped) = shown_option(process.user.as_deref());
    // The arguments are one field: one that is not UTF-8 escapes the backslashes of all, or a reader would not know
    // which of them to undo.
    let args_escaped = process.args.iter().any(|arg| is_binary(arg));
    let args = process.args.iter().map(|arg| Text(escape::value(arg, args_escaped)));
    let place = process.placement.as_deref();
    let (cgroup, cgroup_escaped) = shown_option(place.map(|place| &*place.cgroup));
    let (unit, unit_escaped) = shown_option(place.and_then(|place| place.unit.as_deref()));
    let (user_unit, user_unit_escaped) = shown_option(place.and_then(|place| place.user_unit.as_deref()));
    let (slice, slice_escaped) = shown_option(place.and_then(|place| place.slice.as_deref()));
    wire::Process {
        id: id(boot8, process).into(),
        pid: process.pid.0,
        ppid: process.ppid.map(|pid| pid.0),
        start_ns: process.start.into(),
        comm,
        comm_escaped,
        exe,
        exe_escaped,
        exe_deleted: process.exe_is_deleted(),
        exe_memfd: process.exe_is_memfd(),
        exe_conn: process.exe_is_conn,
        exe_fs,
        exe_fs_escaped,
        exe_mount,
        exe_mount_escaped,
        exe_host: Some(process.identity.exe_is_host()),
        exe_writable: file.and_then(|file| file.writable),
        exe_user_writable: file.and_then(|file| file.user_writable),
        exe_sha256: process.identity.sha256().map(|hash| hex(hash).into()),
        exe_copy_of: process.identity.copy_of_settled().then(|| process.identity.copy_of().map(Text::from)),
        // Only what a rule had compared.
        exe_replaced: process.identity.replaced().map(|replaced| replaced.name().into()),
        args: args.collect(),
        args_escaped,
        args_truncated: process.args_truncated,
        cwd,
        cwd_escaped,
        tty: match state.map_or(&Tty::Unknown, |state| &state.tty) {
            Tty::Unknown => Some(None),
            Tty::None => None,
            Tty::Named(name) => Some(Some(Text::from(&**name))),
        },
        uid: process.uid,
        gid: process.gid,
        user,
        user_escaped,
        login_uid: process.login_uid,
        cgroup_id: process.cgroup_id,
        cgroup,
        cgroup_escaped,
        // What does not apply is absent, what is not known is `null`.
        unit: if place.is_some() { unit.map(Some) } else { Some(None) },
        unit_escaped,
        user_unit,
        user_unit_escaped,
        slice,
        slice_escaped,
        container: match place {
            Some(place) => place.container.as_ref().map(|container| Some(shape_container(container))),
            None => Some(None),
        },
        netns: state.and_then(|state| state.netns).map(|netns| netns.0),
        mnt_ns: process.mount_ns.map(|mount_ns| mount_ns.id.0),
        mnt_ns_host: process.mount_ns.map(|mount_ns| mount_ns.is_host),
        kernel: process.kernel,
        source: process.source.name().into(),
        ancestors: process.ancestors.iter().map(shape_ancestor).collect(),
    }
}

/// The name of a process for good.
fn id(boot8: &str, process: &ProcessInfo) -> String {
    format!("{boot8}-{}-{}", process.pid.0, process.start_ticks())
}

fn shape_container(container: &Container) -> wire::Container<'_> {
    let (id, id_escaped) = shown(&container.id);
    let (pod, pod_escaped) = shown_option(container.pod.as_deref());
    let runtime = container.runtime.map(|runtime| runtime.name().into());
    wire::Container { runtime, id, id_escaped, pod, pod_escaped }
}

fn shape_ancestor(ancestor: &Ancestor) -> wire::Ancestor<'_> {
    let (comm, comm_escaped) = shown(&ancestor.comm);
    let (exe, exe_escaped) = shown_option(ancestor.exe.as_deref());
    wire::Ancestor {
        pid: ancestor.pid.0,
        comm,
        comm_escaped,
        exe,
        exe_escaped,
        exe_host: Some(ancestor.exe_is_host),
        start_ns: ancestor.start.into(),
    }
}

/// Bytes as the text of a value, and whether that is escaped.
pub(crate) fn shown(bytes: &[u8]) -> (Text<'_>, bool) {
    let binary = is_binary(bytes);
    (Text(escape::value(bytes, binary)), binary)
}

/// Bytes that need not be known as the text of a value, and whether that is escaped.
pub(crate) fn shown_option(bytes: Option<&[u8]>) -> (Option<Text<'_>>, bool) {
    bytes.map(shown).map_or((None, false), |(text, escaped)| (Some(text), escaped))
}

pub(crate) fn hex(hash: &[u8; 32]) -> String {
    let mut out = Vec::with_capacity(64);
    escape::hex_bytes(hash, &mut out);
    String::from_utf8_lossy(&out).into_owned()
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
