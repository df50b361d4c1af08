//! The names of network namespaces: `ip netns` mounts each on a file of its name under `/run/netns` (ip-netns(8)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::netns::mounted;
use crate::units::NetNs;

/// Where `ip netns` keeps them.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// How long what was read is good for: a namespace may be made, renamed or removed at any time.
const FRESH: Duration = Duration::from_secs(1);

/// Names of network namespaces, read when one is asked for: from the list of mounts, so that no file is touched. By
/// default there are none, as for events of another machine or time.
#[derive(Clone, Debug, Default)]
pub struct NetNsNames {
    is_of_machine: bool,
    names: HashMap<NetNs, Box<[u8]>>,
    read: Option<Instant>,
}

impl NetNsNames {
    /// The names that this machine has now.
    pub fn of_machine() -> Self {
        Self { is_of_machine: true, ..Self::default() }
    }

    /// The name of a namespace: bytes that its maker chose.
    pub fn name(&mut self, netns: NetNs) -> Option<&[u8]> {
        if !self.is_of_machine {
            return None;
        }
        let now = Instant::now();
        if self.read.is_none_or(|read| now.duration_since(read) >= FRESH) {
            self.read = Some(now);
            self.names = named(&fs::read("/proc/self/mountinfo").unwrap_or_default());
        }
        self.names.get(&netns).map(|name| &**name)
    }
}

/// The names in `/proc/self/mountinfo`.
fn named(mountinfo: &[u8]) -> HashMap<NetNs, Box<[u8]>> {
    let is_named =
        |file: &Path| file.parent().is_some_and(|folder| FOLDERS.iter().any(|of| folder == Path::new(of)));
    mounted(mountinfo)
        .filter(|(_, file)| is_named(file))
        .filter_map(|(netns, file)| Some((netns, file.file_name().map(OsStr::as_bytes)?.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_name_of_its_file() {
        let names = named(
            b"31 29 0:27 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
              401 31 0:4 net:[4026532177] /run/netns/blue rw shared:9 - nsfs nsfs rw\n\
              402 31 0:4 net:[4026532178] /run/docker/netns/1a2b rw shared:9 - nsfs nsfs rw\n\
              403 31 0:4 mnt:[4026532179] /run/netns/left rw shared:9 - nsfs nsfs rw\n",
        );
        assert_eq!(names, [(NetNs(4_026_532_177), b"blue".as_slice().into())].into());
        assert_eq!(NetNsNames::default().name(NetNs(4_026_532_177)), None);
    }
}
