//! Processes of a recording: each text is read once.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use super::{ReadError, named};
use crate::event::escape;
use crate::event::wire::{self, Process, REFERRED_MAX};
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
    /// By id, what a reference to it stands for.
    ids: HashMap<Box<str>, u32>,
    referred: Vec<Referred>,
    /// Processes that were written out so far.
    written_out: u64,
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
    /// Its place among [`Processes::referred`].
    id: u32,
}

/// What a reference stands for: the last text with its id.
#[derive(Debug)]
struct Referred {
    text: Arc<str>,
    process: Arc<ProcessInfo>,
    /// Its place among [`Processes::texts`]; `None`: it is not kept there any more.
    place: Option<u32>,
    /// Which one of all that were written out it was.
    at: u64,
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

/// Returns whether an executable is the host's own, as a line says. A conn that did not look asked for the path alone: there it is
/// taken for the host's, but for what is in a container or another mount namespace, or is no file.
#[allow(clippy::option_option, reason = "absent and null are not the same")]
fn is_host(said: Option<Option<bool>>, exe: Option<&[u8]>, elsewhere: bool) -> Option<bool> {
    said.unwrap_or_else(|| exe.map(|exe| exe.starts_with(b"/") && !exe.starts_with(b"/memfd:") && !elsewhere))
}

fn bytes(text: &str, escaped: bool) -> Box<[u8]> {
    if escaped { escape::undo(text).into() } else { text.as_bytes().into() }
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
        let text = match self.referred(raw.get()) {
            Some(referred) => &*referred?.text,
            None => number.map_or(raw.get(), |number: u32| &*self.texts[number as usize].text),
        };
        read(serde_json::from_str(text)?).map(Arc::new)
    }

    /// Appends a line with the numbers of processes in the place of those texts that are known: there is less to parse then.
    pub(super) fn shorten(&mut self, line: &str, out: &mut String) {
        // Not in the middle of a line, which may have numbers.
        if self.texts.len() >= KEPT_MAX {
            self.forget();
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

    /// Forgets all texts, but for those that a writer may still refer to.
    fn forget(&mut self) {
        self.front.clear();
        self.known.clear();
        self.texts.clear();
        self.images.clear();
        let oldest = self.written_out.saturating_sub(REFERRED_MAX);
        let mut referred = Vec::new();
        self.ids.retain(|_, place| {
            let of = &self.referred[*place as usize];
            let is_kept = of.at >= oldest;
            if is_kept {
                *place = referred.len() as u32;
                let (text, process) = (Arc::clone(&of.text), Arc::clone(&of.process));
                referred.push(Referred { text, process, place: None, at: of.at });
            }
            is_kept
        });
        self.referred = referred;
    }

    /// Whether a value is the id of a process that an earlier line wrote out.
    pub(super) fn is_reference(&self, raw: &RawValue) -> bool {
        self.referred(raw.get()).is_some_and(|found| found.is_ok())
    }

    /// What a reference stands for; `None`: it is none.
    fn referred(&self, text: &str) -> Option<Result<&Referred, ReadError>> {
        let id = text.strip_prefix('"')?.strip_suffix('"')?;
        let found = self.ids.get(id).map(|place| &self.referred[*place as usize]);
        Some(found.ok_or_else(|| ReadError::Reference(id.to_owned())))
    }

    /// The process that a text in an event of this time describes or refers to; the same text is the same process.
    pub(super) fn read(&mut self, raw: &RawValue, at: BootNs) -> Result<Arc<ProcessInfo>, ReadError> {
        let text = raw.get();
        if let Some(referred) = self.referred(text) {
            let referred = referred?;
            let process = Arc::clone(&referred.process);
            if let Some(known) = referred.place.and_then(|place| self.texts.get_mut(place as usize)) {
                known.last = known.last.max(at);
            }
            return Ok(process);
        }
        let numbered = text.parse().ok().filter(|number| self.numbered.contains(number));
        let found = match numbered.or_else(|| self.known.get(text).copied()) {
            Some(found) => found,
            None => {
                let process: Process<'_> = serde_json::from_str(text)?;
                let id = process.id.to_string();
                self.add(text, read(process)?, at, &id)
            }
        };
        if numbered.is_none() {
            self.front.resize(FRONT, None);
            self.front[place(text)] = Some(found);
        }
        let known = &mut self.texts[found as usize];
        known.last = known.last.max(at);
        self.written_out += 1;
        let process = Arc::clone(&known.process);
        let referred = &mut self.referred[known.id as usize];
        if referred.place == Some(found) {
            referred.at = self.written_out;
        } else {
            let text = Arc::clone(&known.text);
            *referred =
                Referred { text, process: Arc::clone(&process), place: Some(found), at: self.written_out };
        }
        Ok(process)
    }

    /// The place of an id among those that can be referred to. A new one stands for this text.
    fn id(&mut self, id: &str, text: &Arc<str>, process: &Arc<ProcessInfo>) -> u32 {
        if let Some(place) = self.ids.get(id) {
            return *place;
        }
        let place = self.referred.len() as u32;
        self.ids.insert(id.into(), place);
        let (text, process) = (Arc::clone(text), Arc::clone(process));
        self.referred.push(Referred { text, process, place: None, at: self.written_out });
        place
    }

    fn add(&mut self, text: &str, mut process: ProcessInfo, at: BootNs, id: &str) -> u32 {
        let (place, text) = (self.texts.len() as u32, Arc::<str>::from(text));
        let others = self.images.entry(Image::of(&process)).or_insert(Texts::new(place));
        if self.has_facts {
            if others.first != place {
                process.identity = self.texts[others.first as usize].process.identity.clone();
            }
            let process = Arc::new(process);
            self.keep(text, process, at, id);
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
        self.keep(text, process, at, id);
        place
    }

    fn keep(&mut self, text: Arc<str>, process: Arc<ProcessInfo>, at: BootNs, id: &str) {
        let id = self.id(id, &text, &process);
        self.known.insert(Arc::clone(&text), self.texts.len() as u32);
        self.texts.push(Known { text, process, first: at, last: at, id });
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

/// Reads the object of a process, by itself.
///
/// # Errors
/// When it is none.
pub fn process(text: &str) -> Result<ProcessInfo, ReadError> {
    read(serde_json::from_str(text)?)
}

/// The process that its form in JSON stands for.
pub(crate) fn read(of: Process<'_>) -> Result<ProcessInfo, ReadError> {
    let identity = Identity::default();
    let tty = match of.tty {
        None => Tty::None,
        Some(None) => Tty::Unknown,
        Some(Some(name)) => Tty::Named((&*name).into()),
    };
    let cwd = of.cwd.map(|cwd| bytes(&cwd, of.cwd_escaped));
    let netns = of.netns.map(NetNs);
    if cwd.is_some() || netns.is_some() || tty != Tty::Unknown {
        identity.set_state(ProcessState { cwd, tty, netns });
    }
    let writable = of.exe_writable.or(of.exe_user_writable);
    if of.exe_fs.is_some() || of.exe_mount.is_some() || writable.is_some() {
        identity.set_exe(ExeFile {
            fs: of.exe_fs.map(|fs| bytes(&fs, of.exe_fs_escaped)),
            mount: of.exe_mount.map(|mount| bytes(&mount, of.exe_mount_escaped)),
            writable: of.exe_writable,
            user_writable: of.exe_user_writable,
        });
    }
    let exe: Option<Arc<[u8]>> = of.exe.map(|exe| bytes(&exe, of.exe_escaped).into());
    let container = of.container.flatten();
    let elsewhere = container.is_some() || of.mnt_ns_host == Some(false);
    if let Some(is_host) = is_host(of.exe_host, exe.as_deref(), elsewhere) {
        identity.set_exe_is_host(is_host);
    }
    if let Some(hash) = &of.exe_sha256 {
        identity.set_sha256(Some(sha256(hash)?));
    }
    if let Some(name) = of.exe_copy_of {
        identity.set_copy_of(name.as_deref().map(Into::into));
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
            cgroup: bytes(&cgroup, of.cgroup_escaped),
            unit: of.unit.flatten().map(|unit| bytes(&unit, of.unit_escaped)),
            user_unit: of.user_unit.map(|unit| bytes(&unit, of.user_unit_escaped)),
            slice: of.slice.map(|slice| bytes(&slice, of.slice_escaped)),
            container: container.map(|container| read_container(&container)).transpose()?,
        })),
    };
    let ancestors = of.ancestors.into_iter().map(|above| {
        let exe: Option<Arc<[u8]>> = above.exe.map(|exe| bytes(&exe, above.exe_escaped).into());
        Ancestor {
            pid: Pid(above.pid),
            start: above.start_ns.into(),
            comm: bytes(&above.comm, above.comm_escaped),
            exe_is_host: is_host(above.exe_host, exe.as_deref(), elsewhere),
            exe,
        }
    });
    let start = BootNs::from(of.start_ns);
    Ok(ProcessInfo {
        // An exact start is in whole ticks once in ten million times.
        start_is_coarse: start.0.is_multiple_of(TICK_NS),
        ppid: of.ppid.map(Pid),
        ancestors: ancestors.collect(),
        comm: bytes(&of.comm, of.comm_escaped),
        exe,
        exe_deleted: of.exe_deleted,
        exe_is_conn: of.exe_conn,
        args: of.args.iter().map(|arg| bytes(arg, of.args_escaped)).collect(),
        args_truncated: of.args_truncated,
        uid: of.uid,
        gid: of.gid,
        user: of.user.map(|user| bytes(&user, of.user_escaped).into()),
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

fn read_container(of: &wire::Container<'_>) -> Result<Container, ReadError> {
    Ok(Container {
        runtime: of.runtime.as_deref().map(|name| named::<Runtime>("runtime", name)).transpose()?,
        id: bytes(&of.id, of.id_escaped),
        pod: of.pod.as_deref().map(|pod| bytes(pod, of.pod_escaped)),
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
