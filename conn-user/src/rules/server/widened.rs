//! `find = "widened"`: an executable that listened on loopback only listens on a wider address, at the same port.

use std::sync::Arc;

use super::places::{Places, plain};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::flow::model::ConnId;
use crate::process::hash::IntMap;
use crate::rules::detector::{Context, Detector, Triggers, listener};
use crate::rules::memory::{Memory, Past};
use crate::rules::model::Rule;
use crate::rules::program;
use crate::units::{BootNs, DurationNs, NetNs};
use std::net::SocketAddr;

/// Most executables and ports that are remembered.
const PLACES_MAX: usize = 16_384;
/// A service that listens on several addresses begins with all of them within this time.
const STARTING: DurationNs = DurationNs(1_000_000_000);

/// Network namespace, port, executable.
type Key = (NetNs, u16, Arc<[u8]>);

#[derive(Debug, Default)]
struct Place {
    /// Where it listens on loopback only, and since when.
    narrow: Option<(SocketAddr, BootNs)>,
    /// Wider listeners that are open.
    wide: u32,
}

/// Finds servers that listen on more addresses than they did.
#[derive(Debug)]
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
        let Some(process) = listener.owner.process.as_deref().filter(|_| end.port() != 0) else { return };
        let program = process.exe.clone().unwrap_or_else(|| program::name(process).into());
        let key = (listener.netns, end.port(), program);
        let place = self.places.entry(key.clone(), Place::default);
        if end.ip().is_loopback() {
            if place.wide == 0 && place.narrow.is_none() {
                place.narrow = Some((end, context.now));
            }
            return;
        }
        if let Some((before, since)) = place.narrow.take()
            && context.now.since(since) >= STARTING
        {
            let evidence = vec![
                Evidence { name: "before", value: Value::End(before) },
                Evidence { name: "after", value: Value::End(end) },
                Evidence::duration("before_since", context.now.since(since)),
            ];
            super::listener::raise(rule, listener, evidence, since, context);
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

    fn recall(&self, _rule: &Rule, event: &Event, past: &Past<'_>) -> Option<Memory> {
        let listener = listener(event)?;
        let end = plain(listener.local);
        let Some(process) = listener.owner.process.as_deref() else {
            return Some(Memory::not_raised("who listens is not known", Vec::new()));
        };
        if end.ip().is_loopback() {
            return Some(Memory::not_raised("it listens on loopback only", Vec::new()));
        }
        let program = process.exe.clone().unwrap_or_else(|| program::name(process).into());
        let place = self.places.get(&(listener.netns, end.port(), program));
        let Some((before, since)) = place.and_then(|place| place.narrow) else {
            let says = "this executable did not listen on loopback only at this port before";
            return Some(Memory::not_raised(says, Vec::new()));
        };
        let lasted = past.now.since(since);
        let facts = vec![
            Evidence { name: "before", value: Value::End(before) },
            Evidence::duration("before_since", lasted),
        ];
        Some(if lasted < STARTING {
            Memory::not_raised("it listened on loopback only, but it has just begun", facts)
        } else {
            Memory::finds(super::listener::same(listener), "it listened on loopback only before", facts)
        })
    }
}
