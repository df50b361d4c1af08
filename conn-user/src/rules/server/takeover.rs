//! `find = "takeover"`: another executable listens at a place where one listened before. A replaced binary of the same
//! path and another program of the same unit are the same service.

use smallvec::SmallVec;

use super::places::{Places, Reached, plain};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::rules::detector::{Context, Detector, Triggers, listener};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::program::Server;
use crate::units::{BootNs, NetNs};

/// Most ports whose owners are remembered.
const PLACES_MAX: usize = 16_384;
/// Most addresses of a port that are; then the oldest goes.
const ADDRESSES_MAX: usize = 16;

/// Who listened there last.
#[derive(Debug)]
struct Owner {
    at: Reached,
    server: Server,
    since: BootNs,
}

/// Finds programs that listen where another one did.
#[derive(Debug)]
pub(super) struct Takeover {
    ports: Places<(NetNs, u16), SmallVec<[Owner; 1]>>,
    forgotten: u64,
}

impl Default for Takeover {
    fn default() -> Self {
        Self { ports: Places::new(PLACES_MAX), forgotten: 0 }
    }
}

impl Detector for Takeover {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(listener) = listener(event) else { return };
        let (end, now) = (plain(listener.local), context.now);
        let Some(server) = Server::of(listener).filter(|_| end.port() != 0) else { return };
        let owners = self.ports.entry((listener.netns, end.port()), SmallVec::new);
        let at = Reached::by(listener);
        let before = || owners.iter().filter(|owner| owner.at.overlaps(&at));
        // Several may share it (addresses of which one is the wildcard): one of the same service is enough.
        if !before().any(|owner| owner.server.is_same_service(&server))
            && let Some(owner) = before().max_by_key(|owner| owner.since)
        {
            let evidence = vec![
                Evidence { name: "before", value: Value::Process(owner.server.process.clone()) },
                Evidence::duration("before_since", now.since(owner.since)),
                Evidence { name: "after", value: Value::Process(server.process.clone()) },
            ];
            super::listener::raise(rule, listener, evidence, owner.since, context);
        }
        let since = listener.born.as_ref().map_or(now, |born| born.latest);
        let new = Owner { at, server, since };
        match owners.iter_mut().find(|owner| owner.at.is_at(&new.at)) {
            Some(owner) if owner.server.is_same_service(&new.server) => {
                (owner.at, owner.server) = (new.at, new.server);
            }
            Some(owner) => *owner = new,
            None => {
                if owners.len() >= ADDRESSES_MAX {
                    owners.remove(0);
                    self.forgotten += 1;
                }
                owners.push(new);
            }
        }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten + self.ports.forgotten()
    }

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let listener = listener(event)?;
        let end = plain(listener.local);
        let Some(server) = Server::of(listener) else {
            return Some(Memory::not_raised("who listens is not known", Vec::new()));
        };
        let owners = self.ports.get(&(listener.netns, end.port())).map_or(&[][..], |owners| owners);
        let at = Reached::by(listener);
        let mut before = owners.iter().filter(|owner| owner.at.overlaps(&at));
        let Some(last) = before.clone().max_by_key(|owner| owner.since) else {
            return Some(Memory::not_raised("nobody listened here before, as far as was seen", Vec::new()));
        };
        let facts = vec![
            Evidence { name: "before", value: Value::Process(last.server.process.clone()) },
            Evidence::duration("before_since", past.now.since(last.since)),
        ];
        Some(if before.any(|owner| owner.server.is_same_service(&server)) {
            Memory::not_raised("the same service listened here before", facts)
        } else {
            Memory::finds(super::listener::same(listener), "another service listened here before", facts)
        })
    }
}
