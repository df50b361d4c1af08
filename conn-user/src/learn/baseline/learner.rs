//! Events become what is normal.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::name;
use super::places::{Paths, Spot};
use crate::event::alert::RuleRef;
use crate::event::escape;
use crate::event::model::{Event, EventBody};
use crate::flow::model::Direction;
use crate::rules::baseline::{Entry, Place, Ports, Seen, User, What, Who, Window, is_self_test};
use crate::rules::detector::{Triggers, connection, listener};
use crate::units::WallNs;

/// Most units and executables.
const USERS_MAX: usize = 4_096;
/// Most executables of a unit; more are all.
const PROGRAMS_MAX: usize = 64;
/// Most addresses in all. What would be one more is not learnt, and counted.
const ADDRESSES_MAX: usize = 16_384;
/// Most names that are remembered to be found without being generalised again.
const NAMES_MAX: usize = 16_384;
/// Most windows; then the last one goes on.
const WINDOWS_MAX: usize = 256;

/// What was observed so far, and the baseline that it makes.
#[derive(Debug, Default)]
pub struct Learner {
    users: Vec<(Who, OfUser)>,
    places: BTreeMap<Who, usize>,
    by_unit: HashMap<Box<[u8]>, usize>,
    by_exe: HashMap<Box<[u8]>, usize>,
    addresses: usize,
    windows: Vec<Window>,
    in_window: bool,
    not_kept: u64,
    of_unknown: u64,
}

#[derive(Debug, Default)]
struct OfUser {
    connections_out: Paths,
    connections_in: Paths,
    listeners: Paths,
    programs: BTreeMap<Box<str>, Seen>,
    any_program: Option<Seen>,
}

/// What was learnt.
#[derive(Debug)]
pub struct Learnt {
    /// Entries, sorted: by whose they are, then listeners, programs, connections.
    pub entries: Vec<Entry>,
    /// When; what was lost meanwhile.
    pub windows: Vec<Window>,
    /// Connections and listeners for which there was no room.
    pub not_kept: u64,
    /// Connections and listeners of processes or executables that are not known, or of a direction that is not.
    pub of_unknown: u64,
    /// What rules raised alerts about, see [`super::screen`].
    pub suspicious: Vec<Suspicious>,
    /// Connections and listeners that were learned without being screened.
    pub unscreened: u64,
}

/// Entries that are suspicious, and why.
#[derive(Debug)]
pub struct Suspicious {
    /// The rule that raised an alert.
    pub rule: Arc<RuleRef>,
    /// What was learned.
    pub entries: Vec<Entry>,
}

impl Learner {
    /// Takes an event. The first one of a run begins a window.
    pub fn take(&mut self, event: &Event) {
        if matches!(event.body, EventBody::Facts(_) | EventBody::Sample(_)) {
            return;
        }
        self.watch(event);
        self.add(event);
    }

    /// Takes note of when an event was, and of losses.
    pub(super) fn watch(&mut self, event: &Event) {
        if !self.in_window && self.windows.len() < WINDOWS_MAX {
            self.windows.push(Window { from: event.wall, to: event.wall, events: 0, lost: 0 });
        }
        self.in_window = true;
        if let Some(window) = self.windows.last_mut() {
            window.to = window.to.max(event.wall);
            window.events += 1;
            if let EventBody::Gap(gap) = &event.body {
                window.lost = window.lost.saturating_add(gap.lost);
            }
        }
    }

    /// The run was watched until now, though nothing happened.
    pub fn watched_until(&mut self, wall: WallNs) {
        if let Some(window) = self.windows.last_mut() {
            window.to = window.to.max(wall);
        }
    }

    /// The run ends: what comes is of another one.
    pub fn end_run(&mut self) {
        self.in_window = false;
    }

    /// Learns the connection or listener that an event is about.
    pub fn add(&mut self, event: &Event) {
        if Triggers::of_reported(event).intersect(Triggers::BEGIN.and(Triggers::LISTEN)) {
            self.add_seen(event, 1, event.wall);
        }
    }

    /// Learns the connection or listener that an event is about, which was seen so often, the last time then.
    pub(super) fn add_seen(&mut self, event: &Event, count: u64, last: WallNs) {
        if is_self_test(event) {
            return;
        }
        let Some(user) = User::of(event) else {
            self.of_unknown += 1;
            return;
        };
        let (port, spot, local, remote) = match (connection(event), listener(event)) {
            (Some(conn), _) if conn.direction != Direction::Unknown => {
                (conn.service_port(), Spot::Address(conn.remote.ip()), conn.local, Some(conn.remote))
            }
            (None, Some(listener)) if listener.local.port() != 0 => {
                (listener.local.port(), Spot::of_listener(listener.local.ip()), listener.local, None)
            }
            _ => {
                self.of_unknown += 1;
                return;
            }
        };
        let Some(place) = self.place(user) else {
            self.not_kept += 1;
            return;
        };
        let Some((_, of_user)) = self.users.get_mut(place) else { return };
        let paths = match connection(event).map(|conn| conn.direction) {
            None => &mut of_user.listeners,
            Some(Direction::In) => &mut of_user.connections_in,
            Some(_) => &mut of_user.connections_out,
        };
        let is_new = !paths.has(port, spot);
        if is_new && self.addresses >= ADDRESSES_MAX {
            self.not_kept += 1;
            return;
        }
        let seen = Seen::once(event.wall, if is_new { example(user, local, remote) } else { String::new() });
        let seen = Seen { count, last, ..seen };
        self.addresses += usize::from(is_new);
        paths.add(port, spot, seen.clone());
        if let (Some(_), Some(exe)) = (user.unit, user.exe) {
            of_user.add_program(exe, seen);
        }
    }

    /// Where what is known of a user is.
    fn place(&mut self, user: User<'_>) -> Option<usize> {
        let names = if user.unit.is_some() { &mut self.by_unit } else { &mut self.by_exe };
        if let Some(place) = names.get(user.name()) {
            return Some(*place);
        }
        let who = match user.unit {
            Some(unit) => Who::Unit(name::of_unit(unit).into()),
            None => Who::Exe(name::of_exe(user.name()).into()),
        };
        let place = match self.places.get(&who) {
            Some(place) => *place,
            None if self.users.len() >= USERS_MAX => return None,
            None => {
                self.users.push((who.clone(), OfUser::default()));
                self.places.insert(who, self.users.len() - 1);
                self.users.len() - 1
            }
        };
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(user.name().into(), place);
        Some(place)
    }

    /// What was learnt.
    pub fn learnt(&self) -> Learnt {
        let mut entries = Vec::new();
        for (who, place) in &self.places {
            let Some((_, of_user)) = self.users.get(*place) else { continue };
            of_user.entries(who, &mut entries);
        }
        Learnt {
            entries,
            windows: self.windows.clone(),
            not_kept: self.not_kept,
            of_unknown: self.of_unknown,
            suspicious: Vec::new(),
            unscreened: 0,
        }
    }
}

impl OfUser {
    fn add_program(&mut self, exe: &[u8], seen: Seen) {
        if let Some(any) = &mut self.any_program {
            any.merge(seen);
            return;
        }
        self.programs.entry(name::of_exe(exe).into()).or_default().merge(seen);
        if self.programs.len() > PROGRAMS_MAX {
            let any = self.any_program.get_or_insert_default();
            for seen in std::mem::take(&mut self.programs).into_values() {
                any.merge(seen);
            }
        }
    }

    fn entries(&self, who: &Who, entries: &mut Vec<Entry>) {
        let mut add = |what: What, seen: Seen| entries.push(Entry { who: who.clone(), what, seen });
        for (ports, local, seen) in sorted(&self.listeners) {
            add(What::Listener { local, ports }, seen);
        }
        for (exe, seen) in &self.programs {
            add(What::Program { exe: exe.clone() }, seen.clone());
        }
        if let Some(seen) = &self.any_program {
            add(What::Program { exe: "*".into() }, seen.clone());
        }
        for (direction, paths) in
            [(Direction::In, &self.connections_in), (Direction::Out, &self.connections_out)]
        {
            for (ports, remote, seen) in sorted(paths) {
                add(What::Connection { direction, remote, ports }, seen);
            }
        }
    }
}

/// The same for the same paths, so that files can be compared line by line.
fn sorted(paths: &Paths) -> Vec<(Ports, Place, Seen)> {
    let mut entries: Vec<_> = paths.entries().collect();
    entries.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    entries
}

/// `10.0.0.1:40000 -> 10.0.0.2:443 by /usr/bin/curl`.
fn example(user: User<'_>, local: SocketAddr, remote: Option<SocketAddr>) -> String {
    let mut exe = Vec::new();
    escape::text(user.exe.unwrap_or(b"?"), &mut exe);
    let exe = String::from_utf8_lossy(&exe);
    match remote {
        Some(remote) => format!("{local} - {remote} by {exe}"),
        None => format!("{local} by {exe}"),
    }
}
