//! What is known to be normal here: the entries of rule files (`[[baseline.connection]]` and its like), made by `conn learn` and
//! reviewed by a person. Rules with `baseline = true` report what is in none of them.
//!
//! Whose an entry is ([`Who`]): the unit's, for processes of services, else the executable's. An event's [`User`] is looked
//! up once and remembered ([`Finder`]); then a port is looked up, and only its few addresses are compared.

mod entry;
mod finder;
mod judge;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;

pub use self::entry::{Entry, Place, Ports, Seen, What, Who, Window};
pub(super) use self::finder::Finder;
pub use self::finder::{User, is_self_test};
pub(super) use self::judge::{evidence, known, same_net, unknown, user, zone};
use crate::filter::glob::Glob;
use crate::filter::names::Names;
use crate::flow::model::Direction;

/// All entries of a set of rules, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    entries: Vec<Entry>,
    windows: Vec<Window>,
    known: Vec<Known>,
    units: Index,
    exes: Index,
}

impl PartialEq for Baseline {
    fn eq(&self, other: &Self) -> bool {
        // The rest is made from them.
        self.entries == other.entries && self.windows == other.windows
    }
}

/// Places in [`Baseline::known`] by name.
#[derive(Clone, Debug, Default)]
struct Index {
    exact: HashMap<Box<[u8]>, u32>,
    globs: Vec<(Glob, u32)>,
}

/// What is known of one unit or executable.
#[derive(Clone, Debug, Default)]
struct Known {
    connections: HashMap<(Direction, u16), Vec<Place>>,
    /// Connections of several ports.
    ranges: Vec<(Direction, Ports, Place)>,
    listeners: Vec<(Ports, Place)>,
    /// Executables, of a unit.
    programs: Vec<Glob>,
    /// Places of its entries in [`Baseline::entries`].
    entries: Vec<u32>,
}

impl Baseline {
    /// The zones that entries name.
    pub(super) fn zones(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry.what.place() {
            Some(Place::Zone(zone)) => Some(&**zone),
            Some(Place::Net(_)) | None => None,
        })
    }

    /// Of these entries, learnt in these windows.
    pub fn new(entries: Vec<Entry>, windows: Vec<Window>) -> Self {
        let mut baseline = Self { windows, ..Self::default() };
        let mut places: HashMap<&Who, u32> = HashMap::new();
        for (number, entry) in (0..).zip(&entries) {
            let place = *places.entry(&entry.who).or_insert_with(|| {
                let place = baseline.known.len() as u32;
                baseline.known.push(Known::default());
                let (index, name) = match &entry.who {
                    Who::Unit(name) => (&mut baseline.units, name),
                    Who::Exe(name) => (&mut baseline.exes, name),
                };
                if Glob::is_glob(name) {
                    index.globs.push((Glob::new(name), place));
                } else {
                    index.exact.insert(name.as_bytes().into(), place);
                }
                place
            });
            if let Some(known) = baseline.known.get_mut(place as usize) {
                known.entries.push(number);
                known.add(&entry.what);
            }
        }
        baseline.entries = entries;
        baseline
    }

    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in the order of the files.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// When they were learnt.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// Records that were lost while they were learnt.
    pub fn lost(&self) -> u64 {
        self.windows.iter().fold(0, |lost, window| lost.saturating_add(window.lost))
    }

    /// The units or executables of entries that a user is one of.
    fn find(&self, user: User<'_>) -> finder::Found {
        let (index, name) = match user.unit {
            Some(unit) => (&self.units, unit),
            None => (&self.exes, user.name()),
        };
        let exact = index.exact.get(name).copied();
        let globs = index.globs.iter().filter(|(glob, _)| glob.matches(name)).map(|(_, place)| *place);
        exact.into_iter().chain(globs).collect()
    }

    fn of<'b>(&'b self, found: &'b [u32]) -> impl Iterator<Item = &'b Known> {
        found.iter().filter_map(|place| self.known.get(*place as usize))
    }

    /// Whether the program has an entry: its executable, or in a unit this executable of it. A unit of which no executable
    /// is listed may run any, and one whose executable is not known cannot be reported.
    fn knows_program(&self, found: &[u32], user: User<'_>) -> bool {
        if user.unit.is_none() {
            return !found.is_empty();
        }
        let Some(exe) = user.exe else { return true };
        let mut programs = self.of(found).flat_map(|known| &known.programs).peekable();
        if programs.peek().is_none() {
            return !found.is_empty();
        }
        programs.any(|glob| glob.matches(exe))
    }

    fn knows_connection(&self, found: &[u32], path: Path, names: &Names) -> bool {
        self.of(found).any(|known| {
            let there = |place: &Place| place.holds(path.ip, names);
            known.connections.get(&(path.direction, path.port)).is_some_and(|places| places.iter().any(there))
                || known.ranges.iter().any(|(direction, ports, place)| {
                    *direction == path.direction && ports.hold(path.port) && there(place)
                })
        })
    }

    fn knows_listener(&self, found: &[u32], local: std::net::SocketAddr, names: &Names) -> bool {
        self.of(found).any(|known| {
            let there = |(ports, place): &(Ports, Place)| {
                ports.hold(local.port()) && place.holds_listener(local.ip(), names)
            };
            known.listeners.iter().any(there)
        })
    }
}

/// A path that a connection takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) direction: Direction,
    pub(super) ip: std::net::IpAddr,
    /// Port of the service.
    pub(super) port: u16,
}

impl Known {
    fn add(&mut self, what: &What) {
        match what {
            What::Connection { direction, remote, ports } => match ports.only() {
                Some(port) => self.connections.entry((*direction, port)).or_default().push(remote.clone()),
                None => self.ranges.push((*direction, *ports, remote.clone())),
            },
            What::Listener { local, ports } => self.listeners.push((*ports, local.clone())),
            What::Program { exe } => self.programs.push(Glob::new(exe)),
        }
    }
}
