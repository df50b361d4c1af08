//! A history is bounded by unlinking whole files: deleting rows costs more than writing them, and frees nothing.

use std::fs;
use std::io;
use std::path::Path;

use super::days::{self, BESIDE, DayFile};
use super::error::HistoryError;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The last so many days of which there is anything, today included; at least one. Not by today's date: a clock that is set wrong
    /// must not unlink everything.
    pub days: u32,
    /// So many bytes, of all files together.
    pub bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { days: 30, bytes: 2 << 30 }
    }
}

/// What a sweep left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files that were unlinked, by name.
    pub unlinked: Vec<String>,
    /// Bytes of what is left.
    pub bytes: u64,
    /// Files that are left.
    pub files: usize,
}

/// Unlinks the oldest files, never the one that is written.
///
/// # Errors
/// When the folder cannot be read, or a file cannot be unlinked.
pub fn sweep(folder: &Path, keep: Keep, current: &Path) -> Result<Swept, HistoryError> {
    let files = days::list(folder)?;
    let mut days: Vec<&str> = files.iter().map(DayFile::day).collect();
    days.dedup();
    let first_kept = days.len().saturating_sub(keep.days.max(1) as usize);
    let oldest = days.get(first_kept).copied().unwrap_or_default();
    let mut swept = Swept { files: files.len(), ..Swept::default() };
    let sizes: Vec<u64> = files.iter().map(|file| size(&file.path)).collect();
    swept.bytes = sizes.iter().sum();
    for (file, size) in files.iter().zip(sizes) {
        let is_old = file.day() < oldest;
        if file.path == current || !is_old && swept.bytes <= keep.bytes {
            continue;
        }
        unlink(file)?;
        swept.bytes -= size;
        swept.files -= 1;
        swept.unlinked.push(file.name.clone());
    }
    Ok(swept)
}

/// Bytes of a file and of what is beside it.
pub fn size(path: &Path) -> u64 {
    let of = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    of(path) + BESIDE.iter().map(|suffix| of(&days::beside(path, suffix))).sum::<u64>()
}

/// The file itself first: what is left beside it is nothing without it.
fn unlink(file: &DayFile) -> Result<(), HistoryError> {
    let paths = BESIDE.iter().map(|suffix| days::beside(&file.path, suffix));
    for path in [file.path.clone()].into_iter().chain(paths) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HistoryError::Io { path, error });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::days::Day;
    use super::super::tests::Folder;
    use super::*;
    use crate::units::WallNs;

    const DAY: u64 = 24 * 60 * 60 * 1_000_000_000;
    const NOW: WallNs = WallNs(20_788 * DAY + 5);

    fn file(folder: &Folder, ago: u64, bytes: usize) -> std::path::PathBuf {
        let path = days::path(&folder.0, Day::of(WallNs(NOW.0 - ago * DAY)), 0);
        fs::write(&path, vec![0; bytes]).expect("a file");
        path
    }

    #[test]
    fn days_and_bytes_bound_it() {
        let folder = Folder::new("retention");
        let paths: Vec<_> = (0..5).map(|ago| file(&folder, ago, 1000)).collect();
        fs::write(days::beside(&paths[4], "-wal"), [0; 500]).expect("a file");
        let keep = Keep { days: 4, bytes: 10_000 };
        let swept = sweep(&folder.0, keep, &paths[0]).expect("swept");
        assert_eq!((swept.bytes, swept.files, swept.unlinked.len()), (4000, 4, 1));
        assert!(!days::beside(&paths[4], "-wal").exists(), "with what is beside it");
        let swept = sweep(&folder.0, Keep { bytes: 2500, ..keep }, &paths[0]).expect("swept");
        assert_eq!((swept.bytes, swept.files), (2000, 2));
        assert!(paths[0].exists() && paths[1].exists() && !paths[2].exists(), "the oldest go first");
        let swept = sweep(&folder.0, Keep { bytes: 1, ..keep }, &paths[0]).expect("swept");
        assert_eq!(swept.files, 1, "never the one that is written");
    }
}
