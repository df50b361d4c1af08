//! Rules of services.

use std::collections::BTreeMap;

use super::address::IpAccess;
use super::policy::Policy;
use super::slice::Slices;
use super::sockets::{Activated, Socket};
use super::{Draft, FromUnits, address, not_known, with};
use crate::event::alert::{RuleKind, Severity};
use crate::process::unit_files::name;

/// A service with what its rules need.
struct Service<'a> {
    name: &'a str,
    policy: &'a Policy,
    /// Words of a filter for its processes.
    scope: String,
    activated: Activated,
    /// Why what concerns single processes may not concern all of them.
    privileged: Vec<String>,
}

/// Makes the rules of all services, and returns the words for those that have IP lists of their own: the rules of slices
/// leave these out.
pub(super) fn rules(
    services: &BTreeMap<String, Policy>,
    sockets: &[Socket],
    slices: &Slices<'_>,
    found: &mut FromUnits,
) -> Vec<String> {
    let mut owners = Vec::new();
    // An instance that says what its template says is among those that the template's rules are about.
    let template =
        |name: &str| name::template_of(name).and_then(|template| services.get_key_value(&template));
    let is_own =
        |name: &str, policy: &Policy| template(name).is_none_or(|(_, of_template)| of_template != policy);
    let own: Vec<_> = services.iter().filter(|(name, policy)| is_own(name, policy)).collect();
    for (name, policy) in &own {
        let apart: Vec<&str> = own
            .iter()
            .filter(|(instance, _)| template(instance).is_some_and(|(template, _)| template == *name))
            .map(|(instance, _)| instance.as_str())
            .collect();
        let unit = name.replacen("@.", "@*.", 1);
        let mut scope = format!("unit:{unit} -user_unit:{unit}");
        if !apart.is_empty() {
            scope = format!("{scope} -unit:{}", apart.join(","));
        }
        let commands = policy.privileged.iter();
        let service = Service {
            name,
            policy,
            scope,
            activated: Activated::of(name, sockets),
            privileged: commands
                .map(|(_, cite)| format!("the command at {} runs with full privileges (+)", cite.place()))
                .collect(),
        };
        service.private_network(&own, found);
        service.families(found);
        service.addresses(slices, found);
        service.binds(found);
        found.leave_out_of(name, policy);
        if !policy.ip.is_empty() {
            owners.push(unit);
        }
    }
    owners
}

impl Service<'_> {
    fn draft(&self, what: &str) -> Draft<'_> {
        Draft {
            unit: self.name,
            what: what.to_owned(),
            kind: RuleKind::Path,
            asks: "forbidden",
            title: String::new(),
            why: String::new(),
            severity: Severity::High,
            matches: String::new(),
            except: self.activated.except().into_iter().collect(),
            cites: Vec::new(),
            notes: self.notes(),
            off: self.off(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let note = "What comes by the sockets that systemd listens on for it is excepted: systemd made them.";
        if self.activated.ports.is_empty() { Vec::new() } else { vec![note.to_owned()] }
    }

    /// Why a rule on what the service does with its own sockets cannot be active.
    fn off(&self) -> Vec<String> {
        let unknown = self.activated.unknown.iter();
        unknown.map(|cite| format!("where its socket unit listens is not known ({})", cite.place())).collect()
    }

    fn private_network(&self, services: &[(&String, &Policy)], found: &mut FromUnits) {
        let policy = self.policy;
        if let Some(path) = &policy.namespace_path {
            found.leave_out(self.name, path, "which network that namespace has is not in the unit file");
        }
        let Some((true, cite)) = &policy.private_network else {
            if let Some((_, cite)) = &policy.private_network {
                found.leave_out(self.name, cite, "it shares the network of the machine");
            }
            return;
        };
        if let Some(path) = &policy.namespace_path {
            let reason = format!("has no effect beside NetworkNamespacePath= ({})", path.place());
            found.leave_out(self.name, cite, reason);
            return;
        }
        let mut draft = self.draft("private-network");
        let joined = policy.joins.iter().map(|(other, cite)| {
            format!("it joins the namespace of {other} ({}), which may be given a network", cite.place())
        });
        let joiners =
            services.iter().flat_map(|(other, of_other)| of_other.joins.iter().map(move |one| (other, one)));
        let joiners = joiners.filter(|(_, (joined, _))| joined == self.name);
        let joiners =
            joiners.map(|(other, (_, cite))| format!("{other} joins its namespace ({})", cite.place()));
        draft.off.extend(joined.chain(joiners));
        draft.off.extend(self.privileged.iter().cloned());
        draft.title =
            format!("{} has a network of its own without a way out, and talks to another host", self.name);
        "PrivateNetwork=yes leaves it a loopback interface and nothing else".clone_into(&mut draft.why);
        draft.matches = with(&self.scope, "-raddr:127.0.0.0/8,::1");
        draft.cites = vec![cite.clone()];
        found.add(draft);
    }

    fn families(&self, found: &mut FromUnits) {
        let families = &self.policy.families;
        let (v4, v6) = (families.denies("AF_INET"), families.denies("AF_INET6"));
        // A connection of an IPv6 socket with IPv4-mapped addresses is IPv4 for filters.
        let (what, words, except) = match (v4, v6) {
            (false, false) => {
                for cite in &families.cites {
                    found.leave_out(self.name, cite, "it may make sockets of IPv4 and of IPv6");
                }
                return;
            }
            (true, true) => ("an IP socket", "", None),
            (true, false) => ("an IPv4 socket", "family:ipv4 -mapped:true", None),
            (false, true) => ("an IPv6 socket", "", Some("family:ipv4 -mapped:true")),
        };
        let mut draft = self.draft("families");
        draft.kind = RuleKind::Process;
        draft.asks = "network";
        draft.title = format!("{} may not have {what}, and uses one", self.name);
        "RestrictAddressFamilies= denies it the system call socket() for that family"
            .clone_into(&mut draft.why);
        draft.matches = with(&self.scope, words);
        draft.except.extend(except.map(str::to_owned));
        draft.cites.clone_from(&families.cites);
        draft.off.extend(self.privileged.iter().cloned());
        found.add(draft);
    }

    fn addresses(&self, slices: &Slices<'_>, found: &mut FromUnits) {
        let policy = self.policy;
        if policy.ip.is_empty() {
            return;
        }
        let mut draft = self.draft("addresses");
        let access = match slices.of_service(self.name, policy) {
            Ok(slice) => policy.ip.with(&slices.access(&slice)),
            Err(reason) => {
                draft.off.push(format!("which slice it is in is not known: {reason}"));
                policy.ip.clone()
            }
        };
        let denied = access.denied();
        if denied.is_empty() {
            found.no_address_denied(self.name, &access);
            return;
        }
        draft.title = format!("{} talks to an address that its unit denies it", self.name);
        "IPAddressDeny= drops these packets, and IPAddressAllow= does not let them pass"
            .clone_into(&mut draft.why);
        draft.matches = with(&self.scope, &format!("raddr:{}", address::values(&denied)));
        let allowed = access.allowed();
        if !allowed.is_empty() {
            draft.except.push(format!("raddr:{}", address::values(&allowed)));
        }
        draft.cites = [access.deny.cites(), access.allow.cites()].concat();
        draft.off.extend(not_known(&access.allow));
        found.add(draft);
    }

    fn binds(&self, found: &mut FromUnits) {
        found.binds(self.name, self.name, &self.scope, &self.policy.binds);
    }
}

impl FromUnits {
    /// Reports that IP lists deny nothing.
    pub(super) fn no_address_denied(&mut self, unit: &str, access: &IpAccess) {
        for cite in [access.deny.cites(), access.allow.cites()].concat() {
            self.leave_out(unit, &cite, "no address is denied that is not allowed");
        }
    }

    /// Rules for what the processes of a unit may not bind to. `who`: they, for people; `scope`: in a filter.
    pub(super) fn binds(&mut self, unit: &str, who: &str, scope: &str, binds: &super::bind::Binds) {
        let forbidden = binds.forbidden();
        if forbidden.is_empty() {
            for cite in [binds.deny.cites(), binds.allow.cites()].concat() {
                self.leave_out(unit, &cite, "nothing of TCP is denied that is not allowed");
            }
        }
        for one in forbidden {
            let family = one.family.map_or_else(String::new, |family| format!("-{}", family.name()));
            self.add(Draft {
                unit,
                what: format!("bind{family}"),
                kind: RuleKind::Server,
                asks: "listener",
                title: format!("{who} listens where {unit} does not let it"),
                why:
                    "SocketBindDeny= denies it the system call bind(), and SocketBindAllow= does not allow it"
                        .to_owned(),
                severity: Severity::High,
                matches: with(scope, &one.words),
                except: one.except,
                cites: [binds.deny.cites(), binds.allow.cites()].concat(),
                notes: Vec::new(),
                off: not_known(&binds.allow).collect(),
            });
        }
    }
}
