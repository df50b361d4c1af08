//! `find = "widened"`: an executable that listened on loopback only listens on a wider address, at the same port.

use std::sync::Arc;

use super::places::{Places, plain};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::flow::model::ConnId;
use crate::process::hash::IntMap;
use crate::rules::detector::{Context, Detector, Triggers, listener};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::rules::program::{self, Server};
use crate::units::{BootNs, DurationNs, NetNs};
use std::net::SocketAddr;

/// Most executables and ports that are remembered.
const PLACES_MAX: usize = 16_384;
/// A service that listens on several addresses begins with all of them within this time.
const STARTING: DurationNs = DurationNs(1_000_000_000);

/// Network namespace, port, executable.
type Key = (NetNs, u16, Arc<[u8]>);

#[derive(Clone, Debug, Default)]
struct Place {
    /// Where it listens on loopback only, and since when.
    narrow: Option<(SocketAddr, BootNs)>,
    /// Wider listeners that are open.
    wide: u32,
}

/// Finds servers that listen on more addresses than they did.
#[derive(Clone, Debug)]
pub(super) struct Widened {
    places: Places<Key, Place>,
    wide: IntMap<u64, Key>,
    /// Wider listeners beyond what is remembered at once.
    not_followed: u64,
}

impl Default for Widened {
    fn default() -> Self {
        Self { places: Places::new(PLACES_MAX), wide: IntMap::default(), not_followed: 0 }
    }
}

impl Detector for Widened {
    fn triggers(&self) -> Triggers {
        Triggers::LISTEN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(listener) = listener(event) else { return };
        let end = plain(listener.local);
        let Some(Server { process, .. }) = super::known(listener, context) else { return };
        let program = process.exe.clone().unwrap_or_else(|| program::name(&process).into());
        let key = (listener.netns, end.port(), program);
        let place = self.places.entry(key.clone(), Place::default);
        if end.ip().is_loopback() {
            if place.wide == 0 && place.narrow.is_none() {
                place.narrow = Some((end, context.now));
            }
            return context.note(|| Note::new("it listens on loopback only"));
        }
        if let Some((before, since)) = place.narrow.take() {
            let lasted = context.now.since(since);
            let evidence = || {
                vec![
                    Evidence::new("before", Value::End(before)),
                    Evidence::new("after", Value::End(end)),
                    Evidence::duration("before_since", lasted),
                ]
            };
            if lasted >= STARTING {
                context.note(|| Note::new("it listened on loopback only before"));
                super::listener::raise(rule, listener, evidence(), since, context);
            } else {
                context.note(|| {
                    Note::new("it listened on loopback only, but it has just begun").with(evidence())
                });
            }
        } else {
            context.note(|| Note::new("this executable did not listen on loopback only at this port before"));
        }
        if self.wide.len() >= PLACES_MAX {
            self.not_followed += 1;
        } else if context.follow(listener.id) && self.wide.insert(listener.id.0, key).is_none() {
            place.wide += 1;
        }
    }

    fn on_end(&mut self, _rule: &Rule, event: &Event, _context: &mut Context<'_>) {
        let Some(ConnId(id)) = listener(event).map(|listener| listener.id) else { return };
        if let Some(key) = self.wide.remove(&id)
            && let Some(place) = self.places.get_mut(&key)
        {
            place.wide = place.wide.saturating_sub(1);
        }
    }

    fn forgotten(&self) -> u64 {
        self.places.forgotten() + self.not_followed
    }
}
