//! Processes of a recording: each text is read once.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ReadError, named};
use crate::event::escape;
use crate::process::hash::{IntBuild, IntHasher, IntMap};
use crate::process::identity::{ExeFile, Identity, ProcessState, Replaced, Tty};
use crate::process::info::{MountNs, ProcessInfo, ProcessSource, TICK_NS};
use crate::process::lineage::Ancestor;
use crate::process::placement::{Container, Placement, Runtime};
use crate::units::{BootNs, MntNs, NetNs, Pid};

/// Most texts that are kept; then all are dropped, and read again when they come again.
const KEPT_MAX: usize = 65_536;
/// Places of the front of the cache, a power of two.
const FRONT: usize = 1024;
/// Before each process of a line. In a string each quote has a backslash before it, so this is nowhere else.
const KEY: &[u8] = b"\"process\":{";
/// Bytes of a text by which its place in front is chosen: they have pid and start.
const HEAD: usize = 64;

/// Something was found out of a process whose earlier events do not have it.
#[derive(Clone, Debug)]
pub struct News {
    /// What the earlier events have.
    pub of: Identity,
    /// What is known.
    pub known: Identity,
    /// The first event without it.
    pub first: BootNs,
    /// The last one of the process that does not have all of it.
    pub last: BootNs,
    /// The first event with it.
    pub since: BootNs,
}

/// Facts of a process that became known at one point of a recording.
#[derive(Clone, Debug)]
pub struct KnownFacts {
    /// What its events have.
    pub of: Identity,
    /// What is known from now on.
    pub known: Identity,
    /// Nothing more was being found out of it.
    pub is_settled: bool,
}

impl KnownFacts {
    /// Makes them known.
    pub fn apply(&self) {
        self.of.learn(&self.known);
        if self.is_settled {
            self.of.settle();
        }
    }
}

/// The processes read so far, each once.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// By the hash of its head, where a text may be. Nearly all are found here, and are neither parsed nor hashed.
    front: Vec<Option<u32>>,
    known: HashMap<Arc<str>, u32>,
    texts: Vec<Known>,
    /// The texts of one image: of a process, between two execs.
    images: HashMap<Image, Texts>,
    news: Vec<News>,
    /// Those for which the line that is being read has their number.
    numbered: Vec<u32>,
    key: Option<Finder<'static>>,
    /// The recording reports when facts became known: all texts of an image share its identity, which has what the first of them
    /// reports, and then only what [`KnownFacts`] bring.
    pub(super) has_facts: bool,
}

#[derive(Debug)]
struct Known {
    text: Arc<str>,
    process: Arc<ProcessInfo>,
    first: BootNs,
    last: BootNs,
}

/// The texts of an image, by what is known of them: what they have, and what [`News`] have reported them. However many texts a
/// recording has of one image, a fact is reported each of them once.
#[derive(Debug)]
struct Texts {
    first: u32,
    /// By [`Identity::version`].
    by_known: IntMap<u16, Vec<u32>>,
}

impl Texts {
    const fn new(first: u32) -> Self {
        Self { first, by_known: IntMap::with_hasher(IntBuild::new()) }
    }

    /// Adds a text of this version. Returns those of which not all is known that it has.
    fn add(&mut self, text: u32, version: u16) -> Vec<u32> {
        let mut lacking = Vec::new();
        for (known, texts) in self.by_known.extract_if(|known, _| version & !known != 0).collect::<Vec<_>>() {
            lacking.extend_from_slice(&texts);
            let same = self.by_known.entry(known | version).or_default();
            if same.is_empty() { *same = texts } else { same.extend(texts) }
        }
        self.by_known.entry(version).or_default().push(text);
        lacking
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Image {
    pid: Pid,
    start_ticks: u64,
    exe: Option<Arc<[u8]>>,
    args: Box<[Box<[u8]>]>,
}

impl Image {
    fn of(process: &ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            start_ticks: process.start_ticks(),
            exe: process.exe.clone(),
            args: process.args.clone(),
        }
    }
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
    exe_conn: bool,
    #[serde(default)]
    exe_fs: Option<String>,
    #[serde(default)]
    exe_fs_escaped: bool,
    #[serde(default)]
    exe_mount: Option<String>,
    #[serde(default)]
    exe_mount_escaped: bool,
    // Absent: an older conn did not look. `null`: that is not known.
    #[serde(default, deserialize_with = "present")]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    exe_host: Option<Option<bool>>,
    #[serde(default)]
    exe_writable: Option<bool>,
    #[serde(default)]
    exe_user_writable: Option<bool>,
    #[serde(default)]
    exe_sha256: Option<String>,
    // Absent: not known. `null`: of nothing.
    #[serde(default, deserialize_with = "present")]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    exe_copy_of: Option<Option<String>>,
    #[serde(default)]
    exe_replaced: Option<String>,
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
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
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
    mnt_ns: Option<u32>,
    #[serde(default)]
    mnt_ns_host: Option<bool>,
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
    #[serde(default)]
    pod_escaped: bool,
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
    // As that of the process.
    #[serde(default, deserialize_with = "present")]
    #[allow(clippy::option_option, reason = "absent and null are not the same")]
    exe_host: Option<Option<bool>>,
    // Older recordings do not have it.
    #[serde(default)]
    start_ns: u64,
}

#[allow(clippy::option_option, reason = "absent and null are not the same")]
/// A key that is there, with `null` or a value.
fn present<'de, D, T>(value: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(value).map(Some)
}

/// Returns whether an executable is the host's own, as a line says. A conn that did not look asked for the path alone: there it is
/// taken for the host's, but for what is in a container or another mount namespace, or is no file.
#[allow(clippy::option_option, reason = "absent and null are not the same")]
fn is_host(said: Option<Option<bool>>, exe: Option<&[u8]>, elsewhere: bool) -> Option<bool> {
    said.unwrap_or_else(|| exe.map(|exe| exe.starts_with(b"/") && !exe.starts_with(b"/memfd:") && !elsewhere))
}

fn bytes(text: String, escaped: bool) -> Box<[u8]> {
    if escaped { escape::undo(&text).into() } else { text.into_bytes().into() }
}

impl Processes {
    /// Of a run that begins.
    pub(super) fn of_run(has_facts: bool) -> Self {
        Self { has_facts, ..Self::default() }
    }

    /// Facts that became known.
    pub(super) fn facts(
        &mut self,
        raw: &RawValue,
        at: BootNs,
        is_settled: bool,
    ) -> Result<KnownFacts, ReadError> {
        let known = self.read_apart(raw)?;
        let of = match self.images.get(&Image::of(&known)) {
            Some(texts) => self.texts[texts.first as usize].process.identity.clone(),
            None => self.read(raw, at)?.identity.clone(),
        };
        Ok(KnownFacts { of, known: known.identity.clone(), is_settled })
    }

    /// A process as its text has it, whatever is known of it elsewhere: for those who show a line.
    pub(super) fn read_apart(&self, raw: &RawValue) -> Result<Arc<ProcessInfo>, ReadError> {
        let number = raw.get().parse().ok().filter(|number| self.numbered.contains(number));
        let text = number.map_or(raw.get(), |number: u32| &*self.texts[number as usize].text);
        read(serde_json::from_str(text)?).map(Arc::new)
    }

    /// Appends a line with the numbers of processes in the place of those texts that are known: there is less to parse then.
    pub(super) fn shorten(&mut self, line: &str, out: &mut String) {
        // Not in the middle of a line, which may have numbers.
        if self.texts.len() >= KEPT_MAX {
            self.front.clear();
            self.known.clear();
            self.texts.clear();
            self.images.clear();
        }
        self.numbered.clear();
        let key = self.key.get_or_insert_with(|| Finder::new(KEY));
        let mut rest = line;
        while let Some(at) = key.find(rest.as_bytes()) {
            let (before, text) = rest.split_at(at + KEY.len() - 1);
            out.push_str(before);
            let found = self.front.get(place(text)).copied().flatten();
            let known = found.map(|found| (found, &*self.texts[found as usize].text));
            match known.filter(|(_, known)| text.starts_with(known)) {
                Some((number, known)) => {
                    self.numbered.push(number);
                    out.push_str(itoa::Buffer::new().format(number));
                    rest = &text[known.len()..];
                }
                None => {
                    out.push('{');
                    rest = &text[1..];
                }
            }
        }
        out.push_str(rest);
    }

    /// The process that a text in an event of this time describes; the same text is the same process.
    pub(super) fn read(&mut self, raw: &RawValue, at: BootNs) -> Result<Arc<ProcessInfo>, ReadError> {
        let text = raw.get();
        let numbered = text.parse().ok().filter(|number| self.numbered.contains(number));
        let found = match numbered.or_else(|| self.known.get(text).copied()) {
            Some(found) => found,
            None => self.add(text, read(serde_json::from_str(text)?)?, at),
        };
        if numbered.is_none() {
            self.front.resize(FRONT, None);
            self.front[place(text)] = Some(found);
        }
        let known = &mut self.texts[found as usize];
        known.last = known.last.max(at);
        Ok(Arc::clone(&known.process))
    }

    fn add(&mut self, text: &str, mut process: ProcessInfo, at: BootNs) -> u32 {
        let (place, text) = (self.texts.len() as u32, Arc::<str>::from(text));
        let others = self.images.entry(Image::of(&process)).or_insert(Texts::new(place));
        if self.has_facts {
            if others.first != place {
                process.identity = self.texts[others.first as usize].process.identity.clone();
            }
            self.known.insert(Arc::clone(&text), place);
            self.texts.push(Known { text, process: process.into(), first: at, last: at });
            return place;
        }
        let process = Arc::new(process);
        // `News::known` has the more.
        let without = others.add(place, process.identity.version());
        let without = || without.iter().map(|other| &self.texts[*other as usize]);
        // A text that knew more than the first one, and not this, was reported later: so long it was not known to any.
        let last = without().map(|other| other.last).max().unwrap_or(at);
        self.news.extend(without().map(|other| News {
            of: other.process.identity.clone(),
            known: process.identity.clone(),
            first: other.first,
            last,
            since: at,
        }));
        self.known.insert(Arc::clone(&text), place);
        self.texts.push(Known { text, process, first: at, last: at });
        place
    }

    /// What was found out since the last call.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}

/// Where in front a text belongs.
fn place(text: &str) -> usize {
    let mut hasher = IntHasher::default();
    hasher.write(&text.as_bytes()[..text.len().min(HEAD)]);
    hasher.finish() as usize % FRONT
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
    let writable = of.exe_writable.or(of.exe_user_writable);
    if of.exe_fs.is_some() || of.exe_mount.is_some() || writable.is_some() {
        identity.set_exe(ExeFile {
            fs: of.exe_fs.map(|fs| bytes(fs, of.exe_fs_escaped)),
            mount: of.exe_mount.map(|mount| bytes(mount, of.exe_mount_escaped)),
            writable: of.exe_writable,
            user_writable: of.exe_user_writable,
        });
    }
    let exe: Option<Arc<[u8]>> = of.exe.map(|exe| bytes(exe, of.exe_escaped).into());
    let elsewhere = of.container.is_some() || of.mnt_ns_host == Some(false);
    if let Some(is_host) = is_host(of.exe_host, exe.as_deref(), elsewhere) {
        identity.set_exe_is_host(is_host);
    }
    if let Some(hash) = &of.exe_sha256 {
        identity.set_sha256(Some(sha256(hash)?));
    }
    if let Some(name) = of.exe_copy_of {
        identity.set_copy_of(name.map(Into::into));
    }
    if let Some(replaced) = &of.exe_replaced {
        identity.set_replaced(named::<Replaced>("exe_replaced", replaced)?);
    }
    // Which text of an image is the first to say so is when it was found.
    if of.exe_deleted {
        identity.set_deleted();
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
    let ancestors = of.ancestors.into_iter().map(|above| {
        let exe: Option<Arc<[u8]>> = above.exe.map(|exe| bytes(exe, above.exe_escaped).into());
        Ancestor {
            pid: Pid(above.pid),
            start: BootNs(above.start_ns),
            comm: bytes(above.comm, above.comm_escaped),
            exe_is_host: is_host(above.exe_host, exe.as_deref(), elsewhere),
            exe,
        }
    });
    let start = BootNs(of.start_ns);
    Ok(ProcessInfo {
        // An exact start is in whole ticks once in ten million times.
        start_is_coarse: start.0.is_multiple_of(TICK_NS),
        ppid: of.ppid.map(Pid),
        ancestors: ancestors.collect(),
        comm: bytes(of.comm, of.comm_escaped),
        exe,
        exe_deleted: of.exe_deleted,
        exe_is_conn: of.exe_conn,
        args: of.args.into_iter().map(|arg| bytes(arg, of.args_escaped)).collect(),
        args_truncated: of.args_truncated,
        uid: of.uid,
        gid: of.gid,
        user: of.user.map(|user| bytes(user, of.user_escaped).into()),
        login_uid: of.login_uid,
        cgroup_id: of.cgroup_id,
        placement,
        mount_ns: of.mnt_ns.zip(of.mnt_ns_host).map(|(id, is_host)| MountNs { id: MntNs(id), is_host }),
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
        pod: of.pod.map(|pod| bytes(pod, of.pod_escaped)),
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
