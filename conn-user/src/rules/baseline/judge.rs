//! What the three detectors of `baseline = true` have in common.

use std::net::{IpAddr, SocketAddr};

use super::{Baseline, Finder, Path, User};
use crate::event::alert::{Evidence, Value};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::Direction;
use crate::rules::detector::Context;
use crate::rules::memory::{Memory, Past};

/// Most entries that an alert names.
const NEAREST: usize = 3;

impl Baseline {
    /// Whether the program is known. As of [`Finder`], but looked up anew.
    pub(in crate::rules) fn has_program(&self, user: User<'_>) -> bool {
        self.knows_program(&self.find(user), user)
    }

    /// Whether the path is known.
    pub(in crate::rules) fn has_connection(
        &self,
        user: User<'_>,
        (direction, ip, port): (Direction, IpAddr, u16),
        names: &Names,
    ) -> bool {
        self.knows_connection(&self.find(user), Path { direction, ip, port }, names)
    }

    /// Whether the listener is known.
    pub(in crate::rules) fn has_listener(&self, user: User<'_>, local: SocketAddr, names: &Names) -> bool {
        self.knows_listener(&self.find(user), local, names)
    }
}

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
}

/// What the baseline says of something, for people who ask; `name`: what sort of entry would be it.
pub(in crate::rules) fn recollection(is_known: bool, same: u64, name: &str, facts: Vec<Evidence>) -> Memory {
    if is_known {
        Memory::not_raised(format!("the baseline has an entry of this {name}"), facts)
    } else {
        Memory::finds(same, format!("the baseline has no entry of this {name}"), facts)
    }
}

/// What the baseline says of something that a rule leaves to the rules on programs where its program is not
/// known.
pub(in crate::rules) fn recollection_of_use(
    is_known: bool,
    (event, user): (&Event, User<'_>),
    same: u64,
    name: &str,
    facts: Vec<Evidence>,
    past: &Past<'_>,
) -> Memory {
    let emitter = past.program_rules.iter().find(|rule| rule.selects(event));
    match emitter.filter(|_| !is_known && !past.baseline.has_program(user)) {
        Some(rule) => {
            let id = &rule.about.id;
            let says = format!(
                "the baseline has no entry of this {name}, nor of its program: that is for the rule {id} to report"
            );
            Memory::not_raised(says, facts)
        }
        None => recollection(is_known, same, name, facts),
    }
}

/// Of whom something is is not known, so that no entry can be of them.
pub(in crate::rules) fn of_nobody() -> Memory {
    Memory::not_raised("whose it is is not known: neither a service nor an executable", Vec::new())
}

/// Whether a rule on programs reports the event's program, which is not known: then it is the one new thing, and not what it
/// does too.
pub(in crate::rules) fn is_deferred(event: &Event, context: &Context<'_>) -> bool {
    context.program_rules.iter().any(|rule| rule.selects(event))
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
        evidence.push(Evidence { name: "nearest", value: Value::List(texts.collect()) });
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
