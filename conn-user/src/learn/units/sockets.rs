//! Socket units: where they listen (systemd.socket(5)), and which service they start.

use std::net::SocketAddr;

use super::cite::{self, Cite, Merged};
use super::policy::Policy;
use super::specifier;
use crate::process::socket_units::Listen;
use crate::process::unit_files::{Unit, UnitFiles, name, syntax};

/// A socket unit.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// Its name.
    pub(super) name: String,
    /// `ListenStream=` of TCP.
    pub(super) listens: Merged<Listen>,
    /// The service that gets its sockets. `None`: each connection gets one of its own, or it is not known.
    pub(super) service: Option<String>,
    /// `SocketProtocol=` where it makes the sockets other than TCP.
    pub(super) other_protocol: Option<Cite>,
    /// `ConditionPathExists=` and its parentage: it starts only if they hold.
    pub(super) conditions: Vec<Cite>,
    /// The rest.
    pub(super) policy: Policy,
}

impl Socket {
    /// What a unit says.
    pub(super) fn of(unit: &Unit, files: &UnitFiles) -> Self {
        let mut socket = Self {
            name: unit.name.clone(),
            listens: Merged::default(),
            service: unit.name.strip_suffix(".socket").map(|stem| format!("{stem}.service")),
            other_protocol: None,
            conditions: conditions(unit),
            policy: Policy::of(unit, "Socket"),
        };
        let mut accepts = false;
        for (cite, key, value) in cite::of_section(unit, "Socket") {
            match key {
                // An empty one takes back all of them, whatever their kind.
                key if key.starts_with("Listen") && value.is_empty() => socket.listens = Merged::default(),
                // Whatever a path goes on with, it is none of TCP.
                "ListenStream" if value.starts_with(['/', '@']) => {
                    socket.listens.ignored.push((cite, "a Unix socket: conn watches TCP".to_owned()));
                }
                "ListenStream" => socket.listens.assign(unit, &cite, value, |value| vec![listen(value)]),
                "Accept" => accepts = syntax::boolean(value).unwrap_or(accepts),
                "Service" => socket.service = specifier::expand(value, &unit.name).ok(),
                "SocketProtocol" => {
                    socket.other_protocol = (!matches!(value, "" | "tcp" | "mptcp")).then_some(cite);
                }
                _ => {}
            }
        }
        socket.service = socket.service.filter(|_| !accepts).and_then(|service| files.real_name(&service));
        socket
    }

    /// Whether it listens by TCP, or may.
    pub(super) const fn is_tcp(&self) -> bool {
        self.other_protocol.is_none() && !(self.listens.items.is_empty() && self.listens.unknown.is_empty())
    }

    /// Whether both want to listen at one place.
    pub(super) fn collides(&self, listen: Listen) -> bool {
        let place = |listen: Listen| match listen {
            Listen::Port(port) => (port, None),
            Listen::Address(at) => {
                (at.port(), Some(at.ip().to_canonical()).filter(|ip| !ip.is_unspecified()))
            }
        };
        self.is_tcp() && self.listens.items.iter().any(|(own, _)| place(*own) == place(listen))
    }
}

/// Port of a place to listen.
pub(super) const fn port(listen: Listen) -> u16 {
    match listen {
        Listen::Port(port) => port,
        Listen::Address(at) => at.port(),
    }
}

/// An address, for people.
pub(super) fn shown(listen: Listen) -> String {
    match listen {
        Listen::Port(port) => format!("port {port}"),
        Listen::Address(at) => at.to_string(),
    }
}

/// As words of a filter. A port alone is `::`, and `0.0.0.0` where there is no IPv6 (`socket_address_parse` in
/// src/shared/socket-netlink.c).
pub(super) fn words(listen: Listen) -> String {
    match listen {
        Listen::Port(port) => format!("lport:{port} laddr:0.0.0.0,::"),
        Listen::Address(at) => {
            let at = SocketAddr::new(at.ip().to_canonical(), at.port());
            format!("lport:{} laddr:{}", at.port(), at.ip())
        }
    }
}

fn listen(value: &str) -> Result<Listen, String> {
    Listen::parse(value).ok_or_else(|| {
        let vsock = value.starts_with("vsock:");
        let reason =
            if vsock { "a vsock: conn watches TCP" } else { "systemd ignores it: it is no address and port" };
        reason.to_owned()
    })
}

/// `Condition…=` and `Assert…=`; an empty one takes back all of them.
fn conditions(unit: &Unit) -> Vec<Cite> {
    let mut found = Vec::new();
    for (cite, key, value) in cite::of_section(unit, "Unit") {
        if key.starts_with("Condition") || key.starts_with("Assert") {
            if value.is_empty() { found.clear() } else { found.push(cite) }
        }
    }
    found
}

/// Ports on which a service gets sockets of systemd.
#[derive(Clone, Debug, Default)]
pub(super) struct Activated {
    /// Sorted.
    pub(super) ports: Vec<u16>,
    /// Socket units that may have more.
    pub(super) unknown: Vec<Cite>,
}

impl Activated {
    /// Those of a service, or of a template.
    pub(super) fn of(service: &str, sockets: &[Socket]) -> Self {
        let mut found = Self::default();
        let template = name::template_of(service);
        let is_its = |own: &str| own == service || Some(own) == template.as_deref();
        for socket in
            sockets.iter().filter(|socket| socket.is_tcp() && socket.service.as_deref().is_some_and(is_its))
        {
            found.ports.extend(socket.listens.items.iter().map(|(listen, _)| port(*listen)));
            found.unknown.extend(socket.listens.unknown.iter().map(|(cite, _)| cite.clone()));
        }
        found.ports.sort_unstable();
        found.ports.dedup();
        found
    }

    /// A filter of what comes by these sockets: systemd made them, so what holds for those that the service makes itself does
    /// not hold for them.
    pub(super) fn except(&self) -> Option<String> {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        (!ports.is_empty()).then(|| format!("-dir:out lport:{}", ports.join(",")))
    }
}
