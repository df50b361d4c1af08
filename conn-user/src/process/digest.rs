//! SHA-256 of executables, each file once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Take};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256 as Hasher};

use super::file_stat::FileStat;
use super::identity::Sha256;
use super::info::FileId;

/// A larger file is not hashed.
pub const SIZE_MAX: u64 = 512 << 20;
/// Most hashes that are remembered. A full memory is emptied.
const CACHE_MAX: usize = 4096;

/// One state of a file. `ctime` is there because it cannot be set: a file that was changed and given its old size and
/// `mtime` again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileState {
    file: FileId,
    pub(super) size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl FileState {
    pub(super) const fn of(stat: &FileStat) -> Self {
        Self { file: stat.file, size: stat.size, mtime: stat.mtime, ctime: stat.ctime }
    }

    /// The device that the file lies on.
    pub(super) const fn dev(&self) -> u64 {
        self.file.dev
    }

    /// All of it in numbers.
    pub(super) const fn words(&self) -> [u64; 7] {
        let (mtime, ctime) = (self.mtime, self.ctime);
        let [mtime_ns, ctime_ns] = [mtime.1 as u64, ctime.1 as u64];
        let [mtime, ctime] = [mtime.0.cast_unsigned(), ctime.0.cast_unsigned()];
        [self.file.dev, self.file.inode, self.size, mtime, mtime_ns, ctime, ctime_ns]
    }

    /// From its [`Self::words`].
    pub(super) const fn of_words(words: [u64; 7]) -> Self {
        let [dev, inode, size, mtime, mtime_ns, ctime, ctime_ns] = words;
        let (mtime, ctime) = (mtime.cast_signed(), ctime.cast_signed());
        Self {
            file: FileId { dev, inode },
            size,
            mtime: (mtime, mtime_ns as u32),
            ctime: (ctime, ctime_ns as u32),
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

/// A file that is being hashed.
#[derive(Debug)]
pub(super) struct Hashing {
    file: Take<File>,
    state: FileState,
    hasher: Hasher,
    buffer: Box<[u8]>,
}

/// What a part of it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were read, and there are more.
    Read(u64),
    /// The hash; `None`: the file changed meanwhile.
    Done(Option<Sha256>),
}

impl Hashing {
    /// Of an open file that was in this state when it was found.
    pub(super) fn new(file: File, state: FileState) -> Self {
        // One that grows while it is read does not keep us for ever.
        let file = file.take(state.size.saturating_add(1));
        Self { file, state, hasher: Hasher::new(), buffer: vec![0; 128 << 10].into() }
    }

    /// Reads some `most` bytes further, or for so long: at least once.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn step(&mut self, most: u64, time: Duration) -> io::Result<Step> {
        let began = Instant::now();
        let mut bytes = 0;
        while bytes < most && (bytes == 0 || began.elapsed() < time) {
            match self.file.read(&mut self.buffer) {
                Ok(0) => {
                    let same = FileState::of(&FileStat::synced(self.file.get_ref())?) == self.state;
                    return Ok(Step::Done(same.then(|| self.hasher.finalize_reset().into())));
                }
                Ok(read) => {
                    self.hasher.update(&self.buffer[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Read(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn hash(file: File, state: FileState, most: u64) -> (u64, Option<Sha256>) {
        let (mut hashing, mut steps) = (Hashing::new(file, state), 0);
        loop {
            steps += 1;
            if let Step::Done(hash) = hashing.step(most, Duration::MAX).expect("read") {
                return (steps, hash);
            }
        }
    }

    #[test]
    fn a_file_that_changes_has_no_hash() {
        let path = std::env::temp_dir().join(format!("conn-digest-{}", std::process::id()));
        fs::write(&path, "abc").expect("a file");
        let open = || File::open(&path).expect("the file");
        let state = FileState::of(&FileStat::of(open()).expect("stat"));
        assert_eq!(FileState::of_words(state.words()), state);
        let (steps, abc) = hash(open(), state, 1 << 20);
        let mut text = Vec::new();
        crate::event::escape::hex_bytes(&abc.expect("unchanged"), &mut text);
        // FIPS 180-2, appendix B.1.
        assert_eq!(text, b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((steps, hash(open(), state, 1)), (1, (2, abc)), "in parts");
        let mut in_no_time = Hashing::new(open(), state);
        assert_eq!(in_no_time.step(1 << 20, Duration::ZERO).expect("read"), Step::Read(3));
        let mut more = fs::OpenOptions::new().append(true).open(&path).expect("the file");
        more.write_all(b"d").expect("written");
        assert_eq!(hash(open(), state, 1 << 20).1, None);
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        let state = FileState::of_words([1; 7]);
        for inode in 0..2 * CACHE_MAX as u64 {
            cache.put(FileState { size: inode, ..state }, [0; 32]);
            assert!(cache.0.len() <= CACHE_MAX);
        }
    }
}
