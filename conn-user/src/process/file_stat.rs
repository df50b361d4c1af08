//! The attributes of a file as the kernel has them, without asking whoever serves its file system.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, StatxTimestamp, statx};

use super::info::FileId;

/// Attributes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStat {
    pub(super) file: FileId,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Seconds and nanoseconds.
    pub(super) ctime: (i64, u32),
}

impl FileStat {
    /// Returns what the kernel has of what a link of /proc leads to, as [`Self::of`] does.
    ///
    /// # Errors
    /// When there is nothing, or it is out of reach.
    pub(super) fn at_link(link: &Path) -> io::Result<Self> {
        Ok(statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?.into())
    }

    /// Returns what the kernel has of an open file. Never waits for a file system: with `AT_STATX_DONT_SYNC` neither a FUSE
    /// server nor an NFS server is asked (`fuse_update_get_attr`, fs/fuse/dir.c; `nfs_getattr`, fs/nfs/inode.c). Device and
    /// inode are always right; the rest may be what the server said last.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::read(file, AtFlags::STATX_DONT_SYNC)
    }

    /// Returns what stat(2) does: may wait for a server for ever.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn synced(file: impl AsFd) -> io::Result<Self> {
        Self::read(file, AtFlags::empty())
    }

    fn read(file: impl AsFd, sync: AtFlags) -> io::Result<Self> {
        Ok(statx(file, c"", AtFlags::EMPTY_PATH | sync, StatxFlags::BASIC_STATS)?.into())
    }

    /// Whether it is a regular file.
    pub(super) const fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

impl From<Statx> for FileStat {
    fn from(stat: Statx) -> Self {
        let time = |of: StatxTimestamp| (of.tv_sec, of.tv_nsec);
        Self {
            file: FileId { dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino },
            mode: stat.stx_mode.into(),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            size: stat.stx_size,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_is_what_stat_says() {
        let file = File::open("/proc/self/exe").expect("open");
        let (meta, stat) = (file.metadata().expect("stat"), FileStat::of(&file).expect("statx"));
        assert_eq!(stat.file, FileId { dev: meta.dev(), inode: meta.ino() });
        assert_eq!((stat.uid, stat.gid), (meta.uid(), meta.gid()));
        assert_eq!((stat.mode, u64::from(stat.links), stat.size), (meta.mode(), meta.nlink(), meta.size()));
        assert_eq!((stat.ctime.0, i64::from(stat.ctime.1)), (meta.ctime(), meta.ctime_nsec()));
        assert_eq!(stat, FileStat::at_link(Path::new("/proc/self/exe")).expect("by the link"));
        assert_eq!(stat, FileStat::synced(&file).expect("statx"));
        assert!(stat.is_file() && !FileStat::at_link(Path::new("/proc/self/cwd")).expect("cwd").is_file());
        assert!(FileStat::at_link(Path::new("/nonexistent")).is_err());
    }
}
