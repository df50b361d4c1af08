//! One entry: whose, what, and how often it was seen.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::names::Named as _;
use crate::filter::names::Names;
use crate::flow::model::{Direction, canonical_ip};
use crate::units::WallNs;

/// Whose an entry is. The name may be a glob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A service, or a socket that systemd listens on.
    Unit(Box<str>),
    /// The path of an executable, of processes outside services.
    Exe(Box<str>),
}

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Those of a zone.
    Zone(Box<str>),
    /// Those of a network; an address is one of its own.
    Net(IpNet),
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The first.
    pub low: u16,
    /// The last.
    pub high: u16,
}

/// What is normal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A connection, also one that is only tried.
    Connection {
        /// Out or in.
        direction: Direction,
        /// The remote address.
        remote: Place,
        /// The port of the side that is connected to.
        ports: Ports,
    },
    /// A listener.
    Listener {
        /// Where it listens; `0.0.0.0/0` and `::/0`: on all addresses.
        local: Place,
        /// At which port.
        ports: Ports,
    },
    /// An executable of the unit uses the network.
    Program {
        /// Its path, perhaps a glob.
        exe: Box<str>,
    },
}

/// How often and when something was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// First.
    pub first: WallNs,
    /// Last.
    pub last: WallNs,
    /// The first one, for people.
    pub example: Box<str>,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub who: Who,
    /// What.
    pub what: What,
    /// How often; it is for people and judges nothing.
    pub seen: Seen,
}

/// A time in which was learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Since when everything was seen.
    pub from: WallNs,
    /// Until when.
    pub to: WallNs,
    /// Events.
    pub events: u64,
    /// Records that were lost: what is not in the baseline may be normal all the same.
    pub lost: u64,
}

impl Who {
    /// The key and the name, as in a file.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Unit(name) => ("unit", name),
            Self::Exe(name) => ("exe", name),
        }
    }
}

impl Place {
    /// An address.
    pub fn of(ip: IpAddr) -> Self {
        Self::Net(canonical_ip(ip).0.into())
    }

    /// Whether the address is one of them.
    pub fn holds(&self, ip: IpAddr, names: &Names) -> bool {
        let ip = canonical_ip(ip).0;
        match self {
            Self::Zone(name) => names.is_in(name, ip),
            Self::Net(net) => net.contains(&ip),
        }
    }

    /// Whether the address of a listener is one of them: all addresses (`0.0.0.0`, `[::]`) are only in all
    /// addresses.
    pub(super) fn holds_listener(&self, ip: IpAddr, names: &Names) -> bool {
        match self {
            Self::Net(net) if net.prefix_len() == 0 => self.holds(ip, names),
            Self::Zone(_) | Self::Net(_) => !ip.is_unspecified() && self.holds(ip, names),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone(name) => f.write_str(name),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { low: port, high: port }
    }

    /// Whether the port is one of them.
    pub const fn hold(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    /// The port, if it is one.
    pub const fn only(self) -> Option<u16> {
        if self.low == self.high { Some(self.low) } else { None }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.only() {
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{}-{}", self.low, self.high),
        }
    }
}

impl What {
    /// The table of a file that it is in.
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Connection { .. } => "connection",
            Self::Listener { .. } => "listener",
            Self::Program { .. } => "program",
        }
    }

    /// The addresses that it is about; a program is about none.
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Self::Connection { remote: place, .. } | Self::Listener { local: place, .. } => Some(place),
            Self::Program { .. } => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection { direction, remote, ports } => {
                write!(f, "{} {remote} port {ports}", direction.name())
            }
            Self::Listener { local, ports } => write!(f, "listens on {local} port {ports}"),
            Self::Program { exe } => write!(f, "runs {exe}"),
        }
    }
}

impl Seen {
    /// Seen once.
    pub fn once(at: WallNs, example: impl Into<Box<str>>) -> Self {
        Self { count: 1, first: at, last: at, example: example.into() }
    }

    /// Both.
    pub fn merge(&mut self, other: Self) {
        if self.count == 0 {
            *self = other;
            return;
        }
        self.count = self.count.saturating_add(other.count);
        self.last = self.last.max(other.last);
        // Not each time an example is made.
        if !other.example.is_empty()
            && (self.example.is_empty() || (other.first, &other.example) < (self.first, &self.example))
        {
            self.example = other.example;
        }
        self.first = self.first.min(other.first);
    }
}
