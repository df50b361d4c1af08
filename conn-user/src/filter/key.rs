//! The keys of the language, and what the documentation says of them.

/// What sort of values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Takes {
    /// Numbers and ranges of numbers.
    Numbers,
    /// Ports and ranges of ports.
    Ports,
    /// Addresses and networks.
    Addresses,
    /// Text, globs, regular expressions.
    Text,
    /// One of a list of names.
    Names,
    /// Error names and numbers.
    Errors,
}

/// What the documentation says of a key.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The key itself.
    pub name: &'static str,
    /// Another name of it.
    pub alias: Option<&'static str>,
    /// What it takes.
    pub takes: Takes,
    /// What it looks at.
    pub meaning: &'static str,
    /// A word that uses it.
    pub example: &'static str,
}

/// Defines [`Key`] with what the documentation says.
macro_rules! keys {
    ($($variant:ident $name:literal $(| $alias:literal)? $takes:ident $meaning:literal $example:literal;)*) => {
        /// What a word of a filter looks at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Key { $(#[doc = $meaning] $variant,)* }

        impl Key {
            /// Every key, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What the documentation says of it.
            pub const fn about(self) -> About {
                match self {
                    $(Self::$variant => About {
                        name: $name,
                        alias: keys!(@alias $($alias)?),
                        takes: Takes::$takes,
                        meaning: $meaning,
                        example: $example,
                    },)*
                }
            }
        }
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
}

keys! {
    Pid "pid" Numbers "Process id." "pid:4242";
    Ppid "ppid" Numbers "Process id of the parent." "ppid:1";
    Proc "proc" Text "Name of the process: its comm, or the last part of its exe." "proc:nginx";
    Exe "exe" Text "Path of the executable." "exe:/usr/sbin/*";
    Arg "arg" Text "One of the arguments, whole." "arg:--daemon";
    ExeFlag "exe_flag" Names "What is odd about the executable: it has no name any more, is an anonymous file, or every user may write it or its directory." "exe_flag:deleted,memfd";
    ExeSha256 "exe_sha256" Text "SHA-256 of the executable, lower case, once it is known." "exe_sha256:9f86d081*";
    Cwd "cwd" Text "Working directory." "cwd:/tmp*";
    Tty "tty" Text "Controlling terminal, without `/dev/`." "tty:pts/*";
    Uid "uid" Numbers "Real user id." "uid:0";
    Gid "gid" Numbers "Real group id." "gid:33";
    User "user" Text "Name of the user, as in this machine's /etc/passwd." "user:www-data";
    Parent "parent" Text "Name of the parent (who created it): its comm, its exe, or the last part of that." "parent:sshd";
    Ancestor "ancestor" Text "Likewise of any process above it." "ancestor:/usr/sbin/cron";
    Unit "unit" Text "systemd unit, or the unit of the user's own service manager; of a listener of systemd also the socket unit." "unit:ssh.service";
    Container "container" Text "Id of the container, or its name where it has no id; of an id the first 12 digits are enough." "container:0f7d84f32c4d";
    Runtime "runtime" Names "Container runtime." "runtime:docker";
    Pod "pod" Text "UID of the Kubernetes pod." "pod:2c48913c-b29f-11e7-9350-020968147796";
    Port "port" Ports "Local or remote port." "port:443,8000-8100";
    Lport "lport" Ports "Local port." "lport:22";
    Rport "rport" Ports "Remote port." "rport:5432";
    Sport "sport" Ports "Port of the side that opened the connection." "sport:1-1023";
    Dport "dport" Ports "Port of the side that was connected to; of a listener, its own." "dport:443";
    Ip "ip" | "addr" Addresses "Local or remote address." "ip:10.0.0.0/8";
    Laddr "laddr" Addresses "Local address." "laddr:127.0.0.1";
    Raddr "raddr" Addresses "Remote address." "raddr:2001:db8::/32";
    Src "src" Addresses "Address of the side that opened the connection." "src:192.168.1.7";
    Dst "dst" Addresses "Address of the side that was connected to; of a listener, its own." "-dst:127.0.0.0/8,::1";
    Dir "dir" Names "Direction of the connection, seen from this machine's socket." "dir:out";
    Kind "kind" Names "Kind of the event." "kind:failed,close";
    Proto "proto" Names "Transport." "proto:mptcp";
    Family "family" Names "Family of the addresses; IPv4-mapped ones are IPv4." "family:ipv6";
    State "state" Names "TCP state of a listed socket (only `conn list`)." "state:established,close_wait";
    Netns "netns" Numbers "Inode number of the network namespace." "netns:4026531840";
    End "end" Names "How a connection ended (only `close` events)." "end:peer_reset,timeout";
    Errno "errno" Errors "Error of a `failed` or `close` event." "errno:ECONNREFUSED";
    Source "source" Names "Whether it was seen from its beginning, or else how it became known." "source:snapshot";
    Method "method" Names "How the owner is known." "method:unknown";
}

impl Key {
    /// Its name.
    pub const fn name(self) -> &'static str {
        self.about().name
    }

    /// The key with this name or alias.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name || key.about().alias == Some(name))
    }

    /// Every name and alias, for suggestions.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().flat_map(|key| [Some(key.name()), key.about().alias]).flatten()
    }
}

impl Takes {
    /// What to write, for error messages and the documentation.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Numbers => "a number or a range such as 100-200",
            Self::Ports => "a port number or a range such as 8000-8100",
            Self::Addresses => "an address or a network such as 10.0.0.0/8 or 2001:db8::/32",
            Self::Text => "a name, a glob such as nginx*, or a regular expression such as /^nginx/",
            Self::Names => "one of its names",
            Self::Errors => "an error name such as ECONNREFUSED, a number, or `cancelled`",
        }
    }
}
