//! Rules made ready to take over from those that are active.
//!
//! Whoever loads rules stages them, on a thread of its own: with many rules it takes long to compare them, to make their detectors
//! and to build the index. The thread that judges only swaps ([`super::Engine::apply`]), at a cost of what has changed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::baseline::Baseline;
use super::detector::{Detector, Triggers};
use super::detectors::detector;
use super::index::Index;
use super::model::{Detect, ProcessRule, Rule};
use super::set::RuleSet;
use crate::filter::{Filter, Names};

/// Active rules with their places in an engine. A rule that stays as it is keeps its place; the place of one that is removed is
/// used again.
#[derive(Debug)]
pub struct Layout {
    /// `None`: the place is free.
    places: Vec<Option<Arc<Rule>>>,
    pub(super) names: Arc<Names>,
    pub(super) baseline: Arc<Baseline>,
    /// Rules that report programs which the baseline does not have.
    pub(super) program_rules: Arc<[Arc<Rule>]>,
}

/// What was replaced: to be dropped where it hurts nobody, for detectors may remember much.
pub struct Retired {
    _kept: Box<dyn Send>,
}

impl Retired {
    /// Keeps it until this is dropped.
    pub(super) fn new(kept: impl Send + 'static) -> Self {
        Self { _kept: Box::new(kept) }
    }
}

/// Takes the rules that were replaced, to drop them elsewhere: they may hold much memory.
pub type WhenReplaced = Box<dyn FnOnce(Retired) + Send>;

/// Rules that are ready to take over. See the module.
pub struct Staged {
    /// The rules from which they take over; an engine that has others stages them itself.
    base: Arc<Layout>,
    pub(super) layout: Arc<Layout>,
    pub(super) index: Index,
    /// The places of rules that are removed, ascending.
    pub(super) removed: Vec<u32>,
    /// Rules that begin, by place, ascending.
    pub(super) added: Vec<Added>,
    /// The index of those alone, with the same places; `None`: there are no others.
    pub(super) added_index: Option<Index>,
    pub(super) when_replaced: Option<WhenReplaced>,
}

/// A rule that begins, with its detector.
pub(super) struct Added {
    pub(super) place: u32,
    pub(super) rule: Arc<Rule>,
    pub(super) detector: Box<dyn Detector>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            names: Arc::new(Names::builtin().clone()),
            baseline: Arc::default(),
            program_rules: Arc::default(),
        }
    }
}

impl Layout {
    /// Makes rules ready to take over from these.
    pub fn stage(self: &Arc<Self>, set: &RuleSet) -> Staged {
        let (layout, removed, added) = self.replaced_by(set);
        let with_detector = |(place, rule): (u32, &Arc<Rule>)| {
            // The detector of one that stays is in the engine: this one only says which events it is asked about.
            Added { place, rule: Arc::clone(rule), detector: detector(&rule.detect) }
        };
        let all: Vec<Added> = layout.rules().map(with_detector).collect();
        let index = Index::new(all.iter().map(Added::filed));
        let is_added = |own: &Added| added.binary_search(&own.place).is_ok();
        let added_index = (added.len() < all.len())
            .then(|| Index::new(all.iter().filter(|own| is_added(own)).map(Added::filed)));
        // Those that stay are dropped here, with their room.
        let mut begin = Vec::with_capacity(added.len());
        begin.extend(all.into_iter().filter(is_added));
        Staged {
            base: Arc::clone(self),
            layout: Arc::new(layout),
            index,
            removed,
            added: begin,
            added_index,
            when_replaced: None,
        }
    }

    /// The rules, each with its place.
    pub(super) fn rules(&self) -> impl Iterator<Item = (u32, &Arc<Rule>)> {
        (0..).zip(&self.places).filter_map(|(place, rule)| rule.as_ref().map(|rule| (place, rule)))
    }

    /// How many places there are, free ones among them.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules().next().is_none()
    }

    /// The rules without their places.
    pub fn set(&self) -> RuleSet {
        let rules = self.rules().map(|(_, rule)| Arc::clone(rule)).collect();
        RuleSet { rules, names: Arc::clone(&self.names), baseline: Arc::clone(&self.baseline) }
    }

    /// These rules with the places that they get, and the places of those that are removed and of those that are added.
    fn replaced_by(&self, set: &RuleSet) -> (Self, Vec<u32>, Vec<u32>) {
        let program_rules: Arc<[Arc<Rule>]> = program_rules(set).collect();
        let is_same_baseline = *self.baseline == *set.baseline;
        let unchanged = Unchanged {
            zones: self.names.has_same_zones(&set.names),
            baseline: is_same_baseline
                && self.program_rules == program_rules
                && self.baseline.zones().all(|zone| self.names.zone(zone) == set.names.zone(zone)),
        };
        // By id: a rule of another id is another rule.
        let mut known: HashMap<&str, SmallVec<[u32; 1]>> = HashMap::new();
        for (place, rule) in self.rules() {
            known.entry(&rule.about.id).or_default().push(place);
        }
        let mut places: Vec<Option<Arc<Rule>>> = vec![None; self.places.len()];
        let mut new = Vec::new();
        for rule in &set.rules {
            let stays = known.get_mut(&*rule.about.id).and_then(|own| {
                let at = own.iter().position(|place| {
                    let before = self.places.get(*place as usize).and_then(Option::as_deref);
                    before.is_some_and(|before| unchanged.is_same(before, rule))
                })?;
                Some(own.remove(at) as usize)
            });
            match stays {
                Some(place) => places[place].clone_from(&self.places[place]),
                None => new.push(rule),
            }
        }
        let mut removed: Vec<u32> = known.into_values().flatten().collect();
        removed.sort_unstable();
        let mut free = 0;
        let mut added = Vec::with_capacity(new.len());
        for rule in new {
            while places.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            if free == places.len() {
                places.push(None);
            }
            places[free] = Some(Arc::clone(rule));
            added.push(free as u32);
        }
        places.truncate(places.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        // What rules remember of a baseline are places in it.
        let baseline = if is_same_baseline { &self.baseline } else { &set.baseline };
        let (names, baseline) = (Arc::clone(&set.names), Arc::clone(baseline));
        (Self { places, names, baseline, program_rules }, removed, added)
    }
}

/// What a load leaves as it was, of what rules ask besides their filters.
struct Unchanged {
    /// Every zone.
    zones: bool,
    /// The baseline, and all by which it judges.
    baseline: bool,
}

impl Unchanged {
    /// Whether a rule asks the same as before. What a filter names is compiled into it, and compared with it.
    fn is_same(&self, before: &Rule, rule: &Rule) -> bool {
        (self.zones || !rule.asks_zones()) && (self.baseline || !rule.asks_baseline()) && before == rule
    }
}

fn program_rules(rules: &RuleSet) -> impl Iterator<Item = Arc<Rule>> {
    let reports = |rule: &&Arc<Rule>| rule.detect == Detect::Process(ProcessRule::Unlearned);
    rules.rules.iter().filter(reports).cloned()
}

impl Added {
    fn filed(&self) -> (u32, &Rule, Triggers, Option<&Filter>) {
        (self.place, &self.rule, self.detector.triggers(), self.detector.secondary().map(|of| of.filter))
    }
}

impl Staged {
    /// The rules as they will be.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// How many rules begin, and how many are removed. One that changed is both.
    pub const fn changes(&self) -> (usize, usize) {
        (self.added.len(), self.removed.len())
    }

    /// Whether they were made ready to take over from these.
    pub fn is_based_on(&self, active: &Arc<Layout>) -> bool {
        Arc::ptr_eq(&self.base, active)
    }

    /// Has this called when they have taken over.
    #[must_use]
    pub fn when_replaced(mut self, act: WhenReplaced) -> Self {
        self.when_replaced = Some(act);
        self
    }

    /// The same rules, ready for a new engine.
    pub(super) fn alone(self) -> Self {
        // All of them begin.
        if self.added_index.is_none() { self } else { Self::from(&self.layout.set()) }
    }

    /// The same rules, ready to take over from others.
    pub(super) fn based_on(self, base: &Arc<Layout>) -> Self {
        if self.is_based_on(base) {
            return self;
        }
        Self { when_replaced: self.when_replaced, ..base.stage(&self.layout.set()) }
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("changes", &self.changes()).finish_non_exhaustive()
    }
}

/// For a new engine; one that has rules stages them itself when it gets them.
impl From<&RuleSet> for Staged {
    fn from(set: &RuleSet) -> Self {
        Arc::new(Layout::default()).stage(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::names::Zone;
    use crate::rules::baseline::{Entry, Place, Ports, Seen, What, Who};
    use crate::rules::model::{PathKey, PathRule, ServerRule};
    use crate::rules::testing::{rule, seconds};

    fn named(id: &str, rule: Rule) -> Rule {
        let about = crate::event::alert::RuleRef { id: id.into(), ..(*rule.about).clone() };
        Rule { about: Arc::new(about), ..rule }
    }

    fn listener(id: &str, matches: &str) -> Arc<Rule> {
        Arc::new(named(id, rule(Detect::Server(ServerRule::Listener), matches)))
    }

    fn set(rules: Vec<Arc<Rule>>) -> RuleSet {
        RuleSet { rules, names: Arc::new(Names::builtin().clone()), baseline: Arc::default() }
    }

    /// A layout of these rules, and what changes with each of the others.
    fn first(rules: Vec<Arc<Rule>>) -> Arc<Layout> {
        Arc::clone(Arc::new(Layout::default()).stage(&set(rules)).layout())
    }

    fn added(staged: &Staged) -> Vec<u32> {
        staged.added.iter().map(|own| own.place).collect()
    }

    #[test]
    fn what_stays_keeps_its_place_and_free_places_are_used_again() {
        let (a, b, c) = (listener("a", "lport:1"), listener("b", "lport:2"), listener("c", "lport:3"));
        let layout = first(vec![Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)]);
        let other = layout.stage(&set(vec![listener("c", "lport:3"), listener("a", "lport:1")]));
        assert_eq!(
            (other.removed.clone(), added(&other)),
            (vec![1], vec![]),
            "in another order, but the same"
        );
        let new = listener("d", "lport:4");
        let more = other.layout().stage(&set(vec![new, listener("a", "lport:11"), c]));
        assert_eq!((more.removed.clone(), added(&more)), (vec![0], vec![0, 1]));
        let none = more.layout().stage(&set(Vec::new()));
        assert_eq!((none.removed.clone(), none.layout().places()), (vec![0, 1, 2], 0));
    }

    #[test]
    fn only_rules_that_ask_for_a_zone_that_changed_begin_anew() {
        let names = |nets: &[&str]| {
            let mut names = Names::builtin().clone();
            let nets = nets.iter().map(|net| net.parse().expect("a network")).collect();
            names.set_zone("host", Zone::In(nets)).expect("a name");
            names.set_list("places", vec!["host".to_owned()]).expect("a name");
            names
        };
        let with = |nets: &[&str]| {
            let names = names(nets);
            let filter = |text: &str| Filter::with_names(text, &names).expect("a filter");
            let path = |by: PathKey| {
                rule(Detect::Path(PathRule::FirstSeen { by: [by].into(), learn: seconds(1) }), "dir:out")
            };
            let to = PathRule::Pivot { to: filter("-dst:host"), within: seconds(60), own: true };
            let rules = vec![
                named("port", rule(Detect::Path(PathRule::Forbidden), "dport:22 dst:rfc1918")),
                named(
                    "host",
                    Rule { matches: filter("dst:host"), ..rule(Detect::Path(PathRule::Forbidden), "") },
                ),
                named(
                    "list",
                    Rule { matches: filter("dst:@places"), ..rule(Detect::Path(PathRule::Forbidden), "") },
                ),
                named(
                    "except",
                    Rule {
                        except: [filter("dst:host")].into(),
                        ..rule(Detect::Path(PathRule::Forbidden), "dport:22")
                    },
                ),
                named("to", rule(Detect::Path(to), "dir:in")),
                named("by-zone", path(PathKey::Zone)),
                named("by-ip", path(PathKey::Ip)),
            ];
            let rules = rules.into_iter().map(Arc::new).collect();
            RuleSet { rules, names: Arc::new(names), baseline: Arc::default() }
        };
        let layout = Arc::clone(Arc::new(Layout::default()).stage(&with(&["10.0.0.1/32"])).layout());
        let same = layout.stage(&with(&["10.0.0.1/32"]));
        assert_eq!((same.removed.len(), same.added.len()), (0, 0));
        let other = layout.stage(&with(&["10.0.0.1/32", "10.0.0.2/32"]));
        assert_eq!(added(&other), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_baseline_begins_anew_with_its_entries_and_their_zones() {
        let with = |port: u16, office: &str, host: &str| {
            let mut names = Names::builtin().clone();
            for (name, net) in [("office", office), ("host", host)] {
                names.set_zone(name, Zone::In([net.parse().expect("a network")].into())).expect("a name");
            }
            let what = What::Listener { local: Place::Zone("office".into()), ports: Ports::one(port) };
            let entry = Entry { who: Who::Exe("/usr/bin/x".into()), what, seen: Seen::default() };
            let unlearned = named("unlearned", rule(Detect::Server(ServerRule::Unlearned), ""));
            RuleSet {
                rules: vec![Arc::new(unlearned), listener("other", "lport:1")],
                names: Arc::new(names),
                baseline: Arc::new(Baseline::new(vec![entry], Vec::new())),
            }
        };
        let before = with(1, "10.1.0.0/16", "10.0.0.1/32");
        let layout = Arc::clone(Arc::new(Layout::default()).stage(&before).layout());
        for (set, is_same) in [
            (with(1, "10.1.0.0/16", "10.0.0.1/32"), true),
            (with(1, "10.1.0.0/16", "10.0.0.2/32"), true),
            (with(2, "10.1.0.0/16", "10.0.0.1/32"), false),
            (with(1, "10.2.0.0/16", "10.0.0.1/32"), false),
        ] {
            let expected: &[u32] = if is_same { &[] } else { &[0] };
            assert_eq!(added(&layout.stage(&set)), expected);
        }
    }
}
