//! Processes of a recording: each text is read once.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ReadError, named};
use crate::event::escape;
use crate::process::identity::{ExeFile, Identity, ProcessState, Tty};
use crate::process::info::{ProcessInfo, ProcessSource};
use crate::process::lineage::Ancestor;
use crate::process::placement::{Container, Placement, Runtime};
use crate::units::{BootNs, NetNs, Pid};

/// Most texts that are kept; then all are dropped, and read again when they come again.
const KEPT_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: HashMap<Box<str>, Arc<ProcessInfo>>,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
    #[serde(default)]
    ppid: Option<u32>,
    start_ns: u64,
    comm: String,
    #[serde(default)]
    comm_escaped: bool,
    #[serde(default)]
    exe: Option<String>,
    #[serde(default)]
    exe_escaped: bool,
    #[serde(default)]
    exe_deleted: bool,
    #[serde(default)]
    exe_fs: Option<String>,
    #[serde(default)]
    exe_mount: Option<String>,
    #[serde(default)]
    exe_mount_escaped: bool,
    #[serde(default)]
    exe_writable: Option<bool>,
    #[serde(default)]
    exe_sha256: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    args_escaped: bool,
    #[serde(default)]
    args_truncated: bool,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    cwd_escaped: bool,
    // Absent: it has none. `null`: that is not known.
    #[serde(default, deserialize_with = "present")]
    tty: Option<Option<String>>,
    uid: u32,
    gid: u32,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    user_escaped: bool,
    #[serde(default)]
    login_uid: Option<u32>,
    #[serde(default)]
    cgroup_id: u64,
    #[serde(default)]
    cgroup: Option<String>,
    #[serde(default)]
    cgroup_escaped: bool,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    unit_escaped: bool,
    #[serde(default)]
    user_unit: Option<String>,
    #[serde(default)]
    user_unit_escaped: bool,
    #[serde(default)]
    slice: Option<String>,
    #[serde(default)]
    slice_escaped: bool,
    #[serde(default)]
    container: Option<InContainer>,
    #[serde(default)]
    netns: Option<u32>,
    #[serde(default)]
    kernel: bool,
    source: String,
    #[serde(default)]
    ancestors: Vec<Above>,
}

#[derive(Deserialize)]
struct InContainer {
    #[serde(default)]
    runtime: Option<String>,
    id: String,
    #[serde(default)]
    id_escaped: bool,
    #[serde(default)]
    pod: Option<String>,
}

#[derive(Deserialize)]
struct Above {
    pid: u32,
    comm: String,
    #[serde(default)]
    comm_escaped: bool,
    #[serde(default)]
    exe: Option<String>,
    #[serde(default)]
    exe_escaped: bool,
}

/// A key that is there, with `null` or a value.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

fn bytes(text: String, escaped: bool) -> Box<[u8]> {
    if escaped { escape::undo(&text).into() } else { text.into_bytes().into() }
}

impl Processes {
    /// The process that a text describes; the same text is the same process.
    pub(super) fn read(&mut self, raw: &RawValue) -> Result<Arc<ProcessInfo>, ReadError> {
        if let Some(known) = self.known.get(raw.get()) {
            return Ok(Arc::clone(known));
        }
        let process = Arc::new(read(serde_json::from_str(raw.get())?)?);
        if self.known.len() >= KEPT_MAX {
            self.known.clear();
        }
        self.known.insert(raw.get().into(), Arc::clone(&process));
        Ok(process)
    }
}

fn read(of: Process) -> Result<ProcessInfo, ReadError> {
    let identity = Identity::default();
    let tty = match of.tty {
        None => Tty::None,
        Some(None) => Tty::Unknown,
        Some(Some(name)) => Tty::Named(name.into()),
    };
    let cwd = of.cwd.map(|cwd| bytes(cwd, of.cwd_escaped));
    let netns = of.netns.map(NetNs);
    if cwd.is_some() || netns.is_some() || tty != Tty::Unknown {
        identity.set_state(ProcessState { cwd, tty, netns });
    }
    if of.exe_fs.is_some() || of.exe_mount.is_some() || of.exe_writable.is_some() {
        identity.set_exe(ExeFile {
            fs: of.exe_fs.map(|fs| bytes(fs, false)),
            mount: of.exe_mount.map(|mount| bytes(mount, of.exe_mount_escaped)),
            writable: of.exe_writable,
        });
    }
    if let Some(hash) = &of.exe_sha256 {
        identity.set_sha256(Some(sha256(hash)?));
    }
    let placement = match of.cgroup {
        None => None,
        Some(cgroup) => Some(Arc::new(Placement {
            cgroup: bytes(cgroup, of.cgroup_escaped),
            unit: of.unit.map(|unit| bytes(unit, of.unit_escaped)),
            user_unit: of.user_unit.map(|unit| bytes(unit, of.user_unit_escaped)),
            slice: of.slice.map(|slice| bytes(slice, of.slice_escaped)),
            container: of.container.map(container).transpose()?,
        })),
    };
    let ancestors = of.ancestors.into_iter().map(|above| Ancestor {
        pid: Pid(above.pid),
        start: BootNs(0),
        comm: bytes(above.comm, above.comm_escaped),
        exe: above.exe.map(|exe| bytes(exe, above.exe_escaped).into()),
    });
    let start = BootNs(of.start_ns);
    Ok(ProcessInfo {
        ppid: of.ppid.map(Pid),
        ancestors: ancestors.collect(),
        comm: bytes(of.comm, of.comm_escaped),
        exe: of.exe.map(|exe| bytes(exe, of.exe_escaped).into()),
        exe_deleted: of.exe_deleted,
        args: of.args.into_iter().map(|arg| bytes(arg, of.args_escaped)).collect(),
        args_truncated: of.args_truncated,
        uid: of.uid,
        gid: of.gid,
        user: of.user.map(|user| bytes(user, of.user_escaped).into()),
        login_uid: of.login_uid,
        cgroup_id: of.cgroup_id,
        placement,
        kernel: of.kernel,
        source: named::<ProcessSource>("source", &of.source)?,
        identity,
        ..ProcessInfo::new(Pid(of.pid), start)
    })
}

fn container(of: InContainer) -> Result<Container, ReadError> {
    Ok(Container {
        runtime: of.runtime.as_deref().map(|name| named::<Runtime>("runtime", name)).transpose()?,
        id: bytes(of.id, of.id_escaped),
        pod: of.pod.map(|pod| bytes(pod, false)),
    })
}

/// 64 digits.
fn sha256(text: &str) -> Result<[u8; 32], ReadError> {
    let wrong = || ReadError::Id { key: "exe_sha256", value: text.to_owned() };
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}
