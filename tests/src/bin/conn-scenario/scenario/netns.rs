//! A network namespace of its own.

use anyhow::{Result, ensure};

use crate::facts::{emit_me, netns};
use crate::netdev::own_netns;

pub(super) fn run() -> Result<()> {
    // One pair in the old namespace, one in the new: only the numbers of the namespaces distinguish them.
    super::basic::ipv4()?;
    let before = netns()?;
    own_netns()?;
    ensure!(netns()? != before, "unshare left the namespace as it was");
    emit_me()?;
    super::basic::ipv4()?;
    super::basic::ipv6()
}
