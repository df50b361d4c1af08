//! Which rules an event may concern: by what it is and its direction, and by the values that a rule's filter needs most.

use std::collections::HashMap;
use std::net::IpAddr;

use super::detector::{Triggers, connection};
use super::model::Rule;
use super::spans::Spans;
use crate::event::model::Event;
use crate::filter::Filter;
use crate::filter::anchor::{Anchor, Beginnings, PREFIX_MIN, Place, Probe, probes};
use crate::filter::compile::Side;
use crate::flow::model::Direction;
use crate::process::hash::{IntBuild, IntMap};

/// The index. Rules are named by their places.
#[derive(Debug, Default)]
pub(super) struct Index {
    rules: Vec<Filed>,
    ports: [Spans<u32>; Side::ALL.len()],
    v4: [Spans<u32>; Side::ALL.len()],
    v6: [Spans<u128>; Side::ALL.len()],
    uids: Spans<u32>,
    texts: [Texts; Place::COUNT],
    /// Rules without an anchor.
    rest: Vec<u32>,
    /// Rules that ask for the name of a process, ascending.
    by_name: Vec<u32>,
}

/// What else of a rule is asked before its filters.
#[derive(Clone, Copy, Debug)]
struct Filed {
    triggers: Triggers,
    /// A bit for each direction, see [`bit`].
    directions: u8,
    /// It is on facts that come in the background.
    is_late: bool,
}

impl Filed {
    /// Of a place without a rule.
    const NONE: Self = Self { triggers: Triggers::NONE, directions: 0, is_late: false };
}

/// Lengths at which the beginnings of texts are looked up; a longer one is cut to the next of these.
const PREFIXES: [usize; 4] = [PREFIX_MIN, 8, 16, 32];

/// The hash is the quick one: the operator chose what is in it, and what is looked up changes nothing.
type ByText = HashMap<Box<[u8]>, Vec<u32>, IntBuild>;

#[derive(Debug, Default)]
struct Texts {
    exact: ByText,
    prefixes: [ByText; PREFIXES.len()],
}

/// What goes into the index, before it is sorted.
#[derive(Debug, Default)]
struct Ranges {
    ports: IntMap<usize, Vec<(u32, u32, u32)>>,
    v4: IntMap<usize, Vec<(u32, u32, u32)>>,
    v6: IntMap<usize, Vec<(u128, u128, u32)>>,
    uids: Vec<(u32, u32, u32)>,
}

const fn bit(direction: Option<Direction>) -> u8 {
    match direction {
        None => 1,
        Some(Direction::Out) => 1 << 1,
        Some(Direction::In) => 1 << 2,
        Some(Direction::Unknown) => 1 << 3,
    }
}

fn directions(filter: &Filter) -> u8 {
    let all = [None, Some(Direction::Out), Some(Direction::In), Some(Direction::Unknown)];
    all.into_iter().filter(|direction| filter.may_go(*direction)).fold(0, |bits, one| bits | bit(one))
}

impl Index {
    /// Of rules with their places, ascending, the triggers of their detectors, and their secondary filters.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = (u32, &'a Rule, Triggers, Option<&'a Filter>)>,
    ) -> Self {
        let mut index = Self::default();
        // Every filter with the place of its rule and all its anchors.
        let mut filters: Vec<(u32, Vec<Anchor>)> = Vec::new();
        for (place, rule, triggers, secondary) in rules {
            let mut filed = Filed { triggers, directions: 0, is_late: rule.needs_late_facts() };
            for filter in [Some(&rule.matches), secondary].into_iter().flatten() {
                filed.directions |= directions(filter);
                filters.push((place, filter.anchors().collect()));
            }
            if rule.matches.asks_proc() || secondary.is_some_and(Filter::asks_proc) {
                index.by_name.push(place);
            }
            index.rules.resize(place as usize, Filed::NONE);
            index.rules.push(filed);
        }
        // A port that a hundred rules name says less than the unit that one of them names.
        let mut shared: HashMap<&Anchor, u32> = HashMap::new();
        for anchor in filters.iter().flat_map(|(_, anchors)| anchors) {
            *shared.entry(anchor).or_default() += 1;
        }
        let worth =
            |anchor: &&Anchor| (anchor.is_wide(), shared.get(*anchor).copied().unwrap_or(0), anchor.rank());
        let mut ranges = Ranges::default();
        for (place, anchors) in &filters {
            match anchors.iter().min_by_key(worth) {
                Some(anchor) => index.file(*place, anchor, &mut ranges),
                None => index.rest.push(*place),
            }
        }
        index.sort(&ranges);
        index
    }

    fn file(&mut self, place: u32, anchor: &Anchor, ranges: &mut Ranges) {
        match anchor {
            Anchor::Port(side, ports) => {
                let own = ranges.ports.entry(*side as usize).or_default();
                own.extend(ports.iter().map(|(low, high)| (*low, *high, place)));
            }
            Anchor::Address(side, all) => {
                let own = ranges.v4.entry(*side as usize).or_default();
                own.extend(all.v4.iter().map(|(low, high)| (*low, *high, place)));
                let own = ranges.v6.entry(*side as usize).or_default();
                own.extend(all.v6.iter().map(|(low, high)| (*low, *high, place)));
            }
            Anchor::Uid(uids) => ranges.uids.extend(uids.iter().map(|(low, high)| (*low, *high, place))),
            Anchor::Text(at, texts) => self.texts[*at as usize].file(place, texts),
        }
    }

    fn sort(&mut self, ranges: &Ranges) {
        for (side, own) in &ranges.ports {
            self.ports[*side] = Spans::new(own);
        }
        for (side, own) in &ranges.v4 {
            self.v4[*side] = Spans::new(own);
        }
        for (side, own) in &ranges.v6 {
            self.v6[*side] = Spans::new(own);
        }
        self.uids = Spans::new(&ranges.uids);
    }

    /// Appends the rules that the event may concern, each once, in their order. Allocates nothing but in `out`.
    pub(super) fn candidates(&self, triggers: Triggers, event: &Event, out: &mut Vec<u32>) {
        if !triggers.intersect(Triggers::ALL) {
            return;
        }
        let direction = bit(connection(event).map(|conn| conn.direction));
        let mut add = |places: &[u32]| {
            let fits = |place: &&u32| {
                self.rules.get(**place as usize).is_some_and(|filed| {
                    filed.triggers.intersect(triggers) && filed.directions & direction != 0
                })
            };
            out.extend(places.iter().filter(fits));
        };
        add(&self.rest);
        probes(event, |probe| match probe {
            Probe::Port(side, port) => add(self.ports[side as usize].of(port.into())),
            Probe::Address(side, IpAddr::V4(ip)) => add(self.v4[side as usize].of(ip.to_bits())),
            Probe::Address(side, IpAddr::V6(ip)) => add(self.v6[side as usize].of(ip.to_bits())),
            Probe::Uid(uid) => add(self.uids.of(uid)),
            Probe::Text(place, text) => self.texts[place as usize].find(text, &mut add),
        });
        out.sort_unstable();
        out.dedup();
    }

    /// Returns the rules that ask for the name of a process and that an event with these triggers may concern, ascending.
    pub(super) fn by_name(&self, triggers: Triggers) -> impl Iterator<Item = u32> {
        let fits = move |place: &u32| {
            self.rules.get(*place as usize).is_some_and(|filed| filed.triggers.intersect(triggers))
        };
        self.by_name.iter().copied().filter(fits)
    }

    /// Whether the rule needs facts that may come after the event.
    pub(super) fn is_late(&self, place: u32) -> bool {
        self.rules.get(place as usize).is_some_and(|filed| filed.is_late)
    }
}

impl Texts {
    fn file(&mut self, place: u32, texts: &Beginnings) {
        for text in &texts.exact {
            self.exact.entry(text.clone()).or_default().push(place);
        }
        for text in &texts.prefixes {
            let fitting =
                PREFIXES.iter().zip(&mut self.prefixes).rev().find(|(length, _)| **length <= text.len());
            if let Some((length, table)) = fitting {
                table.entry(text[..*length].into()).or_default().push(place);
            }
        }
    }

    fn find(&self, text: &[u8], add: &mut impl FnMut(&[u32])) {
        if let Some(places) = self.exact.get(text) {
            add(places);
        }
        for (length, table) in PREFIXES.iter().zip(&self.prefixes) {
            if !table.is_empty()
                && let Some(places) = text.get(..*length).and_then(|prefix| table.get(prefix))
            {
                add(places);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::samples;
    use crate::rules::model::{Detect, ProcessRule};
    use crate::rules::testing::rule;

    /// Whatever a rule is filed under: one that selects an event is found for it.
    #[test]
    fn what_matches_is_found() {
        let texts = [
            "",
            "dir:out",
            "-dir:in",
            "dport:443,8080",
            "lport:8000-9000",
            "port:22",
            "dst:loopback",
            "raddr:rfc1918",
            "-ip:10.0.0.0/8",
            "exe:/usr/bin/curl",
            "exe:/usr/bin/c*,/opt/x",
            "exe:*curl",
            "unit:nginx.service,ssh.socket",
            "proc:curl,nginx",
            "user:ann",
            "uid:33,1000",
            "uid:0-5",
            "dport:8080 proc:curl",
            "src:::1,127.0.0.1",
            "exe:/usr/sbin/nginx* dport:>1",
            "dst:external",
        ];
        let rules: Vec<Rule> =
            texts.iter().map(|text| rule(Detect::Process(ProcessRule::Network), text)).collect();
        let index = Index::new((0..).zip(&rules).map(|(place, rule)| (place, rule, Triggers::ALL, None)));
        let mut found = 0;
        for event in samples::all() {
            let mut candidates = Vec::new();
            index.candidates(Triggers::of(&event), &event, &mut candidates);
            assert!(candidates.is_sorted());
            for (place, rule) in (0..).zip(&rules).filter(|(_, rule)| rule.selects(&event)) {
                let concerned = Triggers::of(&event).intersect(Triggers::ALL);
                assert_eq!(candidates.contains(&place), concerned, "{} {event:?}", rule.matches);
                found += usize::from(concerned);
            }
        }
        assert!(found > 50, "{found}");
    }

    #[test]
    fn a_shared_value_is_not_what_a_rule_is_filed_under() {
        let texts: Vec<String> = (0..100).map(|at| format!("dport:8080 unit:u{at}.service")).collect();
        let rules: Vec<Rule> =
            texts.iter().map(|text| rule(Detect::Process(ProcessRule::Network), text)).collect();
        let index = Index::new((0..).zip(&rules).map(|(place, rule)| (place, rule, Triggers::ALL, None)));
        let mut candidates = Vec::new();
        for event in samples::all() {
            index.candidates(Triggers::ALL, &event, &mut candidates);
        }
        assert!(candidates.is_empty(), "{candidates:?}");
    }
}
