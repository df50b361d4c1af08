//! Which `.socket` unit a listener of systemd belongs to.
//!
//! Socket activation makes process 1 the owner of listeners that are other programs' business. systemd keeps no file
//! that names a listener's unit, but what it listens on is in the unit files (systemd.socket(5)), and those are found
//! and merged as in systemd.unit(5): by the priority of folders, with masks, aliases, drop-ins and instances.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where systemd looks for system units, first wins ("UNIT FILE LOAD PATH" in systemd.unit(5)).
const FOLDERS: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
    "/run/systemd/system.attached",
];
const SUFFIX: &str = ".socket";
const DROP_IN: &str = ".conf";
/// A longer unit file is read as far as this.
const LONGEST: u64 = 1 << 20;
/// More units are not looked at.
const UNITS_MAX: usize = 4096;
/// What was read is good for so long: many listeners come at once, at the start.
const FRESH: Duration = Duration::from_secs(1);

/// The socket units of this machine.
#[derive(Debug)]
pub struct SocketUnits {
    folders: Vec<PathBuf>,
    read: Option<Instant>,
    units: Vec<SocketUnit>,
}

/// A socket unit and where it listens by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketUnit {
    name: Arc<str>,
    /// Another unit wants it, so it is started with the machine.
    wanted: bool,
    listens: Vec<Listen>,
}

/// A `ListenStream=` that is about IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    /// A port alone: all addresses, of IPv4 too.
    Port(u16),
    /// An address.
    Address(SocketAddr),
}

impl Default for SocketUnits {
    fn default() -> Self {
        Self::within(Path::new("/"))
    }
}

impl SocketUnits {
    /// The units of a system whose files lie below this folder.
    pub fn within(root: &Path) -> Self {
        let folders = FOLDERS.iter().map(|folder| root.join(folder.trim_start_matches('/'))).collect();
        Self { folders, read: None, units: Vec::new() }
    }

    /// The unit that listens here; `None`: none, or several that the files do not tell apart.
    pub fn unit_of(&mut self, local: SocketAddr) -> Option<Arc<str>> {
        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            self.units = read_units(&self.folders);
            self.read = Some(Instant::now());
        }
        choose(&self.units, local)
    }
}

/// The one unit that listens here, or of several the one that is wanted.
fn choose(units: &[SocketUnit], local: SocketAddr) -> Option<Arc<str>> {
    let fits = |unit: &&SocketUnit| unit.listens.iter().any(|listen| listen.fits(local));
    let only = |mut found: Box<dyn Iterator<Item = &SocketUnit> + '_>| match (found.next(), found.next()) {
        (Some(one), None) => Some(Arc::clone(&one.name)),
        _ => None,
    };
    only(Box::new(units.iter().filter(fits)))
        .or_else(|| only(Box::new(units.iter().filter(fits).filter(|unit| unit.wanted))))
}

impl Listen {
    /// From a value of `ListenStream=`; `None`: it is about something else than IP (a path, vsock), or not valid.
    fn parse(value: &str) -> Option<Self> {
        if let Ok(port) = value.parse::<u16>() {
            return (port != 0 && !value.starts_with('+')).then_some(Self::Port(port));
        }
        // The interface of a link-local address.
        let (address, _) = value.split_once('%').unwrap_or((value, ""));
        address.parse().ok().filter(|address: &SocketAddr| address.port() != 0).map(Self::Address)
    }

    fn fits(self, local: SocketAddr) -> bool {
        let ip = |ip: IpAddr| ip.to_canonical();
        match self {
            Self::Port(port) => port == local.port() && ip(local.ip()).is_unspecified(),
            Self::Address(own) => own.port() == local.port() && ip(own.ip()) == ip(local.ip()),
        }
    }
}

/// What a unit listens on, by the texts of its file and its drop-ins in order.
fn listens(texts: &[String], instance: &str) -> Vec<Listen> {
    let mut values = Vec::new();
    for text in texts {
        let mut in_socket = false;
        for line in logical_lines(text) {
            let line = line.trim();
            if line.starts_with('[') {
                in_socket = line == "[Socket]";
            } else if in_socket && let Some((key, value)) = line.split_once('=') {
                match (key.trim_end(), value.trim_start()) {
                    // An empty one takes back all of them, whatever their kind.
                    (key, "") if key.starts_with("Listen") => values.clear(),
                    ("ListenStream", value) => values.push(value.to_owned()),
                    _ => {}
                }
            }
        }
    }
    values.iter().filter_map(|value| Listen::parse(&specifiers(value, instance)?)).collect()
}

/// Lines without comments; one that ends with a backslash goes on in the next that is no comment.
fn logical_lines(text: &str) -> Vec<String> {
    let (mut lines, mut open) = (Vec::<String>::new(), false);
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| open) {
            Some(last) => {
                last.push(' ');
                last.push_str(part);
            }
            None => lines.push(part.to_owned()),
        }
        open = goes_on;
    }
    lines
}

/// `%i` and `%%`; a value with another specifier is not known here.
fn specifiers(value: &str, instance: &str) -> Option<String> {
    let (mut out, mut chars) = (String::new(), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next()? {
                '%' => out.push('%'),
                'i' | 'I' => out.push_str(instance),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    Some(out)
}

/// A unit's name as `prefix@`, instance; `None`: it has no `@`.
fn split_instance(name: &str) -> Option<(&str, &str)> {
    let at = name.find('@')?;
    Some((&name[..=at], name[at + 1..].strip_suffix(SUFFIX)?))
}

fn read_units(folders: &[PathBuf]) -> Vec<SocketUnit> {
    // The file of each unit: that of the first folder that has it. Masked ones have no file.
    let mut files = BTreeMap::<String, Option<PathBuf>>::new();
    let mut wanted = BTreeSet::new();
    for folder in folders {
        for name in names(folder) {
            let path = folder.join(&name);
            if [".wants", ".requires"].iter().any(|suffix| name.ends_with(suffix)) {
                wanted.extend(names(&path).into_iter().filter(|name| name.ends_with(SUFFIX)));
            } else if name.ends_with(SUFFIX) && !is_alias(&name, &path) && files.len() < UNITS_MAX {
                files.entry(name).or_insert_with(|| path.is_file().then_some(path));
            }
        }
    }
    let mut units = Vec::new();
    for name in files.keys().chain(wanted.iter().filter(|name| !files.contains_key(*name))) {
        let (template, instance) = match split_instance(name) {
            Some((_, "")) => continue,
            Some((prefix, instance)) => (Some(format!("{prefix}{SUFFIX}")), instance),
            None => (None, ""),
        };
        let own = files.get(name).or_else(|| files.get(template.as_ref()?));
        let Some(Some(file)) = own else { continue };
        let mut texts = vec![read(file)];
        texts.extend(drop_ins(folders, &[Some(name), template.as_ref()]).iter().map(|path| read(path)));
        let listens = listens(&texts, instance);
        if !listens.is_empty() {
            units.push(SocketUnit { name: name.as_str().into(), wanted: wanted.contains(name), listens });
        }
    }
    units
}

/// A link to a unit of another name. A mask is none, nor is a link to a file elsewhere (`systemctl link`).
fn is_alias(name: &str, path: &Path) -> bool {
    let target = fs::read_link(path).ok();
    let target = target.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
    target.is_some_and(|target| {
        let template = split_instance(name).is_some_and(|(prefix, _)| target == format!("{prefix}{SUFFIX}"));
        target != name && target.ends_with(SUFFIX) && !template
    })
}

/// The drop-ins of a unit, its template and its type, in the order in which they count: by their names, of each name
/// that of the first folder.
fn drop_ins(folders: &[PathBuf], names_of_unit: &[Option<&String>]) -> Vec<PathBuf> {
    let mut found = BTreeMap::<String, PathBuf>::new();
    let of_type = "socket".to_owned();
    for name in names_of_unit.iter().copied().flatten().chain([&of_type]) {
        for folder in folders {
            let folder = folder.join(format!("{name}.d"));
            for name in names(&folder).into_iter().filter(|name| name.ends_with(DROP_IN)) {
                let path = folder.join(&name);
                found.entry(name).or_insert(path);
            }
        }
    }
    found.into_values().collect()
}

/// The names in a folder; one that is not there has none.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(UNITS_MAX).collect()
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What could be read of it counts.
        let _ = file.take(LONGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "socket_units_tests.rs"]
mod tests;
