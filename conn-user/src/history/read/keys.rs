//! What connections are grouped and sorted by: names of the JSON keys and of the filter language.

use crate::event::names::{self, Named};

/// What connections are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupKey {
    /// Remote address.
    Raddr,
    /// Remote port.
    Rport,
    /// Local address.
    Laddr,
    /// Local port.
    Lport,
    /// Address of the side that opened the connection.
    Src,
    /// Address of the side that was connected to.
    Dst,
    /// Port of the side that opened the connection.
    Sport,
    /// Port of the side that was connected to.
    Dport,
    /// Direction, seen from this machine.
    Dir,
    /// Transport.
    Proto,
    /// Inode number of the network namespace.
    Netns,
    /// How it ended; null: it is open, or failed.
    End,
    /// Kind of its last event: `close`, `failed`, or while it is open that of its beginning.
    Kind,
    /// Name of the process's main thread.
    Comm,
    /// Path of the executable.
    Exe,
    /// SHA-256 of the executable.
    Sha256,
    /// systemd unit.
    Unit,
    /// Id of the container.
    Container,
    /// Name of the user.
    User,
    /// Real user id.
    Uid,
    /// Process id.
    Pid,
    /// Name of the machine.
    Host,
    /// The run of the agent.
    Run,
}

impl Named for GroupKey {
    const ALL: &'static [Self] = &[
        Self::Raddr,
        Self::Rport,
        Self::Laddr,
        Self::Lport,
        Self::Src,
        Self::Dst,
        Self::Sport,
        Self::Dport,
        Self::Dir,
        Self::Proto,
        Self::Netns,
        Self::End,
        Self::Kind,
        Self::Comm,
        Self::Exe,
        Self::Sha256,
        Self::Unit,
        Self::Container,
        Self::User,
        Self::Uid,
        Self::Pid,
        Self::Host,
        Self::Run,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Raddr => "raddr",
            Self::Rport => "rport",
            Self::Laddr => "laddr",
            Self::Lport => "lport",
            Self::Src => "src",
            Self::Dst => "dst",
            Self::Sport => "sport",
            Self::Dport => "dport",
            Self::Dir => "dir",
            Self::Proto => "proto",
            Self::Netns => "netns",
            Self::End => "end",
            Self::Kind => "kind",
            Self::Comm => "comm",
            Self::Exe => "exe",
            Self::Sha256 => "sha256",
            Self::Unit => "unit",
            Self::Container => "container",
            Self::User => "user",
            Self::Uid => "uid",
            Self::Pid => "pid",
            Self::Host => "host",
            Self::Run => "run",
        }
    }
}

impl GroupKey {
    /// Whether it is a number, in JSON as in a table.
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Self::Rport | Self::Lport | Self::Sport | Self::Dport | Self::Netns | Self::Uid | Self::Pid
        )
    }
}

impl std::str::FromStr for GroupKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "proc" => Ok(Self::Comm),
            "port" => Ok(Self::Dport),
            "exe_sha256" => Ok(Self::Sha256),
            _ => names::from_written(text).ok_or_else(|| {
                format!("write some of {}, with commas between", names::all::<Self>().join(", "))
            }),
        }
    }
}

/// What connections, or their groups, are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SortKey {
    /// The time of the event that is shown; of groups when they were last seen.
    Time,
    /// How long it was open. What is open or failed has none. Not of groups.
    Duration,
    /// Bytes in both directions.
    Bytes,
    /// Bytes received.
    BytesIn,
    /// Bytes sent.
    BytesOut,
    /// How many a row stands for.
    Count,
}

impl Named for SortKey {
    const ALL: &'static [Self] =
        &[Self::Time, Self::Duration, Self::Bytes, Self::BytesIn, Self::BytesOut, Self::Count];

    fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Duration => "duration",
            Self::Bytes => "bytes",
            Self::BytesIn => "bytes_in",
            Self::BytesOut => "bytes_out",
            Self::Count => "count",
        }
    }
}

/// A key and a direction: ascending, or with `-` before it descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// The key.
    pub key: SortKey,
    /// The largest first.
    pub reverse: bool,
}

impl Sort {
    /// The oldest first.
    pub const TIME: Self = Self { key: SortKey::Time, reverse: false };
    /// The most frequent first.
    pub const MOST: Self = Self { key: SortKey::Count, reverse: true };
}

impl std::str::FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (reverse, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        match names::from_written(name) {
            Some(key) => Ok(Self { key, reverse }),
            None => Err(format!(
                "write one of {}, or one with - before it for the largest first",
                names::all::<SortKey>().join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_names_and_those_of_the_filter() {
        for key in GroupKey::ALL {
            assert_eq!(key.name().parse(), Ok(*key));
        }
        assert_eq!("proc".parse(), Ok(GroupKey::Comm));
        assert_eq!("port".parse(), Ok(GroupKey::Dport));
        assert!("nothing".parse::<GroupKey>().expect_err("no key").contains("raddr"));
    }

    #[test]
    fn a_dash_turns_the_order() {
        assert_eq!("time".parse(), Ok(Sort::TIME));
        assert_eq!("-count".parse(), Ok(Sort::MOST));
        assert!("-".parse::<Sort>().is_err());
    }
}
