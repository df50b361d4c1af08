//! Rules and expectations of socket units.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::slice::Slices;
use super::sockets::{self, Socket};
use super::{Draft, FromUnits, address, not_known, with};
use crate::event::alert::{RuleKind, Severity};
use crate::process::socket_units::Listen;
use crate::process::unit_files::{UnitFiles, name};

/// Makes the rules of all socket units. `started`: what starts with the machine, and by what.
pub(super) fn rules(
    all: &[Socket],
    slices: &Slices<'_>,
    files: &UnitFiles,
    started: &BTreeMap<String, String>,
    found: &mut FromUnits,
) {
    let linked: BTreeSet<&str> = files.wants().map(|(_, name)| name).collect();
    for socket in all {
        if let Some(cite) = &socket.other_protocol {
            found.leave_out(&socket.name, cite, "its sockets are not TCP");
        } else {
            for (cite, reason) in socket.listens.unknown.iter().chain(&socket.listens.ignored) {
                found.leave_out(&socket.name, cite, reason.as_str());
            }
            expectations(socket, all, &linked, started, found);
            addresses(socket, slices, found);
        }
        others(socket, found);
    }
}

/// That it listens, if it starts with the machine.
fn expectations(
    socket: &Socket,
    all: &[Socket],
    linked: &BTreeSet<&str>,
    started: &BTreeMap<String, String>,
    found: &mut FromUnits,
) {
    let unit = socket.name.as_str();
    let by = started.get(unit);
    for (listen, cite) in &socket.listens.items {
        let Some(by) = by else {
            let reason = if name::is_template(unit) {
                "not expected: it is a template, whose instances are looked at for themselves"
            } else {
                "not expected: it is installed, and nothing that starts with the machine starts it"
            };
            found.leave_out(unit, cite, reason);
            continue;
        };
        let mut off: Vec<String> = Vec::new();
        off.extend(
            socket.conditions.iter().map(|cite| format!("whether {} holds is not looked at", cite.place())),
        );
        let rivals = all.iter().filter(|other| other.name != unit && other.collides(*listen));
        // conn reports whose a listener of systemd is by the unit files, and of several by which is linked to.
        let rivals = rivals.filter(|other| !linked.contains(unit) || linked.contains(other.name.as_str()));
        off.extend(
            rivals
                .map(|other| format!("{} has the same place, and conn cannot know whose it is", other.name)),
        );
        found.add(Draft {
            unit,
            what: format!("listen-{}", place(*listen)),
            kind: RuleKind::Missing,
            asks: "listener",
            title: format!("{unit} does not listen on {}", sockets::shown(*listen)),
            why: format!("systemd listens there from the start on, because {by} starts it"),
            severity: Severity::Medium,
            matches: with(&format!("unit:{unit}"), &sockets::words(*listen)),
            except: Vec::new(),
            cites: vec![cite.clone()],
            notes: vec![format!("Expected: {by} starts it.")],
            off,
        });
    }
}

fn place(listen: Listen) -> String {
    match listen {
        Listen::Port(port) => port.to_string(),
        Listen::Address(at) => format!("{}-{}", at.ip(), at.port()),
    }
}

/// Who may connect to its sockets.
fn addresses(socket: &Socket, slices: &Slices<'_>, found: &mut FromUnits) {
    let (unit, policy) = (socket.name.as_str(), &socket.policy);
    if policy.ip.is_empty() {
        return;
    }
    if !socket.is_tcp() {
        for cite in [policy.ip.deny.cites(), policy.ip.allow.cites()].concat() {
            found.leave_out(unit, &cite, "it does not listen by TCP");
        }
        return;
    }
    let mut off = Vec::new();
    let access = match slices.of_service(unit, policy) {
        Ok(slice) => policy.ip.with(&slices.access(&slice)),
        Err(reason) => {
            off.push(format!("which slice it is in is not known: {reason}"));
            policy.ip.clone()
        }
    };
    let denied = access.denied();
    if denied.is_empty() {
        found.no_address_denied(unit, &access);
        return;
    }
    if socket.listens.items.is_empty() {
        for cite in [access.deny.cites(), access.allow.cites()].concat() {
            found.leave_out(unit, &cite, "where it listens is not known");
        }
        return;
    }
    let mut except = Vec::new();
    let allowed = access.allowed();
    if !allowed.is_empty() {
        except.push(format!("raddr:{}", address::values(&allowed)));
    }
    off.extend(not_known(&access.allow));
    found.add(Draft {
        unit,
        what: "addresses".to_owned(),
        kind: RuleKind::Path,
        asks: "forbidden",
        title: format!("An address comes in by {unit} that the unit denies"),
        why: "IPAddressDeny= of a socket unit holds for the sockets that systemd makes for it".to_owned(),
        severity: Severity::High,
        matches: with(&format!("dir:in {}", ends(socket)), &format!("raddr:{}", address::values(&denied))),
        except,
        cites: [access.deny.cites(), access.allow.cites()].concat(),
        notes: Vec::new(),
        off,
    });
}

/// The local ends of its connections: addresses only if none of its sockets is for all of them.
fn ends(socket: &Socket) -> String {
    let listens: Vec<Listen> = socket.listens.items.iter().map(|(listen, _)| *listen).collect();
    let ports: BTreeSet<u16> = listens.iter().map(|listen| sockets::port(*listen)).collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let one = |listen: &Listen| match listen {
        Listen::Address(at) if !at.ip().is_unspecified() => Some(address_of(*at)),
        _ => None,
    };
    let addresses: Option<BTreeSet<String>> = listens.iter().map(one).collect();
    let addresses = addresses
        .map_or_else(String::new, |all| format!("laddr:{}", all.into_iter().collect::<Vec<_>>().join(",")));
    with(&format!("lport:{}", ports.join(",")), &addresses)
}

fn address_of(at: SocketAddr) -> String {
    at.ip().to_canonical().to_string()
}

/// What concerns only systemd itself, or the commands that a socket unit may have.
fn others(socket: &Socket, found: &mut FromUnits) {
    let (unit, policy) = (socket.name.as_str(), &socket.policy);
    if let Some((true, cite)) = &policy.private_network {
        found.leave_out(
            unit,
            cite,
            "it listens in a namespace of its own; what reaches that is not in the file",
        );
    }
    if let Some(cite) = &policy.namespace_path {
        found.leave_out(unit, cite, "which network that namespace has is not in the unit file");
    }
    for cite in &policy.families.cites {
        found.leave_out(unit, cite, "holds for the commands of the socket unit only, not for its sockets");
    }
    for cite in [policy.binds.deny.cites(), policy.binds.allow.cites()].concat() {
        found.leave_out(unit, &cite, "only systemd binds the sockets of a socket unit");
    }
    found.leave_out_of(unit, policy);
}
