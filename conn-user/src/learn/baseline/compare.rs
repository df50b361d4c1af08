//! Whether one baseline has what another one has, however each says it: an address by a network or a zone, a program or a
//! unit by a glob, a port by a range. What rules would make of it decides, as in [`crate::rules::baseline::Baseline`].

use std::collections::HashMap;

use crate::filter::glob::Glob;
use crate::filter::{IpRanges, IpSet, Names};
use crate::rules::baseline::{Entry, Place, Ports, What, Who};

/// An entry with the addresses that it means.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) entry: &'a Entry,
    addresses: IpSet,
}

/// The entries of a baseline, by whose they are.
#[derive(Debug)]
pub(super) struct Known<'i, 'a> {
    by_who: HashMap<&'a Who, Vec<&'i Item<'a>>>,
    globs: Vec<(&'a Who, Glob)>,
}

/// Entries with what their zones mean by `names`, those of their file.
pub(super) fn items<'a>(entries: &'a [Entry], names: &Names) -> Vec<Item<'a>> {
    let item = |entry: &'a Entry| Item { entry, addresses: addresses(&entry.what, names) };
    entries.iter().map(item).collect()
}

fn addresses(what: &What, names: &Names) -> IpSet {
    match what.place() {
        Some(Place::Net(net)) => IpSet::of(&[*net]),
        Some(Place::Zone(name)) => names.zone_set(name).cloned().unwrap_or_else(|| IpSet::of(&[])),
        None => IpSet::of(&[]),
    }
}

impl<'i, 'a> Known<'i, 'a> {
    /// Of these.
    pub(super) fn of(items: &'i [Item<'a>]) -> Self {
        let mut by_who = HashMap::<&Who, Vec<&Item<'_>>>::new();
        for item in items {
            by_who.entry(&item.entry.who).or_default().push(item);
        }
        let globs = by_who.keys().filter_map(|who| Some((*who, glob(who)?))).collect();
        Self { by_who, globs }
    }

    /// Those of `items` that are not known here: something fits them that fits none of these.
    pub(super) fn new_in<'b>(&self, items: &[Item<'b>]) -> Vec<&'b Entry> {
        without(items, |who| self.covering(who), has_all)
    }

    /// Those of `items` of which nothing is here: what fits them fits none of these.
    pub(super) fn gone_from<'b>(&self, items: &[Item<'b>]) -> Vec<&'b Entry> {
        without(items, |who| self.meeting(who), has_some)
    }

    /// What is known of everybody whom this name means.
    fn covering(&self, who: &Who) -> Vec<&'i Item<'a>> {
        let name = Glob::new(who.words().1);
        let globs = self.globs.iter().filter(|(own, glob)| is_alike(own, who) && glob.covers(&name));
        self.of_these(who, globs.map(|(own, _)| *own))
    }

    /// What is known of somebody whom this name means.
    fn meeting(&self, who: &Who) -> Vec<&'i Item<'a>> {
        let name = Glob::new(who.words().1);
        let is_glob = glob(who).is_some();
        let globs = self.globs.iter().filter(|(own, glob)| is_alike(own, who) && glob.covers(&name));
        let narrower = self
            .by_who
            .keys()
            .filter(|own| is_glob && is_alike(own, who) && name.covers(&Glob::new(own.words().1)));
        self.of_these(who, globs.map(|(own, _)| *own).chain(narrower.copied()))
    }

    fn of_these(&self, who: &Who, others: impl Iterator<Item = &'a Who>) -> Vec<&'i Item<'a>> {
        let own = self.by_who.get(who).into_iter().flatten();
        let others =
            others.filter(|other| *other != who).filter_map(|other| self.by_who.get(other)).flatten();
        own.chain(others).copied().collect()
    }
}

/// Those of `items` for which those `of` the same name do not have it.
fn without<'i, 'a: 'i, 'b>(
    items: &[Item<'b>],
    of: impl Fn(&Who) -> Vec<&'i Item<'a>>,
    has: fn(&[&Item<'a>], &Item<'b>) -> bool,
) -> Vec<&'b Entry> {
    let mut by_who = HashMap::<&Who, Vec<&Item<'a>>>::new();
    let mut lacks = |item: &&Item<'b>| {
        let others = by_who.entry(&item.entry.who).or_insert_with(|| of(&item.entry.who));
        !has(others, item)
    };
    items.iter().filter(|item| lacks(item)).map(|item| item.entry).collect()
}

fn glob(who: &Who) -> Option<Glob> {
    let (_, name) = who.words();
    Glob::is_glob(name).then(|| Glob::new(name))
}

fn is_alike(one: &Who, other: &Who) -> bool {
    one.words().0 == other.words().0
}

/// Whether whatever fits `item` fits one of these.
fn has_all(known: &[&Item<'_>], item: &Item<'_>) -> bool {
    if let What::Program { exe } = &item.entry.what {
        return has_program(known, |own| Glob::new(own).covers(&Glob::new(exe)));
    }
    // Several may have it together.
    let mut together = IpRanges::default();
    for own in known {
        match own.meaning(item) {
            Some((ports, others)) if ports.low <= others.low && others.high <= ports.high => {
                if own.entry.what.place() == item.entry.what.place() && own.addresses == item.addresses {
                    return true;
                }
                if own.may_hold(item) {
                    together.add_set(&own.addresses);
                }
            }
            _ => {}
        }
    }
    !item.addresses.is_empty() && IpSet::from(together).contains_set(&item.addresses)
}

/// Whether something that fits `item` fits one of these.
fn has_some(known: &[&Item<'_>], item: &Item<'_>) -> bool {
    if let What::Program { exe } = &item.entry.what {
        let exe = Glob::new(exe);
        return has_program(known, |own| {
            let own = Glob::new(own);
            own.covers(&exe) || exe.covers(&own)
        });
    }
    known.iter().any(|own| {
        own.meaning(item).is_some_and(|(ports, others)| ports.low <= others.high && others.low <= ports.high)
            && (own.entry.what.place() == item.entry.what.place() || own.addresses.meets(&item.addresses))
    })
}

/// A unit of which no program is listed may run any.
fn has_program(known: &[&Item<'_>], fits: impl Fn(&str) -> bool) -> bool {
    let mut programs = known.iter().filter_map(|own| match &own.entry.what {
        What::Program { exe } => Some(exe),
        _ => None,
    });
    match programs.next() {
        None => !known.is_empty(),
        Some(first) => fits(first) || programs.any(|exe| fits(exe)),
    }
}

impl Item<'_> {
    /// The ports of both, if both are listeners, or connections of one direction.
    fn meaning(&self, other: &Item<'_>) -> Option<(Ports, Ports)> {
        match (&self.entry.what, &other.entry.what) {
            (
                What::Connection { direction, ports, .. },
                What::Connection { direction: of, ports: others, .. },
            ) if direction == of => Some((*ports, *others)),
            (What::Listener { ports, .. }, What::Listener { ports: others, .. }) => Some((*ports, *others)),
            _ => None,
        }
    }

    /// A listener on all addresses is only one on all addresses: that all of them are named otherwise says nothing.
    fn may_hold(&self, other: &Item<'_>) -> bool {
        let is_all = |what: &What| matches!(what, What::Listener { local: Place::Net(net), .. } if net.prefix_len() == 0);
        !is_all(&other.entry.what) || is_all(&self.entry.what)
    }
}
