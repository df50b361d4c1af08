//! Which `.socket` unit a listener of systemd belongs to.
//!
//! Socket activation makes process 1 the owner of listeners that are other programs' business. systemd keeps no file
//! that names a listener's unit, but what it listens on is in the unit files (systemd.socket(5)).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unit_files::{self, Unit, UnitFiles, name};

const SUFFIX: &str = ".socket";
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listen {
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
        Self { folders: unit_files::load_path(root), read: None, units: Vec::new() }
    }

    /// The unit that listens here; `None`: none, or several that the files do not distinguish.
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
    pub fn parse(value: &str) -> Option<Self> {
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

/// What a unit listens on.
fn listens(unit: &Unit) -> Vec<Listen> {
    let mut values = Vec::new();
    for (_, setting) in unit.settings.iter().filter(|(_, setting)| setting.section == "Socket") {
        match (setting.key.as_str(), setting.value.as_str()) {
            // An empty one takes back all of them, whatever their kind.
            (key, "") if key.starts_with("Listen") => values.clear(),
            ("ListenStream", value) => values.push(value),
            _ => {}
        }
    }
    let instance = name::instance(&unit.name).unwrap_or_default();
    values.iter().filter_map(|value| Listen::parse(&specifiers(value, instance)?)).collect()
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

fn read_units(folders: &[PathBuf]) -> Vec<SocketUnit> {
    let files = UnitFiles::scan(folders, |name| name.ends_with(SUFFIX));
    let wanted: BTreeSet<&str> = files.wants().map(|(_, name)| name).collect();
    let names: BTreeSet<&str> = files.names().chain(wanted.iter().copied()).collect();
    let mut units = Vec::new();
    for name in names.into_iter().filter(|name| !name::is_template(name)) {
        let Some(unit) = files.load(name) else { continue };
        let listens = listens(&unit);
        if !listens.is_empty() {
            units.push(SocketUnit { name: name.into(), wanted: wanted.contains(name), listens });
        }
    }
    units
}

#[cfg(test)]
#[path = "socket_units_tests.rs"]
mod tests;
