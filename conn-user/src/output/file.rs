//! A file of whole lines that outlives a full disk: what cannot be written is dropped and counted, no line is left half, and
//! the next lines are tried again.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

use super::pipe;
use super::writer::{Target, Written};

/// Lines may have the arguments of processes: not for everybody.
const MODE: u32 = 0o600;

/// A file that takes whole lines or none.
#[derive(Debug)]
pub struct LineFile {
    /// `None`: standard output or error.
    path: Option<PathBuf>,
    file: File,
    /// Its last line is half.
    torn: bool,
}

impl LineFile {
    /// Lines are appended to the file at `path`, which is made where it is not. Of a named pipe nobody need be a reader yet.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, torn) = open(path)?;
        Ok(Self { path: Some(path.to_owned()), file, torn })
    }

    /// Lines go to standard output or error.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn standard(output: impl AsFd) -> io::Result<Self> {
        pipe::widen(&output);
        Ok(Self { path: None, file: File::from(output.as_fd().try_clone_to_owned()?), torn: false })
    }

    /// Why others may have a say in what is in it; `None`: they have not.
    pub fn doubt(&self) -> Option<&'static str> {
        let path = self.path.as_ref()?;
        let is_link = std::fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink());
        let about = self.file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        match about.mode() {
            mode if mode & 0o022 != 0 => Some("others may write it"),
            _ if is_link => Some("it is a symbolic link"),
            _ => None,
        }
    }
}

impl Target for LineFile {
    fn write(&mut self, lines: &[u8]) -> Written {
        append(&mut &self.file, lines, &mut self.torn)
    }

    /// Where another file, or none, has its place now. What waits goes to the new one; if it cannot be opened, lines go on to
    /// the one that was moved away.
    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if !is_at(&self.file, path) {
            (self.file, self.torn) = open(path)?;
        }
        Ok(())
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        self.path.is_none() && error.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Opens a file for appending, and says whether its last line is half: the machine or the agent died over it.
///
/// Without a reader a named pipe cannot be opened for writing alone (ENXIO, `fifo_open` in fs/pipe.c), or `open` would wait for
/// one. Open for both it can, and readers come and go.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let is_pipe = |path: &Path| std::fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo());
    let mut options = File::options();
    if is_pipe(path) {
        options.read(true).write(true);
    } else {
        options.append(true).create(true).mode(MODE);
    }
    // Where a pipe takes its place meanwhile, the open fails and does not wait.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = options.custom_flags(nonblocking).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    pipe::widen(&file);
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
trait Place: Write {
    /// Takes the last bytes away again.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;

    /// Waits until it takes more: whoever shares it has made it non-blocking.
    fn wait(&mut self) -> io::Result<()>;
}

impl Place for &File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let (about, end) = (self.metadata()?, self.stream_position()?);
        // Whoever else appends to it must not lose by it.
        if !about.is_file() || end != about.len() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let end = self.seek(SeekFrom::Start(end.saturating_sub(bytes)))?;
        self.set_len(end)
    }

    fn wait(&mut self) -> io::Result<()> {
        poll(&mut [PollFd::new(self, PollFlags::OUT)], None)?;
        Ok(())
    }
}

/// Writes whole lines. Of one that does not fit nothing stays, or if that cannot be, it is ended before the next one.
fn append(place: &mut impl Place, lines: &[u8], torn: &mut bool) -> Written {
    if *torn {
        if let (_, Some(error)) = write(place, b"\n") {
            return Written { dropped: count(lines), error: Some(error) };
        }
        *torn = false;
    }
    let (done, error) = write(place, lines);
    let (written, rest) = lines.split_at(done);
    let half = written.len() - written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    *torn = half > 0 && place.cut(half as u64).is_err();
    Written { dropped: count(rest), error }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes as much as goes.
fn write(place: &mut impl Place, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match place.write(&bytes[done..]) {
            Ok(0) => return (done, Some(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = place.wait() {
                    return (done, Some(error));
                }
            }
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

    impl Place for Disk {
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            if !self.can_cut {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.bytes.truncate(self.bytes.len() - usize::try_from(bytes).expect("few"));
            Ok(())
        }

        fn wait(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is on the disk after two batches, with more room for the second; torn and dropped after each.
    fn twice(room: usize, can_cut: bool) -> (String, [(bool, u64); 2]) {
        let mut disk = Disk { bytes: Vec::new(), room, can_cut };
        let mut torn = [false; 2];
        let first = append(&mut disk, b"one\ntwo\nthree\n", &mut torn[0]);
        assert_eq!(first.error.is_some(), first.dropped > 0);
        disk.room = 100;
        torn[1] = torn[0];
        let second = append(&mut disk, b"four\n", &mut torn[1]);
        let bytes = String::from_utf8(disk.bytes).expect("UTF-8");
        (bytes, [(torn[0], first.dropped), (torn[1], second.dropped)])
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
        let mut torn = true;
        let written = append(&mut full, b"two\n", &mut torn);
        assert_eq!((torn, written.dropped), (true, 1));
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

    #[test]
    fn a_full_disk_costs_its_lines() {
        let folder = Folder::new("full");
        let path = folder.0.join("lines");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let mut file = LineFile::open(&path).expect("open");
        let full = file.write(b"two\nthree\n");
        assert_eq!(full.error.map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        assert_eq!(full.dropped, 2);
        std::fs::remove_file(&path).expect("removed");
        file.reopen().expect("open");
        assert_eq!(file.write(b"four\n").dropped, 0);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "four\n");
    }

    #[test]
    fn a_rotated_file_is_made_anew_for_its_owner_alone() {
        let folder = Folder::new("rotated");
        let (path, old) = (folder.0.join("lines"), folder.0.join("lines.1"));
        std::fs::write(&path, "a half li").expect("written");
        let mut file = LineFile::open(&path).expect("open");
        assert!(file.write(b"one\n").error.is_none());
        file.reopen().expect("the same");
        std::fs::rename(&path, &old).expect("moved");
        assert!(file.write(b"two\n").error.is_none());
        file.reopen().expect("open");
        assert!(file.write(b"three\n").error.is_none());
        assert_eq!(std::fs::read_to_string(&old).expect("read"), "a half li\none\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "three\n");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&folder.0).expect("removed");
        assert!(file.reopen().is_err(), "no folder to make it in");
        assert!(file.write(b"four\n").error.is_none(), "the old one is written");
    }

    /// Nobody reads it yet, then somebody does, and goes away.
    #[test]
    fn a_named_pipe_needs_no_reader() {
        let folder = Folder::new("pipe");
        let path = folder.0.join("lines");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        let mut file = LineFile::open(&path).expect("it does not wait");
        for _ in 0..2 {
            assert!(file.write(b"one\n").error.is_none());
            let mut reader = File::open(&path).expect("a reader");
            let mut line = [0; 4];
            io::Read::read_exact(&mut reader, &mut line).expect("a line");
            assert_eq!(&line, b"one\n");
        }
    }

    #[test]
    fn who_else_may_write_is_known() {
        let folder = Folder::new("doubt");
        let (path, link) = (folder.0.join("lines"), folder.0.join("link"));
        let doubt = |path: &Path| LineFile::open(path).expect("open").doubt();
        assert_eq!(doubt(&path), None);
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert_eq!(doubt(&link), Some("it is a symbolic link"));
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, everybody).expect("own");
        assert_eq!(doubt(&path), Some("others may write it"));
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
}
