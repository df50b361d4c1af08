//! Rules of slices, and what they mean for the units in them.

use std::collections::{BTreeMap, BTreeSet};

use super::address::{self, IpAccess};
use super::policy::Policy;
use super::sockets::{self, Socket};
use super::{Draft, FromUnits, not_known, with};
use crate::event::alert::{RuleKind, Severity};
use crate::process::unit_files::{UnitFiles, name};

/// Where services are that name no slice.
const SYSTEM: &str = "system.slice";

/// The slices that say something about the network.
pub(super) struct Slices<'f> {
    files: &'f UnitFiles,
    policies: BTreeMap<String, Policy>,
}

impl<'f> Slices<'f> {
    /// Those of these names.
    pub(super) fn new(files: &'f UnitFiles, names: &[&str]) -> Self {
        let policy = |name: &&str| Some(((*name).to_owned(), policy(files, name)?));
        let policies = names.iter().filter_map(policy).filter(|(_, policy)| *policy != Policy::default());
        Self { files, policies: policies.collect() }
    }

    /// The slice of a service (`unit_set_default_slice` in src/core/unit.c).
    pub(super) fn of_service(&self, unit: &str, policy: &Policy) -> Result<String, String> {
        match &policy.slice {
            Some((Ok(slice), _)) if name::is_valid(slice) && name::is_a(slice, "slice") => Ok(slice.clone()),
            // It matters only if a slice says something.
            _ if self.policies.values().all(|policy| policy.ip.is_empty()) => Ok(SYSTEM.to_owned()),
            Some((Err(reason), _)) => Err(reason.clone()),
            Some((Ok(_), cite)) => Err(format!("{} names none", cite.place())),
            None if name::instance(unit).is_some() => {
                Ok(format!("system-{}.slice", name::escape(name::prefix(unit))))
            }
            None => Ok(SYSTEM.to_owned()),
        }
    }

    /// The IP lists of a slice and those that it is in.
    pub(super) fn access(&self, slice: &str) -> IpAccess {
        let mut access = IpAccess::default();
        for name in name::slices(slice) {
            let own = self.policies.get(&name).cloned().or_else(|| policy(self.files, &name));
            access = access.with(&own.unwrap_or_default().ip);
        }
        access
    }

    /// Makes the rules of all slices. `owners`: words for the units that have IP lists of their own, and so rules that have
    /// those of their slices.
    pub(super) fn rules(&self, owners: &[String], sockets: &[Socket], found: &mut FromUnits) {
        for (name, policy) in &self.policies {
            self.addresses(name, policy, owners, sockets, found);
            found.binds(name, &format!("A unit in {name}"), &scope(name), &policy.binds);
            found.leave_out_of(name, policy);
        }
    }

    fn addresses(
        &self,
        slice: &str,
        policy: &Policy,
        owners: &[String],
        sockets: &[Socket],
        found: &mut FromUnits,
    ) {
        if policy.ip.is_empty() {
            return;
        }
        let access = self.access(slice);
        let denied = access.denied();
        if denied.is_empty() {
            found.no_address_denied(slice, &policy.ip);
            return;
        }
        let inner =
            self.policies.iter().filter(|(inner, policy)| is_in(inner, slice) && !policy.ip.is_empty());
        let inner: Vec<String> = inner.flat_map(|(inner, _)| words(inner)).collect();
        let mut matches = scope(slice);
        if !owners.is_empty() {
            matches = with(&matches, &format!("-unit:{}", owners.join(",")));
        }
        if !inner.is_empty() {
            matches = with(&matches, &format!("-slice:{}", inner.join(",")));
        }
        let mut except = Vec::new();
        let allowed = access.allowed();
        if !allowed.is_empty() {
            except.push(format!("raddr:{}", address::values(&allowed)));
        }
        let own = sockets.iter().filter(|socket| socket.is_tcp() && !socket.policy.ip.is_empty());
        let ports: BTreeSet<u16> = own
            .clone()
            .flat_map(|socket| &socket.listens.items)
            .map(|(listen, _)| sockets::port(*listen))
            .collect();
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        if !ports.is_empty() {
            except.push(format!("-dir:out lport:{}", ports.join(",")));
        }
        let unknown = own.flat_map(|socket| &socket.listens.unknown);
        let unknown =
            unknown.map(|(cite, _)| format!("where a socket unit listens is not known ({})", cite.place()));
        found.add(Draft {
            unit: slice,
            what: "addresses".to_owned(),
            kind: RuleKind::Path,
            asks: "forbidden",
            title: format!("A unit in {slice} talks to an address that the slice denies it"),
            why: "IPAddressDeny= of the slice holds for every unit in it".to_owned(),
            severity: Severity::High,
            matches: with(&matches, &format!("raddr:{}", address::values(&denied))),
            except,
            cites: [access.deny.cites(), access.allow.cites()].concat(),
            notes: Vec::new(),
            off: not_known(&access.allow).chain(unknown).collect(),
        });
    }
}

fn policy(files: &UnitFiles, slice: &str) -> Option<Policy> {
    files.load(slice).map(|unit| Policy { slice: None, joins: Vec::new(), ..Policy::of(&unit, "Slice") })
}

/// What `foo-.slice.d` concerns: every slice whose name begins so.
fn is_prefix(slice: &str) -> bool {
    slice != "-.slice" && slice.ends_with("-.slice")
}

/// Values for the key `slice`: the slice and those in it.
fn words(slice: &str) -> Vec<String> {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if is_prefix(slice) {
        vec![format!("{stem}*.slice")]
    } else {
        vec![slice.to_owned(), format!("{stem}-*.slice")]
    }
}

/// Words of a filter for the processes of a slice.
fn scope(slice: &str) -> String {
    if slice == "-.slice" { "unit:*".to_owned() } else { format!("slice:{}", words(slice).join(",")) }
}

/// Whether a slice is in another one.
fn is_in(inner: &str, outer: &str) -> bool {
    let stem = |slice: &str| slice.strip_suffix(".slice").unwrap_or(slice).trim_end_matches('-').to_owned();
    let (own, of_outer) = (stem(inner), stem(outer));
    // `user-.slice` lies in `user.slice`, and not the other way round.
    let is_below = own.starts_with(&format!("{of_outer}-")) || (own == of_outer && is_prefix(inner));
    inner != outer && (outer == "-.slice" || is_below)
}
