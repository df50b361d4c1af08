//! Recordings as a history: their events are stored in a temporary one, in the tables that an agent writes, and asked there.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::replay::emit_cut;
use crate::event::json::StreamIdentity;
use crate::event::read::{Reader, Recorded};
use crate::history::store::Store;
use crate::replay::file::Recording;
use crate::units::WallNs;

/// Rows between two commits.
const BATCH: usize = 5_000;
/// The only file. All days are in it.
const FILE: &str = "history-29991231.db";

/// A history in a folder of its own, which goes with this value.
pub(super) struct Recordings {
    folder: PathBuf,
}

impl Recordings {
    /// Reads recordings, packed or not, in this order.
    ///
    /// # Errors
    /// When one cannot be read, or the temporary history cannot be written.
    pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let recordings = Self::make().context("making a temporary directory")?;
        let mut writer = Writer { path: recordings.folder.join(FILE), store: None, at: WallNs(0) };
        let mut reader = Reader::default().with_alerts();
        for file in files {
            let mut recording = Recording::open(file)?;
            while let Some(recorded) = recording.next(&mut reader)? {
                match (recorded, reader.stream()) {
                    (Recorded::Event(event), Some(stream)) => writer.take(stream, &event)?,
                    (Recorded::Facts(_, facts), _) => facts.apply(),
                    _ => {}
                }
            }
            emit_cut(recording.name(), recording.cut());
        }
        writer.end_run()?;
        Ok(recordings)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn make() -> std::io::Result<Self> {
        let name = format!("conn-query-{}-{}", std::process::id(), crate::clock::boot_now().0);
        let folder = std::env::temp_dir().join(name);
        // Whoever was there first is somebody else.
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }
}

impl Drop for Recordings {
    fn drop(&mut self) {
        // It is in the way of nothing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes the events of one run after the other.
struct Writer {
    path: PathBuf,
    store: Option<(StreamIdentity, Store)>,
    /// Of the last event.
    at: WallNs,
}

impl Writer {
    fn take(&mut self, of: &StreamIdentity, event: &crate::event::model::Event) -> anyhow::Result<()> {
        if self.store.as_ref().is_none_or(|(own, _)| own != of) {
            self.end_run()?;
            let store = Store::open(&self.path, of, (event.boot, event.wall), 0)?;
            self.store = Some((of.clone(), store));
        }
        self.at = event.wall;
        if let Some((_, store)) = &mut self.store {
            store.apply(event);
            if store.waiting() >= BATCH {
                store.commit()?;
            }
        }
        Ok(())
    }

    fn end_run(&mut self) -> anyhow::Result<()> {
        if let Some((_, store)) = self.store.take() {
            store.finish(self.at, false)?;
        }
        Ok(())
    }
}
