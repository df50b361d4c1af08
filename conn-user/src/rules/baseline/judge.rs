//! What the three detectors of `baseline = true` have in common.

use std::net::{IpAddr, SocketAddr};

use super::{Baseline, Finder, Path, User};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::Direction;
use crate::rules::detector::Context;
use crate::rules::dry_run::Note;

/// Most entries that an alert names.
const NEAREST: usize = 3;

impl Finder {
    /// Whether the program is known.
    pub(in crate::rules) fn knows_program(&mut self, user: User<'_>, context: &Context<'_>) -> bool {
        context.baseline.knows_program(self.find(context.baseline, user), user)
    }

    /// Whether the path is known.
    pub(in crate::rules) fn knows_connection(
        &mut self,
        user: User<'_>,
        (direction, ip, port): (Direction, IpAddr, u16),
        context: &Context<'_>,
    ) -> bool {
        let found = self.find(context.baseline, user);
        context.baseline.knows_connection(found, Path { direction, ip, port }, context.names)
    }

    /// Whether the listener is known.
    pub(in crate::rules) fn knows_listener(
        &mut self,
        user: User<'_>,
        local: SocketAddr,
        context: &Context<'_>,
    ) -> bool {
        let found = self.find(context.baseline, user);
        context.baseline.knows_listener(found, local, context.names)
    }

    /// Returns whether a rule on programs reports the event's program, which is not known: then it is the one new thing, and not
    /// what it does too. `name`: what sort of entry is missing.
    pub(in crate::rules) fn defers_program(
        &mut self,
        name: &str,
        (event, user): (&Event, User<'_>),
        evidence: impl Fn() -> Vec<Evidence>,
        context: &mut Context<'_>,
    ) -> bool {
        if self.knows_program(user, context) {
            return false;
        }
        let by = context.program_rules.iter().find(|rule| rule.selects(event));
        if let Some(by) = by {
            context.note(|| {
                let id = &by.about.id;
                let says = format!(
                    "the baseline has no entry of this {name}, nor of its program: that is for the rule {id} to report"
                );
                Note::new(says).with(evidence())
            });
        }
        by.is_some()
    }
}

/// Returns whose use of the network an event reports.
pub(in crate::rules) fn user<'e>(event: &'e Event, context: &mut Context<'_>) -> Option<User<'e>> {
    let user = User::of(event);
    if user.is_none() {
        context.note(|| Note::new("whose it is is not known: neither a service nor an executable"));
    }
    user
}

/// Explains that the baseline has an entry of this sort.
pub(in crate::rules) fn known(name: &str) -> Note {
    Note::new(format!("the baseline has an entry of this {name}"))
}

/// Explains that it has none.
pub(in crate::rules) fn unknown(name: &str) -> Note {
    Note::new(format!("the baseline has no entry of this {name}"))
}

/// What is known of who did it: `baseline`, the sort of entry that is missing; `unit` or `exe`; `known`, how many entries they
/// have; the nearest of them; and how much was lost while they were learnt.
pub(in crate::rules) fn evidence(
    missing: &'static str,
    user: User<'_>,
    near: impl Fn(&super::What) -> u8,
    baseline: &Baseline,
) -> Vec<Evidence> {
    let found = baseline.find(user);
    let places: Vec<u32> = baseline.of(&found).flat_map(|known| &known.entries).copied().collect();
    let key = if user.unit.is_some() { "unit" } else { "exe" };
    let mut evidence = vec![
        Evidence::text("baseline", missing.as_bytes()),
        Evidence::text(key, user.name()),
        Evidence::number("known", places.len() as u64),
    ];
    let own = places.iter().filter_map(|place| baseline.entries.get(*place as usize));
    let mut nearest: Vec<(u8, String)> =
        own.map(|entry| (near(&entry.what), entry.what.to_string())).filter(|(rank, _)| *rank > 0).collect();
    nearest.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    if !nearest.is_empty() {
        let texts = nearest.into_iter().take(NEAREST).map(|(_, text)| Value::Text(text.into_bytes().into()));
        evidence.push(Evidence::new("nearest", Value::List(texts.collect())));
    }
    if baseline.lost() > 0 {
        evidence.push(Evidence::number("lost_while_learning", baseline.lost()));
    }
    evidence
}

/// The network of an address in which a second finding is the same: /24, or /64.
pub(in crate::rules) fn same_net(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
    }
}

/// The zone of an address, as evidence.
pub(in crate::rules) fn zone(ip: IpAddr, names: &Names) -> Evidence {
    Evidence::text("zone", names.zone_of(ip).as_bytes())
}
