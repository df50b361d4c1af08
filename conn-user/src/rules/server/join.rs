//! `find = "join"`: a process of another executable or user listens beside others at exactly the same place
//! (`SO_REUSEPORT`): it gets a share of their connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::places::plain;
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::flow::model::{ConnId, ListenEvent};
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::rules::detector::{Detector, Scene, Triggers, listener};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::program::{self, Server};
use crate::units::{BootNs, NetNs};

/// Most listeners that are known at once.
const MEMBERS_MAX: usize = 16_384;

type Place = (NetNs, SocketAddr);

/// The names of a service of one user at a place, each as one number.
type Services = SmallVec<[u64; 2]>;

/// A listener, linked with the others at its place in the order in which they came.
#[derive(Debug)]
struct Member {
    place: Place,
    process: Arc<ProcessInfo>,
    services: Services,
    since: BootNs,
    before: Option<ConnId>,
    after: Option<ConnId>,
}

/// Those that listen at one place.
#[derive(Debug)]
struct Group {
    first: ConnId,
    last: ConnId,
    members: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Join {
    groups: HashMap<Place, Group>,
    members: IntMap<u64, Member>,
    /// How many members have a name of a service.
    of_service: IntMap<u64, u32>,
    forgotten: u64,
}

fn place(listener: &ListenEvent) -> Place {
    (listener.netns, plain(listener.local))
}

fn services(server: &Server, place: Place) -> Services {
    server.services().map(|service| program::same(&(place, server.process.uid, service))).collect()
}

impl Join {
    fn has_any(&self, services: &Services) -> bool {
        services.iter().any(|service| self.of_service.contains_key(service))
    }

    fn add(&mut self, id: ConnId, member: Member) {
        for service in &member.services {
            *self.of_service.entry(*service).or_default() += 1;
        }
        let group = self.groups.entry(member.place).or_insert(Group { first: id, last: id, members: 0 });
        group.members += 1;
        let before = std::mem::replace(&mut group.last, id);
        let before = Some(before).filter(|before| *before != id);
        if let Some(before) = before.and_then(|before| self.members.get_mut(&before.0)) {
            before.after = Some(id);
        }
        self.members.insert(id.0, Member { before, after: None, ..member });
    }

    fn remove(&mut self, id: ConnId) {
        let Some(Member { place, services, before, after, .. }) = self.members.remove(&id.0) else { return };
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
            Evidence { name: "joined", value: Value::Process(Arc::clone(&first.process)) },
            Evidence::number("members", group.members),
            Evidence::duration("shared_since", now.since(first.since)),
        ]
    }
}

impl Detector for Join {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(listener) = listener(event) else { return };
        let place = place(listener);
        let Some(server) = Server::of(listener).filter(|_| place.1.port() != 0) else { return };
        if self.members.contains_key(&listener.id.0) {
            return;
        }
        let services = services(&server, place);
        if let Some(group) = self.groups.get(&place).filter(|_| !self.has_any(&services))
            && let Some(first) = self.members.get(&group.first.0)
        {
            let evidence = Self::evidence(first, group, scene.now);
            super::listener::raise(rule, listener, evidence, first.since, scene);
        }
        if self.members.len() >= MEMBERS_MAX {
            self.forgotten += 1;
        } else if scene.follow(listener.id) {
            let (process, since) = (server.process, scene.now);
            let member = Member { place, process, services, since, before: None, after: None };
            self.add(listener.id, member);
        }
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, _scene: &mut Scene<'_>) {
        if let Some(listener) = listener(event) {
            self.remove(listener.id);
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let listener = listener(event)?;
        let Some(server) = Server::of(listener) else {
            return Some(Memory::lets_be("who listens is not known", Vec::new()));
        };
        let place = place(listener);
        let group = self.groups.get(&place);
        let first = group.map(|group| group.first);
        let first = match first.filter(|first| *first == listener.id) {
            Some(own) => self.members.get(&own.0).and_then(|own| own.after),
            None => first,
        };
        let Some((group, first)) = group.zip(first.and_then(|first| self.members.get(&first.0))) else {
            return Some(Memory::lets_be("nobody else listens at this place", Vec::new()));
        };
        let facts = Self::evidence(first, group, past.now);
        Some(if self.has_any(&services(&server, place)) {
            Memory::lets_be("those who listen at this place are of the same service and user", facts)
        } else {
            Memory::finds(super::listener::same(listener), "others listen at this place", facts)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pid;

    /// The first one at a place is the one that came first of those that are left.
    #[test]
    fn members_come_and_go() {
        let place = (NetNs(1), "0.0.0.0:443".parse().expect("an end"));
        let other = (NetNs(2), place.1);
        let mut join = Join::default();
        let member = |place, number: u64| Member {
            place,
            process: Arc::new(ProcessInfo::new(Pid(number as u32), BootNs(number))),
            services: Services::from_slice(&[number % 2]),
            since: BootNs(number),
            before: None,
            after: None,
        };
        for number in 1..=5 {
            join.add(ConnId(number), member(place, number));
        }
        join.add(ConnId(6), member(other, 6));
        let state =
            |join: &Join| join.groups.get(&place).map(|group| (group.first.0, group.last.0, group.members));
        let mut states = vec![state(&join)];
        for gone in [3, 1, 5, 2, 4] {
            join.remove(ConnId(gone));
            states.push(state(&join));
        }
        let expected = [(1, 5, 5), (1, 5, 4), (2, 5, 3), (2, 4, 2), (4, 4, 1)];
        assert_eq!(states[..5], expected.map(Some));
        assert_eq!(states[5], None);
        assert_eq!((join.groups.len(), join.members.len(), join.of_service.len()), (1, 1, 1));
        assert!(join.has_any(&Services::from_slice(&[0])) && !join.has_any(&Services::from_slice(&[1])));
    }
}
