//! The files of a history: one a day, named by it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::error::HistoryError;
use crate::units::WallNs;

const PREFIX: &str = "history-";
const SUFFIX: &str = ".db";
/// What SQLite keeps beside a file that is in use.
pub(super) const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Group members read, others do nothing.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// A day in UTC: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u64);

impl Day {
    /// Nanoseconds of a day.
    pub(super) const NANOS: u64 = 24 * 60 * 60 * 1_000_000_000;

    /// The day of an instant.
    pub const fn of(at: WallNs) -> Self {
        Self(at.0 / Self::NANOS)
    }

    /// When it begins.
    pub const fn begin(self) -> WallNs {
        WallNs(self.0.saturating_mul(Self::NANOS))
    }

    /// `20261201`.
    fn name(self) -> String {
        let seconds = (self.begin().0 / 1_000_000_000).cast_signed();
        let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        at.to_zoned_datetime(TimeZone::UTC).strftime("%Y%m%d").to_string()
    }
}

/// A file of a history, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayFile {
    /// Where it is.
    pub path: PathBuf,
    /// `20261201`, or `20261201-2` of a second one of that day.
    pub name: String,
}

impl DayFile {
    /// `20261201`.
    pub fn day(&self) -> &str {
        self.name.split_once('-').map_or(&self.name, |(day, _)| day)
    }

    /// Whether it is of a day before this one.
    pub(super) fn is_before(&self, day: Day) -> bool {
        *self.day() < *day.name()
    }
}

/// The file of a day; the first one has the number 0.
pub fn path(folder: &Path, day: Day, number: u32) -> PathBuf {
    let name = day.name();
    folder.join(match number {
        0 => format!("{PREFIX}{name}{SUFFIX}"),
        _ => format!("{PREFIX}{name}-{number}{SUFFIX}"),
    })
}

/// The files in a folder, the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<DayFile>, HistoryError> {
    let failed = |error| HistoryError::Io { path: folder.to_owned(), error };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(of) = of.filter(|of| of.starts_with(|first: char| first.is_ascii_digit())) {
            files.push(DayFile { path: entry.path(), name: of.to_owned() });
        }
    }
    let key = |file: &DayFile| {
        let (day, number) = file.name.split_once('-').unwrap_or((&file.name, "0"));
        (day.to_owned(), number.parse::<u32>().unwrap_or(u32::MAX))
    };
    files.sort_by_cached_key(key);
    Ok(files)
}

/// The path of what SQLite keeps beside a file.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the folder, if it is not there, and lets the members of a group read it.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(folder: &Path, group: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    if let Some(group) = group {
        chown(folder, None, Some(group))?;
        let mode = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o7777 | 0o050))?;
    }
    Ok(())
}

/// Makes a file that only its owner writes and the members of a group read: what SQLite makes beside it has the same rights.
///
/// # Errors
/// When it cannot be made, or is no regular file.
pub fn make_file(path: &Path, group: Option<u32>) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut options = File::options();
    let file =
        options.write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if group.is_some() {
        std::os::unix::fs::fchown(&file, None, group)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_day_and_listed_in_order() {
        let folder = super::super::tests::Folder::new("days");
        let day = Day::of(WallNs(1_796_083_200_000_000_000));
        assert_eq!(day.begin(), WallNs(1_796_083_200_000_000_000));
        for number in [10, 2, 0] {
            make_file(&path(&folder.0, day, number), None).expect("a file");
        }
        let before = Day::of(WallNs(day.begin().0 - 1));
        make_file(&path(&folder.0, before, 0), None).expect("a file");
        fs::write(folder.0.join("history-20261201.db-wal"), "").expect("a file");
        fs::write(folder.0.join("history.db"), "").expect("a file");
        let names: Vec<String> =
            list(&folder.0).expect("a folder").into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["20261130", "20261201", "20261201-2", "20261201-10"]);
        let mode = fs::metadata(path(&folder.0, day, 0)).expect("there").permissions().mode();
        assert_eq!(mode & 0o037, 0, "the group reads, and nobody else");
    }
}
