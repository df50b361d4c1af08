//! What systemd units say about the network, as rules: `conn learn --from-units`. Reference: `docs/learn.md`.
//!
//! Unit files are read and merged as systemd does ([`crate::process::unit_files`]). What a unit says ([`policy`]) becomes rules
//! of its type ([`service`], [`mod@slice`], [`socket`]), each of which cites file and line; what cannot is reported with the reason.

mod address;
mod bind;
mod cite;
mod families;
mod policy;
mod service;
mod slice;
mod socket;
mod sockets;
mod specifier;
mod start;
mod text;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::cite::{Cite, Merged};
use self::policy::Policy;
use self::sockets::Socket;
use super::write::{Ids, LearnedRule};
use crate::event::alert::{RuleKind, Severity};
use crate::filter::Filter;
use crate::process::unit_files::{Unit, UnitFiles, name};

/// Places that a rule's `why` names; its comments have all.
const PLACES: usize = 3;

/// What was learnt from units.
#[derive(Debug, Default)]
pub struct FromUnits {
    /// Rules, in the order of the units' names: services, slices, sockets.
    pub rules: Vec<LearnedRule>,
    /// What no rule says.
    pub left_out: Vec<LeftOut>,
    /// How many units have a file.
    pub units: usize,
    /// How many are masked.
    pub masked: usize,
    ids: Ids,
}

/// Something that a unit says and no rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The unit.
    pub unit: String,
    /// Where it says so.
    pub place: String,
    /// Why there is no rule.
    pub reason: String,
}

/// A rule in the making.
struct Draft<'a> {
    unit: &'a str,
    /// Last part of its id.
    what: String,
    kind: RuleKind,
    asks: &'static str,
    title: String,
    /// Why it exists, without the places.
    why: String,
    severity: Severity,
    matches: String,
    except: Vec<String>,
    cites: Vec<Cite>,
    notes: Vec<String>,
    /// Why it is not active, each a reason.
    off: Vec<String>,
}

/// Makes rules of all units that the folders have.
pub fn learn(files: &UnitFiles) -> FromUnits {
    let mut found =
        FromUnits { units: files.names().count(), masked: files.masked(), ..FromUnits::default() };
    for path in files.odd() {
        let reason = "its name is none of a unit: systemd ignores the file".to_owned();
        found.left_out.push(LeftOut { unit: String::new(), place: crate::event::escape::path(path), reason });
    }
    if files.beyond() > 0 {
        let reason = format!("{} units were not looked at: there are too many", files.beyond());
        found.left_out.push(LeftOut { unit: String::new(), place: String::new(), reason });
    }
    let started = start::started(files);
    let named = names(files, &started);
    let (units, unread): (Vec<Unit>, Vec<Unit>) =
        named.iter().filter_map(|name| files.load(name)).partition(|unit| unit.unread.is_empty());
    for unit in &unread {
        for (path, error) in &unit.unread {
            let reason =
                format!("cannot be read ({error}): what the unit says is not known, and it has no rules");
            found.left_out.push(LeftOut {
                unit: unit.name.clone(),
                place: crate::event::escape::path(path),
                reason,
            });
        }
    }
    let of_type = |kind| units.iter().filter(move |unit| name::is_a(&unit.name, kind));
    let sockets: Vec<Socket> = of_type("socket").map(|unit| Socket::of(unit, files)).collect();
    let slices =
        slice::Slices::new(files, &of_type("slice").map(|unit| unit.name.as_str()).collect::<Vec<_>>());
    let services: BTreeMap<String, Policy> =
        of_type("service").map(|unit| (unit.name.clone(), Policy::of(unit, "Service"))).collect();
    let owners = service::rules(&services, &sockets, &slices, &mut found);
    slices.rules(&owners, &sockets, &mut found);
    socket::rules(&sockets, &slices, files, &started, &mut found);
    found
}

/// Every unit, template and instance of which something is known: by a file, a link, a folder of drop-ins, or because it is
/// started.
fn names(files: &UnitFiles, started: &BTreeMap<String, String>) -> BTreeSet<String> {
    let others =
        files.wants().map(|(_, name)| name).chain(files.changed()).chain(started.keys().map(String::as_str));
    let others = others.filter(|other| name::is_valid(other)).filter_map(|other| files.real_name(other));
    files.names().map(str::to_owned).chain(others).collect()
}

impl FromUnits {
    /// Adds a rule; one whose filter is none (it is too long) is left out and reported.
    fn add(&mut self, draft: Draft<'_>) {
        let wrong =
            [&draft.matches].into_iter().chain(&draft.except).find_map(|filter| Filter::new(filter).err());
        if let Some(error) = wrong {
            for cite in draft.cites {
                self.leave_out(draft.unit, &cite, error.message.clone());
            }
            return;
        }
        let mut places: Vec<String> = draft.cites.iter().take(PLACES).map(Cite::place).collect();
        if draft.cites.len() > PLACES {
            places.push(format!("and {} more", draft.cites.len() - PLACES));
        }
        let comments = draft.cites.iter().map(Cite::to_string).chain(draft.notes).collect();
        let off = (!draft.off.is_empty()).then(|| draft.off.join("; "));
        self.rules.push(LearnedRule {
            comments,
            id: self.ids.of(&["unit", draft.unit, &draft.what]),
            kind: draft.kind,
            asks: draft.asks,
            title: draft.title,
            why: format!("{} ({})", draft.why, places.join(", ")),
            severity: draft.severity,
            matches: draft.matches,
            except: draft.except,
            off,
        });
    }

    fn leave_out(&mut self, unit: &str, cite: &Cite, reason: impl Into<String>) {
        self.left_out.push(LeftOut { unit: unit.to_owned(), place: cite.to_string(), reason: reason.into() });
    }

    /// Reports what no rule can say, and of what systemd ignores.
    fn leave_out_of(&mut self, unit: &str, policy: &Policy) {
        for (cite, reason) in &policy.not_said {
            self.leave_out(unit, cite, *reason);
        }
        for (cite, reason) in policy.all_ignored() {
            self.leave_out(unit, cite, reason.as_str());
        }
        let lists = [&policy.ip.allow.unknown, &policy.ip.deny.unknown];
        for (cite, reason) in
            lists.into_iter().chain([&policy.binds.allow.unknown, &policy.binds.deny.unknown]).flatten()
        {
            self.leave_out(unit, cite, reason.as_str());
        }
    }
}

/// Why a rule must not be active: what its unit allows is not known in full.
fn not_known<T>(allowed: &Merged<T>) -> impl Iterator<Item = String> {
    allowed
        .unknown
        .iter()
        .map(|(cite, reason)| format!("what {} allows is not known: {reason}", cite.place()))
}

/// Adds words to a filter.
fn with(words: &str, more: &str) -> String {
    [words, more].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}
