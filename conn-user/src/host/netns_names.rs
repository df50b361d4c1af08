//! The names of network namespaces: `ip netns` keeps each as a file under `/run/netns` (ip-netns(8)).

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FsWord, statfs};

use crate::units::NetNs;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";
/// How long what was read is good for: a namespace may be made, renamed or removed at any time.
const FRESH: Duration = Duration::from_secs(1);
/// The type of the file system of namespaces (include/uapi/linux/magic.h).
const NSFS_MAGIC: FsWord = 0x6e73_6673;
/// Most names that are read.
const NAMES_MAX: usize = 4_096;

/// Names of network namespaces, read when one is asked for. Without a folder there are none, as for events of another
/// machine or time.
#[derive(Clone, Debug, Default)]
pub struct NetNsNames {
    folder: Option<PathBuf>,
    names: HashMap<NetNs, Box<[u8]>>,
    read: Option<Instant>,
}

impl NetNsNames {
    /// The names that this machine has now.
    pub fn of_machine() -> Self {
        Self::of_folder(FOLDER.into())
    }

    fn of_folder(folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..Self::default() }
    }

    /// The name of a namespace: bytes that its maker chose.
    pub fn name(&mut self, netns: NetNs) -> Option<&[u8]> {
        let folder = self.folder.as_deref()?;
        let now = Instant::now();
        if self.read.is_none_or(|read| now.duration_since(read) >= FRESH) {
            self.read = Some(now);
            self.names = read(folder);
        }
        self.names.get(&netns).map(|name| &**name)
    }
}

/// The names in a folder. A file that no namespace is mounted on is a leftover.
fn read(folder: &Path) -> HashMap<NetNs, Box<[u8]>> {
    let named = |entry: fs::DirEntry| {
        let path = entry.path();
        let is_namespace = statfs(&path).is_ok_and(|of| of.f_type == NSFS_MAGIC);
        let inode = fs::metadata(&path).ok().filter(|_| is_namespace)?.ino();
        Some((NetNs(u32::try_from(inode).ok()?), entry.file_name().into_vec().into()))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(NAMES_MAX).filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::netns;

    #[test]
    fn a_namespace_has_the_name_of_its_file() {
        let folder = std::env::temp_dir().join(format!("conn-netns-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let own = netns::own(Path::new("/proc")).expect("a namespace");
        let mut names = NetNsNames::of_folder(folder.clone());
        assert_eq!(names.name(own), None);
        symlink("/proc/self/ns/net", folder.join("blue")).expect("a link");
        fs::write(folder.join("left"), "").expect("a file");
        assert_eq!(names.name(own), None, "what was read is still good");
        names.read = None;
        assert_eq!(names.name(own), Some(&b"blue"[..]));
        assert_eq!(names.names.len(), 1, "a leftover is no namespace");
        assert_eq!(NetNsNames::default().name(own), None);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
