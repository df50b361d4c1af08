//! Which rules an event may concern: by what it is, then by the one exact value that a rule's filter needs most.

use std::collections::HashMap;

use super::detector::Triggers;
use super::model::Rule;
use crate::event::model::Event;
use crate::filter::Filter;
use crate::filter::anchor::{Anchor, Probe, probes};
use crate::process::hash::IntMap;

/// The index. Rules are named by their places.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_trigger: [Table; Triggers::COUNT],
    /// Rules on facts that come in the background.
    late: Vec<bool>,
}

type ByText = HashMap<Box<[u8]>, Vec<u32>>;

#[derive(Debug, Default)]
struct Table {
    port: IntMap<u16, Vec<u32>>,
    exe: ByText,
    unit: ByText,
    proc: ByText,
    user: ByText,
    /// Rules without such a value: asked about every event.
    rest: Vec<u32>,
}

impl Index {
    /// Of rules with the triggers of their detectors, and the other filter that those ask.
    pub(super) fn new<'a>(rules: impl Iterator<Item = (&'a Rule, Triggers, Option<&'a Filter>)>) -> Self {
        let mut index = Self::default();
        for (place, (rule, triggers, also)) in (0..).zip(rules) {
            index.late.push(
                rule.matches.needs_late_facts() || rule.except.iter().any(|one| one.needs_late_facts()),
            );
            for filter in [Some(&rule.matches), also].into_iter().flatten() {
                let anchor = filter.anchor();
                for trigger in triggers.each() {
                    index.by_trigger[trigger].file(place, anchor.as_ref());
                }
            }
        }
        index
    }

    /// Appends the rules that the event may concern, each once, in their order.
    pub(super) fn candidates(&self, triggers: Triggers, event: &Event, out: &mut Vec<u32>) {
        for trigger in triggers.each() {
            self.by_trigger[trigger].find(event, out);
        }
        out.sort_unstable();
        out.dedup();
    }

    /// Whether the rule needs facts that may come after the event.
    pub(super) fn is_late(&self, place: u32) -> bool {
        self.late[place as usize]
    }
}

impl Table {
    fn file(&mut self, place: u32, anchor: Option<&Anchor>) {
        let file = |table: &mut ByText, values: &[Box<[u8]>]| {
            for value in values {
                table.entry(value.clone()).or_default().push(place);
            }
        };
        match anchor {
            Some(Anchor::ResponderPort(ports)) => {
                for port in ports {
                    self.port.entry(*port).or_default().push(place);
                }
            }
            Some(Anchor::Exe(values)) => file(&mut self.exe, values),
            Some(Anchor::Unit(values)) => file(&mut self.unit, values),
            Some(Anchor::Proc(values)) => file(&mut self.proc, values),
            Some(Anchor::User(values)) => file(&mut self.user, values),
            None => self.rest.push(place),
        }
    }

    fn find(&self, event: &Event, out: &mut Vec<u32>) {
        out.extend(&self.rest);
        probes(event, |probe| {
            let found = match probe {
                Probe::ResponderPort(port) => self.port.get(&port),
                Probe::Exe(value) => self.exe.get(value),
                Probe::Unit(value) => self.unit.get(value),
                Probe::Proc(value) => self.proc.get(value),
                Probe::User(value) => self.user.get(value),
            };
            out.extend(found.into_iter().flatten());
        });
    }
}
