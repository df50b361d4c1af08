//! SHA-256 of executables, each file once.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use sha2::{Digest as _, Sha256 as Hasher};

use super::identity::Sha256;

/// A larger file is not hashed.
pub const SIZE_MAX: u64 = 512 << 20;
/// Most hashes that are remembered. A full memory is emptied.
const CACHE_MAX: usize = 4096;

/// One state of a file. `ctime` is there because it cannot be set: a file that was changed and given its old size and
/// `mtime` again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileState {
    dev: u64,
    inode: u64,
    pub(super) size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileState {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The hashes of files in their last known states.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<FileState, Sha256>);

impl Cache {
    pub(super) fn get(&self, state: &FileState) -> Option<Sha256> {
        self.0.get(state).copied()
    }

    pub(super) fn put(&mut self, state: FileState, hash: Sha256) {
        if self.0.len() >= CACHE_MAX {
            self.0.clear();
        }
        self.0.insert(state, hash);
    }
}

/// Hashes a file; `None`: it changed meanwhile.
///
/// # Errors
/// When it cannot be read.
pub(super) fn hash(file: &mut File, state: FileState) -> io::Result<Option<Sha256>> {
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 128 << 10]);
    // One that grows while it is read does not keep us for ever.
    let mut file_part = file.take(state.size.saturating_add(1));
    loop {
        match file_part.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let same = FileState::of(&file_part.get_ref().metadata()?) == state;
    Ok(same.then(|| hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_changes_has_no_hash() {
        let path = std::env::temp_dir().join(format!("conn-digest-{}", std::process::id()));
        fs::write(&path, "abc").expect("a file");
        let mut file = File::open(&path).expect("the file");
        let state = FileState::of(&file.metadata().expect("metadata"));
        let abc = hash(&mut file, state).expect("read").expect("unchanged");
        let mut text = Vec::new();
        crate::event::escape::hex_bytes(&abc, &mut text);
        // FIPS 180-2, appendix B.1.
        assert_eq!(text, b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut more = fs::OpenOptions::new().append(true).open(&path).expect("the file");
        more.write_all(b"d").expect("written");
        let mut file = File::open(&path).expect("the file");
        assert_eq!(hash(&mut file, state).expect("read"), None);
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        let meta = fs::metadata("/proc/self/exe").expect("metadata");
        let state = FileState::of(&meta);
        for inode in 0..2 * CACHE_MAX as u64 {
            cache.put(FileState { inode, ..state }, [0; 32]);
            assert!(cache.0.len() <= CACHE_MAX);
        }
    }
}
