//! The keys of the language, and what the documentation says of them.

/// What sort of values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Takes {
    /// Numbers and ranges of numbers.
    Numbers,
    /// Ports and ranges of ports.
    Ports,
    /// Numbers of any size.
    Counts,
    /// Numbers of bytes.
    Bytes,
    /// Comparisons and ranges of durations.
    Durations,
    /// Addresses, networks and zones.
    Addresses,
    /// Text, globs, regular expressions.
    Text,
    /// One of a list of names.
    Names,
    /// `true` or `false`.
    Flags,
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
    Proc "proc" Text "Name of the process: its comm, the last part of its exe, the command that busybox or the dynamic loader runs, or, once it is known, the name of this host's own shell, interpreter or network tool that the exe is a copy of." "proc:nginx";
    Comm "comm" Text "Name of the process's main thread alone, which it may choose itself." "comm:nginx";
    Exe "exe" Text "Path of the executable." "exe:/usr/sbin/*";
    Arg "arg" Text "One of the arguments, whole." "arg:--daemon";
    Script "script" Text "Script that an interpreter or shell runs: the path among its arguments, absolute once its working directory is known. Without one for code in an argument (`-c`) or from standard input." "script:/tmp/*";
    InlineCode "inline_code" Text "Code that a shell or interpreter is given in an argument (`-c`, `-e`), whole." "inline_code:/(?i)base64/";
    ArgsTruncated "args_truncated" Flags "There are more arguments than are known." "args_truncated:true";
    ExeFlag "exe_flag" Names "What the executable is: without a name any more, an anonymous file, one that every user may write (or its directory), one that the process's own user may write (or its directory; never of root's processes), the host's own file at its path (`host`), or not (`foreign`: of a container, or another mount namespace), conn's own file run by conn's user (`conn`). The writable ones, `host` and `foreign` once they are known; a file may be deleted later, too." "exe_flag:deleted,memfd";
    ExeSha256 "exe_sha256" Text "SHA-256 of the executable, lower case, once it is known." "exe_sha256:9f86d081*";
    ExeFs "exe_fs" Text "Type of the file system that the executable lies on, once it is known." "exe_fs:tmpfs";
    ExeMount "exe_mount" Text "Where that is mounted, once it is known." "exe_mount:/tmp";
    Cwd "cwd" Text "Working directory." "cwd:/tmp*";
    Tty "tty" Text "Controlling terminal, without `/dev/`." "tty:pts/*";
    Uid "uid" Numbers "Real user id." "uid:0";
    Gid "gid" Numbers "Real group id." "gid:33";
    User "user" Text "Name of the user, as in this machine's /etc/passwd; a number is a uid." "user:www-data";
    LoginUid "login_uid" Numbers "Login uid (audit), which sudo and su keep." "login_uid:>=1000";
    Kernel "kernel" Flags "The process is a kernel thread." "kernel:true";
    ProcessNetns "process_netns" Numbers "Inode number of the process's own network namespace, once it is known." "process_netns:4026531840";
    MntNs "mnt_ns" Numbers "Inode number of the process's mount namespace." "mnt_ns:4026531841";
    MntNsHost "mnt_ns_host" Flags "The process's mount namespace is the host's: that of process 1." "mnt_ns_host:false";
    ProcessSource "process_source" Names "How name, path and arguments of the process are known." "process_source:proc_scan";
    Parent "parent" Text "Name of the parent (who created it): its comm, its exe, or the last part of that. A path is asked of the exe alone." "parent:sshd";
    ParentHost "parent_host" Flags "The parent's executable is the host's own file at its path, as of the fork." "parent_host:true";
    Ancestor "ancestor" Text "Name of any process above it: its comm, its exe, or the last part of that. A path is asked of the exe alone." "ancestor:/usr/sbin/cron";
    AncestorPid "ancestor_pid" Numbers "Process id of any process above it." "ancestor_pid:4100";
    Unit "unit" Text "systemd unit, or the unit of the user's own service manager; of a listener of systemd also the socket unit." "unit:ssh.service";
    UserUnit "user_unit" Text "Unit of the user's own service manager alone." "user_unit:app-*.scope";
    SocketUnit "socket_unit" Text "Socket unit of a listener of systemd alone." "socket_unit:ssh.socket";
    Slice "slice" Text "Slice of the unit." "slice:system.slice";
    Cgroup "cgroup" Text "Path of the cgroup." "cgroup:/system.slice/*";
    CgroupId "cgroup_id" Counts "Id of the cgroup in the v2 hierarchy." "cgroup_id:4711";
    Container "container" Text "Id of the container, or its name where it has no id; of an id the first 12 digits are enough." "container:0f7d84f32c4d";
    Runtime "runtime" Names "Container runtime." "runtime:docker";
    Pod "pod" Text "UID of the Kubernetes pod." "pod:2c48913c-b29f-11e7-9350-020968147796";
    Closer "closer" Text "Name of who closed (only `close` and `unlisten`), in the three ways of `parent`." "closer:nginx";
    CloserMethod "closer_method" Names "How the closer is known." "closer_method:unknown";
    CloserReason "closer_reason" Names "Why the closer is not known; `kernel`: the network ended it." "closer_reason:kernel";
    Listener "listener" Text "Name of the listener's owner (only `accept`), in the three ways of `parent`." "listener:sshd";
    ListenerMethod "listener_method" Names "How the listener's owner is known." "listener_method:fd_table";
    ListenerReason "listener_reason" Names "Why the listener's owner is not known." "listener_reason:before_attach";
    Tid "tid" Numbers "Thread that acted, where a hook named it." "tid:4243";
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
    Mapped "mapped" Flags "The socket is IPv6 and has IPv4-mapped addresses." "mapped:true";
    Device "device" Text "Interface that the socket is bound to: by `SO_BINDTODEVICE`, with the listener that accepted it, or by a link-local address." "device:eth0";
    V6only "v6only" Flags "A listener takes IPv6 only (`IPV6_V6ONLY`), where that is known." "v6only:true";
    CommunityId "community_id" Text "Community ID of the connection." "community_id:1:tE8Y/YwHxFc3FF4Ne/pbDcWAS0s=";
    State "state" Names "TCP state of a listed socket (only `conn list`)." "state:established,close_wait";
    Netns "netns" Numbers "Inode number of the network namespace." "netns:4026531840";
    KernelSocket "kernel_socket" Flags "The socket is the kernel's own (only events)." "kernel_socket:true";
    Age "age" Durations "Age of what was there before it was seen; holds if both its bounds fit." "age:>1h";
    Duration "duration" Durations "How long it was open (only `close` and `unlisten`)." "duration:>1h30m,<10ms";
    ConnectTime "connect_time" Durations "How long the handshake took (only `established`)." "connect_time:>200ms";
    After "after" Durations "How long it took to fail (only `failed`)." "after:>=3s";
    BytesIn "bytes_in" Bytes "Payload bytes received (only `close`, and listed connections)." "bytes_in:>1G";
    BytesOut "bytes_out" Bytes "Payload bytes sent (only `close`, and listed connections)." "bytes_out:10M-1G";
    Retransmits "retransmits" Counts "Segments retransmitted (only `close`, and listed connections)." "retransmits:>=10";
    Srtt "srtt" Durations "Smoothed round trip time, where it was measured (only `close`, and listed connections)." "srtt:>150ms";
    End "end" Names "How a connection ended (only `close` events)." "end:peer_reset,timeout";
    Errno "errno" Errors "Error of a `failed` or `close` event." "errno:ECONNREFUSED";
    Source "source" Names "Whether it was seen from its beginning, or else how it became known." "source:snapshot";
    Method "method" Names "How the owner is known." "method:unknown";
    Reason "reason" Names "Why the owner is not known." "reason:no_holder";
    Hook "hook" Text "Hook that named the owner or the closer; of a gap, the one whose records were lost." "hook:kprobe:*";
    Code "code" Numbers "Exit code (only `exit`)." "code:>0";
    Signal "signal" Numbers "Number of the signal that ended it (only `exit`)." "signal:9,11";
    Cause "cause" Names "Why records were lost (only `gap`)." "cause:ring_full";
    Cpu "cpu" Numbers "CPU on which they were lost (only `gap`)." "cpu:0-3";
    Lost "lost" Counts "How many were lost (only `gap`)." "lost:>=100";
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

    /// Whether only events have it, and listed sockets never.
    pub const fn is_of_events(self) -> bool {
        matches!(
            self,
            Self::Kind
                | Self::End
                | Self::Errno
                | Self::Closer
                | Self::CloserMethod
                | Self::CloserReason
                | Self::Listener
                | Self::ListenerMethod
                | Self::ListenerReason
                | Self::Tid
                | Self::KernelSocket
                | Self::Duration
                | Self::ConnectTime
                | Self::After
                | Self::Hook
                | Self::Code
                | Self::Signal
                | Self::Cause
                | Self::Cpu
                | Self::Lost
        )
    }

    /// Whether it looks at what a network sensor (Zeek) does not see: processes, and what only the kernel of a host knows. A word
    /// that does holds for none of its connections.
    pub const fn is_of_host(self) -> bool {
        !matches!(
            self,
            Self::Port
                | Self::Lport
                | Self::Rport
                | Self::Sport
                | Self::Dport
                | Self::Ip
                | Self::Laddr
                | Self::Raddr
                | Self::Src
                | Self::Dst
                | Self::Dir
                | Self::Kind
                | Self::Proto
                | Self::Family
                | Self::Mapped
                | Self::CommunityId
                | Self::KernelSocket
                | Self::Duration
                | Self::After
                | Self::BytesIn
                | Self::BytesOut
                | Self::End
                | Self::Errno
                | Self::Source
                | Self::Method
                | Self::Reason
                | Self::CloserMethod
                | Self::CloserReason
        )
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
            Self::Numbers => "a number, a range such as 100-200, or a comparison such as >=1000",
            Self::Ports => "a port number, a range such as 8000-8100, or a comparison such as <1024",
            Self::Counts => "a number, a range such as 100-200, or a comparison such as >=10",
            Self::Bytes => {
                "a number of bytes such as 512, 10K or 1.5G, a range such as 1M-2M, or a comparison such as >1G"
            }
            Self::Durations => {
                "a comparison such as >1h30m or <=250ms, or a range such as 10s-5m; the units are ns, us, ms, s, m, h, d, w"
            }
            Self::Addresses => {
                "an address such as 10.0.0.1 or fe80::1%eth0, a network such as 10.0.0.0/8 or 2001:db8::/32, or a zone such as internal"
            }
            Self::Text => "a name, a glob such as nginx*, or a regular expression such as /^nginx/",
            Self::Names => "one of its names",
            Self::Flags => "`true` or `false`",
            Self::Errors => "an error name such as ECONNREFUSED, a number, or `cancelled`",
        }
    }
}
