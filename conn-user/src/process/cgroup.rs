//! From a cgroup's id, or a process, to the path of the cgroup.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::host::mounts;

/// Id of the root cgroup: `kernfs_create_root` numbers from 1.
pub const ROOT_ID: u64 = 1;

/// Where the cgroup v2 hierarchy is mounted.
#[derive(Debug)]
pub struct CgroupFs {
    mount: Option<(PathBuf, File)>,
}

/// What `/proc/PID/cgroup` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupOf {
    /// The id in the v2 hierarchy; 0: not known.
    pub id: u64,
    /// The path, of the v2 hierarchy or, where that one is not in use, of a v1 one.
    pub path: Box<[u8]>,
}

impl CgroupFs {
    /// Finds the mount of cgroup v2 in `/proc/self/mountinfo`.
    pub fn find() -> Self {
        let mount = fs::read("/proc/self/mountinfo").ok().and_then(|text| mount_point(&text));
        Self { mount: mount.and_then(|path| Some((path.clone(), File::open(path).ok()?))) }
    }

    /// The path of the cgroup with this id; `None`: it is gone, or there is no v2 hierarchy, or this process may not
    /// (CAP_DAC_READ_SEARCH).
    ///
    /// The id is the cgroup's file handle: `kernfs_encode_fh` in fs/kernfs/mount.c. It is never used again in one boot
    /// (`__kernfs_new_node` counts a generation in its upper half).
    pub fn path_of(&self, id: u64) -> Option<Box<[u8]>> {
        let (mount, root) = self.mount.as_ref()?;
        let file = open_by_id(root, id).ok()?;
        let target = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        below(mount, &target)
    }

    /// The cgroup in the text of `/proc/PID/cgroup`.
    pub fn of_process(&self, text: &[u8]) -> Option<CgroupOf> {
        let path = parse(text)?;
        let id = v2_path(text).and_then(|v2| self.id_of(v2)).unwrap_or(0);
        Some(CgroupOf { id, path: path.into() })
    }

    /// `cgroup_id` is the inode number of the directory (`kernfs_ino` on a 64-bit machine).
    fn id_of(&self, path: &[u8]) -> Option<u64> {
        let (mount, _) = self.mount.as_ref()?;
        let relative = path.strip_prefix(b"/").filter(|path| !path.starts_with(b".."))?;
        fs::metadata(mount.join(OsStr::from_bytes(relative))).ok().map(|meta| meta.ino())
    }
}

/// A path inside the mount as a path of the hierarchy.
fn below(mount: &Path, path: &Path) -> Option<Box<[u8]>> {
    let relative = path.strip_prefix(mount).ok()?.as_os_str();
    Some([b"/", relative.as_bytes()].concat().into_boxed_slice())
}

fn open_by_id(mount: &File, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with its eight bytes.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    /// `FILEID_KERNFS` (include/linux/exportfs.h).
    const FILEID_KERNFS: i32 = 0xfe;
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
    let pointer = (&raw mut handle).cast::<libc::file_handle>();
    // SAFETY: the handle has the eight bytes that it says behind its head; the kernel only reads it.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), pointer, libc::O_PATH | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The mount point of cgroup v2 with the whole hierarchy in it.
fn mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    mounts::all(mountinfo)
        .find(|mount| mount.fs == b"cgroup2")
        .map(|mount| PathBuf::from(OsStr::from_bytes(&mount.point)))
}

/// The path in the v2 hierarchy: the line `0::PATH`.
fn v2_path(text: &[u8]) -> Option<&[u8]> {
    text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

/// The path that reports most: of v2 where it is in use, else of systemd's v1 hierarchy, else of a controller's.
fn parse(text: &[u8]) -> Option<&[u8]> {
    let lines = || {
        text.split(|&b| b == b'\n').filter_map(|line| {
            let mut fields = line.splitn(3, |&b| b == b':').skip(1);
            Some((fields.next()?, fields.next()?)).filter(|(_, path)| path.starts_with(b"/"))
        })
    };
    let reporting = |wanted: fn(&[u8]) -> bool| lines().find(|(kind, path)| wanted(kind) && *path != b"/");
    reporting(<[u8]>::is_empty)
        .or_else(|| reporting(|kind| kind == b"name=systemd"))
        .or_else(|| reporting(|kind| !kind.starts_with(b"name=")))
        .or_else(|| lines().next())
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reporting_line_is_taken() {
        let of = |text: &str| parse(text.as_bytes()).map(|path| String::from_utf8_lossy(path).into_owned());
        assert_eq!(of("0::/system.slice/ssh.service\n").as_deref(), Some("/system.slice/ssh.service"));
        // Hybrid: v2 without controllers, systemd tracks in both.
        assert_eq!(
            of("5:pids:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service")
                .as_deref(),
            Some("/system.slice/a.service")
        );
        // v1: Docker with the cgroupfs driver; and a controller alone.
        assert_eq!(of("3:memory:/docker/1\n1:name=systemd:/docker/2\n0::/\n").as_deref(), Some("/docker/2"));
        assert_eq!(of("4:memory:/api/x\n1:name=systemd:/\n0::/\n").as_deref(), Some("/api/x"));
        assert_eq!(of("1:name=systemd:/\n0::/\n").as_deref(), Some("/"));
        assert_eq!(of("2:cpu,cpuacct:/a:b\n").as_deref(), Some("/a:b"));
        assert_eq!(of("").as_deref(), None);
        assert_eq!(of("0:\n::\nx").as_deref(), None);
    }

    #[test]
    fn mount_points_are_found_and_unescaped() {
        let hybrid = b"33 32 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                       34 32 0:30 / /sys/fs/cg\\040v2 rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some(PathBuf::from("/sys/fs/cg v2")));
        assert_eq!(mount_point(b"36 35 98:0 / /mnt rw - ext4 /dev/a rw\n"), None);
    }

    #[test]
    fn a_path_outside_the_mount_is_none() {
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(below(mount, Path::new("/sys/fs/cgroup/a/b")).as_deref(), Some(&b"/a/b"[..]));
        assert_eq!(below(mount, mount).as_deref(), Some(&b"/"[..]));
        assert_eq!(below(mount, Path::new("/a/b")), None);
    }

    #[test]
    fn the_own_cgroup_of_the_machine() {
        let cgroups = CgroupFs::find();
        let own = fs::read("/proc/self/cgroup").ok().and_then(|text| cgroups.of_process(&text));
        let Some(own) = own.filter(|own| own.id > ROOT_ID) else {
            conn_tests::skip::skip("not in a cgroup of a v2 hierarchy below its root");
            return;
        };
        // Without CAP_DAC_READ_SEARCH it is none, never another one.
        assert!(cgroups.path_of(own.id).is_none_or(|path| path == own.path));
        assert_eq!(cgroups.path_of(u64::MAX), None);
    }
}
