//! The network namespaces there are, and entering one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mounts;
use crate::units::{NetNs, Pid};

/// A network namespace and the files that stand for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Which.
    pub id: NetNs,
    /// Files to enter it by: `/proc/PID/ns/net`, bind mounts, descriptors. All may be gone by now.
    pub files: Vec<PathBuf>,
}

/// The thread's own namespace.
///
/// # Errors
/// When /proc does not report it.
pub fn own(proc: &Path) -> io::Result<NetNs> {
    id(&proc.join("thread-self/ns/net")).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Every namespace in which a thread is, or which is mounted somewhere in our mount namespace (`ip netns`, container
/// runtimes), in the order of their numbers. One that only an open descriptor keeps is not found here.
///
/// # Errors
/// When /proc cannot be listed.
pub fn discover(proc: &Path) -> io::Result<Vec<Namespace>> {
    let mut found: BTreeMap<NetNs, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(proc)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let process = proc.join(name);
        let mut note = |file: PathBuf| {
            if let Some(id) = id(&file) {
                found.entry(id).or_default().push(file);
            }
        };
        note(process.join("ns/net"));
        // A thread may have moved alone, as container runtimes do; the first entry is the leader.
        let threads = fs::read_dir(process.join("task")).into_iter().flatten().skip(1).flatten();
        threads.for_each(|thread| note(thread.path().join("ns/net")));
    }
    for (id, file) in mounted(&fs::read(proc.join("self/mountinfo")).unwrap_or_default()) {
        found.entry(id).or_default().push(file);
    }
    Ok(found.into_iter().map(|(id, files)| Namespace { id, files }).collect())
}

/// The namespace that a link of /proc names.
fn id(link: &Path) -> Option<NetNs> {
    parse_id(fs::read_link(link).ok()?.as_os_str().as_encoded_bytes())
}

/// `net:[INODE]` (`ns_dname`, fs/nsfs.c).
pub fn parse_id(name: &[u8]) -> Option<NetNs> {
    let digits = name.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(NetNs)
}

/// The namespaces that are mounted, from `/proc/self/mountinfo`.
pub(super) fn mounted(mountinfo: &[u8]) -> impl Iterator<Item = (NetNs, PathBuf)> {
    mounts::all(mountinfo).filter_map(|mount| {
        let id = parse_id(mount.root)?;
        Some((id, PathBuf::from(std::ffi::OsString::from_vec(mount.point))))
    })
}

impl Namespace {
    /// Returns a namespace that is entered by one of these processes, and whether it is the calling thread's own.
    pub fn of(proc: &Path, id: NetNs, pids: impl Iterator<Item = Pid>) -> (Self, bool) {
        let files = pids.map(|pid| proc.join(pid.0.to_string()).join("ns/net")).collect();
        (Self { id, files }, own(proc).is_ok_and(|own| own == id))
    }

    /// Does something in the namespace: here if it is the thread's own, else in another thread with this name. One that has entered
    /// another namespace ends there: its way back could be refused.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the thread not be started.
    pub fn inside<T: Send>(
        &self,
        is_own: bool,
        thread: &str,
        act: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        if is_own {
            return Ok(act());
        }
        let inside = || if self.enter()? { Ok(act()) } else { Err(io::ErrorKind::NotFound.into()) };
        thread::scope(|scope| {
            let acting = thread::Builder::new().name(thread.to_owned()).spawn_scoped(scope, inside)?;
            acting.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }

    /// Moves the calling thread, and only it, into the namespace. `false`: every file that stood for it is gone or
    /// stands for another one now.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn enter(&self) -> io::Result<bool> {
        let mut refused = None;
        for path in &self.files {
            let entered = File::open(path).and_then(|file| {
                if file.metadata()?.ino() != u64::from(self.id.0) {
                    return Ok(false);
                }
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(true)
            });
            match entered {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(false), Err)
    }

    /// The /proc directories of threads that are, or were, in the namespace.
    pub fn threads(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|file| file.to_str()?.strip_suffix("/ns/net").map(Path::new))
    }

    /// Whether the thread with this /proc directory is in the namespace now.
    pub fn has(&self, thread: &Path) -> bool {
        id(&thread.join("ns/net")) == Some(self.id)
    }
}

/// The process or the file went away.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse_id(b"net:[4026531840]"), Some(NetNs(4_026_531_840)));
        for name in
            [&b"net:[]"[..], b"net:[1", b"mnt:[1]", b"net:[99999999999]", b"socket:[1]", b"net:[\xff]"]
        {
            assert_eq!(parse_id(name), None);
        }
    }

    #[test]
    fn mounts() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
            40 35 0:4 net:[4026532281] /run/netns/a\\040b\\134 rw shared:9 - nsfs nsfs rw\n\
            41 35 0:4 mnt:[4026532282] /run/x rw - nsfs nsfs rw\n\nshort\n";
        let all: Vec<_> = mounted(text).collect();
        assert_eq!(all, [(NetNs(4_026_532_281), PathBuf::from("/run/netns/a b\\"))]);
    }

    #[test]
    fn our_own_is_found_and_entered() {
        let proc = Path::new("/proc");
        let own = own(proc).expect("own");
        let all = discover(proc).expect("/proc");
        let ours = all.iter().find(|namespace| namespace.id == own).expect("ours");
        assert!(ours.threads().any(|thread| ours.has(thread)));
        let other = Namespace { id: NetNs(1), files: ours.files.clone() };
        assert!(!other.enter().expect("no error"), "it is another one");
        let gone = Namespace { id: own, files: vec!["/proc/4294967295/ns/net".into()] };
        assert!(!gone.enter().expect("no error"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = mounted(&bytes).count();
        }
    }
}
