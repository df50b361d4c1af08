//! Two network namespaces joined by a veth: this host, and everybody else. Their names have the process that made them, so runs at once
//! do not meet; what a killed run has left is removed by the next one.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use conn_tests::own_name;

/// What the names of namespaces begin with: `conn-attack-PID-START-host` and `-others` ([`own_name`]).
const PREFIX: &str = "conn-attack-";
/// Where `ip netns` keeps them.
const NAMED: &str = "/run/netns";

/// The host that is attacked.
pub(crate) const HOST_ADDRESS: &str = "10.10.0.5";
/// The attacker's host, outside.
pub(crate) const OUTER: &str = "203.0.113.66";
/// An internal host.
pub(crate) const INNER: &str = "10.10.0.9";

/// The namespaces, until it is dropped.
pub(crate) struct Network {
    names: [String; 2],
    host: File,
    others: File,
}

impl Network {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// `ip` is not installed or fails.
    pub(crate) fn new() -> Result<Self> {
        remove_left();
        let own = own_name::own(PREFIX).context("read /proc/self/stat")?;
        let names = ["host", "others"].map(|which| format!("{own}-{which}"));
        let [host, others] = &names;
        let outer_net = format!("{OUTER}/24");
        let inner_net = format!("{INNER}/24");
        let host_net = format!("{HOST_ADDRESS}/24");
        for words in [
            vec!["netns", "add", host],
            vec!["netns", "add", others],
            vec![
                "link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", "eth0", "netns", others,
            ],
            vec!["-n", host, "addr", "add", &host_net, "dev", "eth0"],
            vec!["-n", others, "addr", "add", "10.10.0.1/24", "dev", "eth0"],
            vec!["-n", others, "addr", "add", &inner_net, "dev", "eth0"],
            vec!["-n", others, "addr", "add", &outer_net, "dev", "eth0"],
            vec!["-n", host, "link", "set", "lo", "up"],
            vec!["-n", others, "link", "set", "lo", "up"],
            vec!["-n", host, "link", "set", "eth0", "up"],
            vec!["-n", others, "link", "set", "eth0", "up"],
            vec!["-n", host, "route", "add", "default", "via", "10.10.0.1"],
            // Who visits this host comes from outside.
            vec!["-n", others, "route", "replace", "10.10.0.0/24", "dev", "eth0", "src", OUTER],
        ] {
            let output = Command::new("ip").args(&words).output().context("run ip (package iproute2)")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip {}: {said}", words.join(" "));
        }
        let (host, others) = (open(host)?, open(others)?);
        Ok(Self { names, host, others })
    }

    /// Returns the name of the other hosts' namespace.
    pub(crate) fn others_name(&self) -> &str {
        &self.names[1]
    }

    /// Returns a function for a child that moves it to the attacked host.
    pub(crate) fn enter_host(&self) -> impl Fn() -> std::io::Result<()> + use<> {
        enter(self.host.as_raw_fd())
    }

    /// Moves this thread to the other hosts.
    pub(crate) fn join_others(&self) -> Result<()> {
        enter(self.others.as_raw_fd())().context("enter the other hosts")
    }

    /// Returns the inode number of the other hosts' namespace.
    pub(crate) fn others_inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(self.others.metadata().context("a namespace")?.ino())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
    }
}

/// Opens a namespace by its name.
pub(crate) fn open(name: &str) -> Result<File> {
    File::open(format!("{NAMED}/{name}")).with_context(|| format!("open the namespace {name}"))
}

/// Returns a function that enters the namespace of an open descriptor. It makes one system call: a child may call it after
/// fork.
pub(crate) fn enter(fd: i32) -> impl Fn() -> std::io::Result<()> {
    move || {
        // SAFETY: no pointers; a closed descriptor is an error.
        if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error())
    }
}

fn remove(name: &str) {
    // There may be none.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// Removes the namespaces of runs whose process is gone.
fn remove_left() {
    let names = fs::read_dir(NAMED).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| own_name::is_left(name, PREFIX))
        .for_each(|name| remove(&name));
}
