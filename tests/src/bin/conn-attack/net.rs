//! Two network namespaces joined by a veth: this host, and everybody else.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Names of the namespaces.
const HOST: &str = "conn-attack-host";
pub(crate) const OTHERS: &str = "conn-attack-others";

/// The host that is attacked.
pub(crate) const HOST_ADDRESS: &str = "10.10.0.5";
/// The attacker's host, outside.
pub(crate) const OUTER: &str = "203.0.113.66";
/// An inner host.
pub(crate) const INNER: &str = "10.10.0.9";

/// The namespaces, until it is dropped.
pub(crate) struct Network {
    host: File,
    others: File,
}

impl Network {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// `ip` is not installed or fails.
    pub(crate) fn new() -> Result<Self> {
        remove();
        let outer_net = format!("{OUTER}/24");
        let inner_net = format!("{INNER}/24");
        let host_net = format!("{HOST_ADDRESS}/24");
        for words in [
            vec!["netns", "add", HOST],
            vec!["netns", "add", OTHERS],
            vec![
                "link", "add", "eth0", "netns", HOST, "type", "veth", "peer", "name", "eth0", "netns", OTHERS,
            ],
            vec!["-n", HOST, "addr", "add", &host_net, "dev", "eth0"],
            vec!["-n", OTHERS, "addr", "add", "10.10.0.1/24", "dev", "eth0"],
            vec!["-n", OTHERS, "addr", "add", &inner_net, "dev", "eth0"],
            vec!["-n", OTHERS, "addr", "add", &outer_net, "dev", "eth0"],
            vec!["-n", HOST, "link", "set", "lo", "up"],
            vec!["-n", OTHERS, "link", "set", "lo", "up"],
            vec!["-n", HOST, "link", "set", "eth0", "up"],
            vec!["-n", OTHERS, "link", "set", "eth0", "up"],
            vec!["-n", HOST, "route", "add", "default", "via", "10.10.0.1"],
            // Who visits this host comes from outside.
            vec!["-n", OTHERS, "route", "replace", "10.10.0.0/24", "dev", "eth0", "src", OUTER],
        ] {
            let output = Command::new("ip").args(&words).output().context("run ip (package iproute2)")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip {}: {said}", words.join(" "));
        }
        Ok(Self { host: open(HOST)?, others: open(OTHERS)? })
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
        remove();
    }
}

/// Opens a namespace by its name.
pub(crate) fn open(name: &str) -> Result<File> {
    File::open(format!("/run/netns/{name}")).with_context(|| format!("open the namespace {name}"))
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

fn remove() {
    for name in [HOST, OTHERS] {
        // There may be none.
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
}
