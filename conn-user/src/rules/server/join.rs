//! `find = "join"`: a process of another executable or user listens beside others at exactly the same place
//! (`SO_REUSEPORT`): it gets a share of their connections. Bound to an interface beside one that is not, it gets all that come
//! over it; two that are bound to different ones share nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::places::plain;
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::flow::model::ListenEvent;
use crate::host::interfaces::Device;
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::rules::detector::{Context, Detector, Triggers, listener};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::program::{self, Server};
use crate::units::{BootNs, NetNs};

/// Most members of groups that are known at once; a listener that is bound to an interface is in two.
const MEMBERS_MAX: usize = 16_384;

type Place = (NetNs, SocketAddr, Over);

/// Over which interface the connections of a group come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Over {
    /// Any: of listeners that are not bound to one, as far as is known.
    Any,
    /// This one.
    Device(Arc<Device>),
    /// Some: of listeners that are bound to whichever.
    Bound,
}

/// A listener in one of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat(u64);

/// The names of a service of one user at a place, each as one number.
type Services = SmallVec<[u64; 2]>;

/// A listener, linked with the others at its place in the order in which they came.
#[derive(Clone, Debug)]
struct Member {
    place: Place,
    process: Arc<ProcessInfo>,
    services: Services,
    since: BootNs,
    before: Option<Seat>,
    after: Option<Seat>,
}

/// Those that listen at one place.
#[derive(Clone, Debug)]
struct Group {
    first: Seat,
    last: Seat,
    members: u64,
}

/// Finds processes that join the listeners of another program.
#[derive(Clone, Debug, Default)]
pub(super) struct Join {
    groups: HashMap<Place, Group>,
    members: IntMap<u64, Member>,
    /// How many members have a name of a service.
    of_service: IntMap<u64, u32>,
    forgotten: u64,
}

/// The groups that it is in, and those whose connections it gets a share of.
fn places(listener: &ListenEvent) -> ([Option<Place>; 2], [Place; 2]) {
    let at = |over| (listener.netns, plain(listener.local), over);
    match listener.scope.as_ref().and_then(|scope| scope.device.as_ref()) {
        None => ([Some(at(Over::Any)), None], [at(Over::Any), at(Over::Bound)]),
        Some(device) => {
            let own = at(Over::Device(Arc::clone(device)));
            ([Some(own.clone()), Some(at(Over::Bound))], [own, at(Over::Any)])
        }
    }
}

/// Its seats, in the order of its groups.
fn seats(listener: &ListenEvent) -> [Seat; 2] {
    [Seat(listener.id.0 * 2), Seat(listener.id.0 * 2 + 1)]
}

fn services(server: &Server, place: &Place) -> Services {
    server.services().map(|service| program::key(&(place, server.process.uid, service))).collect()
}

impl Join {
    fn has_any(&self, services: &Services) -> bool {
        services.iter().any(|service| self.of_service.contains_key(service))
    }

    /// Somebody of another service or user in one of these groups who came first, other than the listener itself.
    fn foreign(&self, server: &Server, shared: &[Place; 2], own: [Seat; 2]) -> Option<(&Group, &Member)> {
        shared.iter().filter(|place| !self.has_any(&services(server, place))).find_map(|place| {
            let group = self.groups.get(place)?;
            let first = match self.members.get(&group.first.0) {
                Some(member) if own.contains(&group.first) => self.members.get(&member.after?.0),
                member => member,
            };
            Some((group, first?))
        })
    }

    fn add(&mut self, seat: Seat, member: Member) {
        for service in &member.services {
            *self.of_service.entry(*service).or_default() += 1;
        }
        let new = Group { first: seat, last: seat, members: 0 };
        let group = self.groups.entry(member.place.clone()).or_insert(new);
        group.members += 1;
        let before = std::mem::replace(&mut group.last, seat);
        let before = Some(before).filter(|before| *before != seat);
        if let Some(before) = before.and_then(|before| self.members.get_mut(&before.0)) {
            before.after = Some(seat);
        }
        self.members.insert(seat.0, Member { before, after: None, ..member });
    }

    fn remove(&mut self, seat: Seat) {
        let Some(Member { place, services, before, after, .. }) = self.members.remove(&seat.0) else {
            return;
        };
        for service in services {
            if let Some(count) = self.of_service.get_mut(&service) {
                *count -= 1;
                if *count == 0 {
                    self.of_service.remove(&service);
                }
            }
        }
        if let Some(before) = before.and_then(|before| self.members.get_mut(&before.0)) {
            before.after = after;
        }
        if let Some(after) = after.and_then(|after| self.members.get_mut(&after.0)) {
            after.before = before;
        }
        match (self.groups.get_mut(&place), before, after) {
            (None, ..) => {}
            (Some(_), None, None) => drop(self.groups.remove(&place)),
            (Some(group), ..) => {
                group.members -= 1;
                group.first = if before.is_none() { after.unwrap_or(group.first) } else { group.first };
                group.last = if after.is_none() { before.unwrap_or(group.last) } else { group.last };
            }
        }
    }

    fn evidence(first: &Member, group: &Group, now: BootNs) -> Vec<Evidence> {
        vec![
            Evidence::new("joined", Value::Process(Arc::clone(&first.process))),
            Evidence::number("members", group.members),
            Evidence::duration("shared_since", now.since(first.since)),
        ]
    }
}

impl Detector for Join {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(listener) = listener(event) else { return };
        let Some(server) = super::known(listener, context) else { return };
        let seats = seats(listener);
        if self.members.contains_key(&seats[0].0) {
            return context.note(|| Note::new("this listener was judged before"));
        }
        let (own, shared) = places(listener);
        if let Some((group, first)) = self.foreign(&server, &shared, seats) {
            context.note(|| Note::new("others listen at this place"));
            let evidence = Self::evidence(first, group, context.now);
            super::listener::raise(rule, listener, evidence, first.since, context);
        } else {
            context.note(|| {
                Note::new(if shared.iter().any(|place| self.groups.contains_key(place)) {
                    "those who listen at this place are of the same service and user"
                } else {
                    "nobody else listens at this place"
                })
            });
        }
        if self.members.len() >= MEMBERS_MAX {
            self.forgotten += 1;
        } else if context.follow(listener.id) {
            for (seat, place) in seats.into_iter().zip(own) {
                let Some(place) = place else { continue };
                let services = services(&server, &place);
                let (process, since) = (Arc::clone(&server.process), context.now);
                self.add(seat, Member { place, process, services, since, before: None, after: None });
            }
        }
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, _context: &mut Context<'_>) {
        if let Some(listener) = listener(event) {
            for seat in seats(listener) {
                self.remove(seat);
            }
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pid;

    /// The first one at a place is the one that came first of those that are left.
    #[test]
    fn members_come_and_go() {
        let end: SocketAddr = "0.0.0.0:443".parse().expect("an end");
        let place = (NetNs(1), end, Over::Any);
        let other = (NetNs(2), end, Over::Any);
        let mut join = Join::default();
        let member = |place: &Place, number: u64| Member {
            place: place.clone(),
            process: Arc::new(ProcessInfo::new(Pid(number as u32), BootNs(number))),
            services: Services::from_slice(&[number % 2]),
            since: BootNs(number),
            before: None,
            after: None,
        };
        for number in 1..=5 {
            join.add(Seat(number), member(&place, number));
        }
        join.add(Seat(6), member(&other, 6));
        let state =
            |join: &Join| join.groups.get(&place).map(|group| (group.first.0, group.last.0, group.members));
        let mut states = vec![state(&join)];
        for gone in [3, 1, 5, 2, 4] {
            join.remove(Seat(gone));
            states.push(state(&join));
        }
        let expected = [(1, 5, 5), (1, 5, 4), (2, 5, 3), (2, 4, 2), (4, 4, 1)];
        assert_eq!(states[..5], expected.map(Some));
        assert_eq!(states[5], None);
        assert_eq!((join.groups.len(), join.members.len(), join.of_service.len()), (1, 1, 1));
        assert!(join.has_any(&Services::from_slice(&[0])) && !join.has_any(&Services::from_slice(&[1])));
    }
}
