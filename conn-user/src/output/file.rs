//! A file of whole lines that outlives a full disk: what cannot be written is dropped and counted, no line is left half, and
//! the next lines are tried again.
//!
//! [`super::sink`] is for one reader, and ends when that goes away. It hands lines over to tokio, which does not tell how many bytes
//! of them were written before an error; here that must be known.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use super::pipe;

/// Bytes that wait at most; lines beyond are dropped and counted. A batch of the loop has less, and so has a start.
const WAITING_MAX: usize = 64 << 20;
/// Largest buffer that is kept.
const KEPT_MAX: usize = 1 << 20;
/// Lines may have the arguments of processes: not for everybody.
const MODE: u32 = 0o600;

/// Something that happened to a file, to be told to people.
#[derive(Debug)]
pub enum Notice {
    /// It cannot be written. From here on lines are dropped.
    Fails(io::Error),
    /// It can be written again; so many lines were dropped meanwhile.
    Works {
        /// How many.
        dropped: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub struct LineFile {
    /// `None`: standard output.
    path: Option<PathBuf>,
    file: Arc<File>,
    torn: bool,
    waiting: Vec<u8>,
    /// Lines that were not even taken, since the last write.
    refused: u64,
    /// What is being written. It is kept here, because whoever waits for it may give up.
    writing: Option<JoinHandle<Batch>>,
    /// Lines dropped since it cannot be written; `None`: it can.
    outage: Option<u64>,
    dropped: u64,
}

impl LineFile {
    /// Lines are appended to the file at `path`, which is made where it is not; `None`: to standard output.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let (file, torn) = match path {
            Some(path) => open(path)?,
            None => {
                pipe::widen(io::stdout());
                (File::from(io::stdout().as_fd().try_clone_to_owned()?), false)
            }
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            file: Arc::new(file),
            torn,
            waiting: Vec::new(),
            refused: 0,
            writing: None,
            outage: None,
            dropped: 0,
        })
    }

    /// Where it is; `None`: standard output.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// How many lines were dropped in all.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes a line, which `encode` appends with its newline. Never waits.
    pub fn line(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.waiting.len() < WAITING_MAX {
            encode(&mut self.waiting);
        } else {
            self.refused += 1;
        }
    }

    /// Writes what it took, until there is something to tell; `None`: all is written. May be cancelled: nothing is written
    /// twice.
    ///
    /// # Errors
    /// Standard output has no reader any more.
    pub async fn flush(&mut self) -> io::Result<Option<Notice>> {
        loop {
            if self.writing.is_none() {
                if self.waiting.is_empty() && self.refused == 0 {
                    return Ok(None);
                }
                let (file, torn) = (Arc::clone(&self.file), self.torn);
                let lines = std::mem::take(&mut self.waiting);
                self.writing = Some(spawn_blocking(move || append(&mut &*file, lines, torn)));
            }
            let Some(writing) = &mut self.writing else { return Ok(None) };
            let batch = writing.await;
            self.writing = None;
            if let Some(notice) = self.written(batch.map_err(io::Error::other)?)? {
                return Ok(Some(notice));
            }
        }
    }

    fn written(&mut self, batch: Batch) -> io::Result<Option<Notice>> {
        let Batch { mut lines, torn, mut dropped, mut error } = batch;
        self.torn = torn;
        if self.waiting.is_empty() && lines.capacity() <= KEPT_MAX {
            lines.clear();
            self.waiting = lines;
        }
        if self.refused > 0 {
            dropped += std::mem::take(&mut self.refused);
            error = error.or_else(|| Some(io::Error::other("lines come faster than it takes them")));
        }
        self.dropped += dropped;
        match (error, &mut self.outage) {
            (Some(error), _) if self.path.is_none() && error.kind() == io::ErrorKind::BrokenPipe => {
                Err(io::Error::new(error.kind(), "standard output has no reader any more"))
            }
            (Some(_), Some(outage)) => {
                *outage += dropped;
                Ok(None)
            }
            (Some(error), None) => {
                self.outage = Some(dropped);
                Ok(Some(Notice::Fails(error)))
            }
            (None, outage) => Ok(outage.take().map(|dropped| Notice::Works { dropped })),
        }
    }

    /// Opens the file anew where another one, or none, has its place now: a log was rotated. What waits goes to the new one; if
    /// it cannot be opened, lines go on to the one that was moved away.
    ///
    /// # Errors
    /// When the new one cannot be made or opened.
    pub async fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        if self.writing.is_some() {
            // Whoever waited for it gave up: this is the end.
            return Ok(());
        }
        let file = Arc::clone(&self.file);
        let opened =
            spawn_blocking(move || if is_at(&file, &path) { Ok(None) } else { open(&path).map(Some) });
        if let Some((file, torn)) = opened.await.map_err(io::Error::other)?? {
            (self.file, self.torn) = (Arc::new(file), torn);
        }
        Ok(())
    }
}

/// Opens a file for appending, and tells whether its last line is half: the machine or the agent died over it.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let file = File::options().append(true).create(true).mode(MODE).open(path)?;
    let about = file.metadata()?;
    let mut last = *b"\n";
    if about.is_file() && about.len() > 0 {
        File::open(path)?.read_exact_at(&mut last, about.len() - 1)?;
    }
    Ok((file, last != *b"\n"))
}

/// Whether this is the file at the path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(own), Ok(other)) => (own.dev(), own.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// What lines are appended to.
trait Target: Write {
    /// Takes the last bytes away again.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl Target for &File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let (about, end) = (self.metadata()?, self.stream_position()?);
        // Whoever else appends to it must not lose by it.
        if !about.is_file() || end != about.len() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let end = self.seek(SeekFrom::Start(end.saturating_sub(bytes)))?;
        self.set_len(end)
    }
}

/// Lines, and what became of them.
#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    /// What was written ends within a line.
    torn: bool,
    /// Lines that were not written, or only in part.
    dropped: u64,
    error: Option<io::Error>,
}

/// Writes whole lines. Of one that does not fit nothing stays, or if that cannot be, it is ended before the next one.
fn append(target: &mut impl Target, mut lines: Vec<u8>, torn: bool) -> Batch {
    if torn {
        lines.insert(0, b'\n');
    }
    let (done, error) = write(target, &lines);
    let (written, rest) = lines.split_at(done);
    let half = written.len() - written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let dropped = rest.split(|byte| *byte == b'\n').skip(1).count() as u64;
    let (torn, dropped) = match done {
        // The newline that ends the half line was not written either.
        0 if torn => (true, dropped - 1),
        _ => (half > 0 && target.cut(half as u64).is_err(), dropped),
    };
    Batch { lines, torn, dropped, error }
}

/// Writes as much as goes.
fn write(target: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match target.write(&bytes[done..]) {
            Ok(0) => return (done, Some(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room, which takes a few bytes a time.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        can_cut: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(3).min(self.room - self.bytes.len());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Target for Disk {
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            if !self.can_cut {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.bytes.truncate(self.bytes.len() - usize::try_from(bytes).expect("few"));
            Ok(())
        }
    }

    /// What is on the disk after two batches, with more room for the second; torn and dropped after each.
    fn twice(room: usize, can_cut: bool) -> (String, [(bool, u64); 2]) {
        let mut disk = Disk { bytes: Vec::new(), room, can_cut };
        let first = append(&mut disk, b"one\ntwo\nthree\n".to_vec(), false);
        assert_eq!(first.error.is_some(), first.dropped > 0);
        disk.room = 100;
        let second = append(&mut disk, b"four\n".to_vec(), first.torn);
        let bytes = String::from_utf8(disk.bytes).expect("UTF-8");
        (bytes, [(first.torn, first.dropped), (second.torn, second.dropped)])
    }

    #[test]
    fn only_whole_lines_stay() {
        for (room, bytes, dropped) in [
            (0, "four\n", 3),
            (2, "four\n", 3),
            (4, "one\nfour\n", 2),
            (7, "one\nfour\n", 2),
            (13, "one\ntwo\nfour\n", 1),
            (14, "one\ntwo\nthree\nfour\n", 0),
        ] {
            assert_eq!(twice(room, true), (bytes.to_owned(), [(false, dropped), (false, 0)]), "{room}");
        }
    }

    #[test]
    fn a_half_line_that_stays_is_ended() {
        assert_eq!(twice(7, false), ("one\ntwo\nfour\n".to_owned(), [(true, 2), (false, 0)]));
        assert_eq!(twice(2, false), ("on\nfour\n".to_owned(), [(true, 3), (false, 0)]));
        let mut full = Disk { bytes: b"on".to_vec(), room: 2, can_cut: false };
        let batch = append(&mut full, b"two\n".to_vec(), true);
        assert_eq!((batch.torn, batch.dropped), (true, 1));
    }

    /// A folder that is removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("conn-file-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn write_line(file: &mut LineFile, line: &str) -> Option<Notice> {
        file.line(|out| out.extend_from_slice(line.as_bytes()));
        file.flush().await.expect("no standard output")
    }

    #[tokio::test]
    async fn a_full_disk_is_told_once_and_when_it_is_over() {
        let folder = Folder::new("full");
        let path = folder.0.join("lines");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let mut file = LineFile::open(Some(&path)).expect("open");
        let Some(Notice::Fails(error)) = write_line(&mut file, "one\n").await else { panic!("it is full") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(write_line(&mut file, "two\nthree\n").await.is_none(), "told before");
        std::fs::remove_file(&path).expect("removed");
        file.reopen().await.expect("open");
        let Some(Notice::Works { dropped: 3 }) = write_line(&mut file, "four\n").await else { panic!() };
        assert!(write_line(&mut file, "five\n").await.is_none());
        assert_eq!(
            (std::fs::read_to_string(&path).expect("read"), file.dropped()),
            ("four\nfive\n".into(), 3)
        );
    }

    #[tokio::test]
    async fn a_rotated_file_is_made_anew_for_its_owner_alone() {
        let folder = Folder::new("rotated");
        let (path, old) = (folder.0.join("lines"), folder.0.join("lines.1"));
        std::fs::write(&path, "a half li").expect("written");
        let mut file = LineFile::open(Some(&path)).expect("open");
        assert!(write_line(&mut file, "one\n").await.is_none());
        file.reopen().await.expect("the same");
        std::fs::rename(&path, &old).expect("moved");
        assert!(write_line(&mut file, "two\n").await.is_none());
        file.reopen().await.expect("open");
        assert!(write_line(&mut file, "three\n").await.is_none());
        assert_eq!(std::fs::read_to_string(&old).expect("read"), "a half li\none\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "three\n");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&folder.0).expect("removed");
        assert!(file.reopen().await.is_err(), "no folder to make it in");
        assert!(write_line(&mut file, "four\n").await.is_none(), "the old one is written");
    }

    #[test]
    fn a_file_is_cut_to_its_whole_lines() {
        let folder = Folder::new("cut");
        let (file, _) = open(&folder.0.join("lines")).expect("open");
        let mut target = &file;
        target.write_all(b"one\ntw").expect("written");
        target.cut(2).expect("a file");
        target.write_all(b"three\n").expect("written");
        assert_eq!(std::fs::read(folder.0.join("lines")).expect("read"), b"one\nthree\n");
    }

    #[test]
    fn what_waits_is_bounded() {
        let folder = Folder::new("bounded");
        let mut file = LineFile::open(Some(&folder.0.join("lines"))).expect("open");
        file.waiting.resize(WAITING_MAX, b'\n');
        file.line(|_| panic!("it is not asked for"));
        assert_eq!(file.refused, 1);
    }
}
