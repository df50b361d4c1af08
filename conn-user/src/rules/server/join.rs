//! `find = "join"`: a process of another executable or user listens beside others at exactly the same place
//! (`SO_REUSEPORT`): it gets a share of their connections.

use std::collections::HashMap;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::places::plain;
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::flow::model::ConnId;
use crate::rules::detector::{Detector, Scene, Triggers, listener};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::program::Server;
use crate::units::{BootNs, NetNs};

/// Most listeners that are known at once.
const MEMBERS_MAX: usize = 16_384;

#[derive(Debug)]
struct Member {
    id: ConnId,
    server: Server,
    since: BootNs,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Join {
    groups: HashMap<(NetNs, SocketAddr), SmallVec<[Member; 1]>>,
    members: usize,
    forgotten: u64,
}

impl Detector for Join {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(listener) = listener(event) else { return };
        let end = plain(listener.local);
        let Some(server) = Server::of(listener).filter(|_| end.port() != 0) else { return };
        let group = self.groups.get(&(listener.netns, end)).map_or(&[][..], |group| group);
        if group.iter().any(|member| member.id == listener.id) {
            return;
        }
        let fits = |member: &Member| {
            member.server.process.uid == server.process.uid && member.server.is_same_service(&server)
        };
        if let Some(first) = group.first().filter(|_| !group.iter().any(fits)) {
            let evidence = vec![
                Evidence { name: "joined", value: Value::Process(first.server.process.clone()) },
                Evidence::number("members", group.len() as u64),
                Evidence::duration("shared_since", scene.now.since(first.since)),
            ];
            super::listener::raise(rule, listener, evidence, first.since, scene);
        }
        if self.members >= MEMBERS_MAX {
            self.forgotten += 1;
            return;
        }
        self.members += 1;
        scene.follow(listener.id);
        let member = Member { id: listener.id, server, since: scene.now };
        self.groups.entry((listener.netns, end)).or_default().push(member);
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, _scene: &mut Scene<'_>) {
        let Some(listener) = listener(event) else { return };
        let key = (listener.netns, plain(listener.local));
        let Some(group) = self.groups.get_mut(&key) else { return };
        let before = group.len();
        group.retain(|member| member.id != listener.id);
        self.members -= before - group.len();
        if group.is_empty() {
            self.groups.remove(&key);
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
        let group = self.groups.get(&(listener.netns, plain(listener.local))).map_or(&[][..], |group| group);
        let Some(first) = group.iter().find(|member| member.id != listener.id) else {
            return Some(Memory::lets_be("nobody else listens at this place", Vec::new()));
        };
        let facts = vec![
            Evidence { name: "joined", value: Value::Process(first.server.process.clone()) },
            Evidence::number("members", group.len() as u64),
            Evidence::duration("shared_since", past.now.since(first.since)),
        ];
        let fits = |member: &Member| {
            member.server.process.uid == server.process.uid && member.server.is_same_service(&server)
        };
        Some(if group.iter().any(fits) {
            Memory::lets_be("those who listen at this place are of the same service and user", facts)
        } else {
            Memory::finds(super::listener::same(listener), "others listen at this place", facts)
        })
    }
}
