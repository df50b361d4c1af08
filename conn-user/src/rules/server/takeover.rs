//! `find = "takeover"`: another executable listens at a place where one listened before. A replaced binary of the same
//! path and another program of the same unit are the same service.

use smallvec::SmallVec;

use super::places::{Places, Reached, plain};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::rules::detector::{Context, Detector, Triggers, listener};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::program::Server;
use crate::units::{BootNs, NetNs};

/// Most ports whose owners are remembered.
const PLACES_MAX: usize = 16_384;
/// Most addresses of a port that are; then the oldest goes.
const ADDRESSES_MAX: usize = 16;

/// Who listened there last.
#[derive(Clone, Debug)]
struct Owner {
    at: Reached,
    server: Server,
    since: BootNs,
}

/// Finds programs that listen where another one did.
#[derive(Clone, Debug)]
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
        let Some(server) = super::known(listener, context) else { return };
        let owners = self.ports.entry((listener.netns, end.port()), SmallVec::new);
        let at = Reached::by(listener);
        let before = || owners.iter().filter(|owner| owner.at.overlaps(&at));
        let evidence = |owner: &Owner| {
            vec![
                Evidence::new("before", Value::Process(owner.server.process.clone())),
                Evidence::duration("before_since", now.since(owner.since)),
                Evidence::new("after", Value::Process(server.process.clone())),
            ]
        };
        match before().max_by_key(|owner| owner.since) {
            None => context.note(|| Note::new("nobody listened here before, as far as was seen")),
            // Several may share it (addresses of which one is the wildcard): one of the same service is enough.
            Some(last) if before().any(|owner| owner.server.is_same_service(&server)) => {
                context.note(|| Note::new("the same service listened here before").with(evidence(last)));
            }
            Some(last) => {
                context.note(|| Note::new("another service listened here before"));
                super::listener::raise(rule, listener, evidence(last), last.since, context);
            }
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
}
