//! What of processes could not be found out or kept, so that it can be reported while it happens.

use super::table::ProcessStats;

/// A way in which less is known of processes than should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Degradation {
    /// Processes were evicted or not kept: the table is full.
    TableFull,
    /// Processes or executables were not looked at: too many waited.
    InspectionsDropped,
    /// A file system did not answer.
    FilesStuck,
    /// Files were not opened, because their file systems or too many of them did not answer.
    FilesRefused,
    /// `/proc` did not answer for a process.
    ProcStuck,
    /// Arguments were not read, because `/proc` did not answer before.
    ProcRefused,
}

impl Degradation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::TableFull,
        Self::InspectionsDropped,
        Self::FilesStuck,
        Self::FilesRefused,
        Self::ProcStuck,
        Self::ProcRefused,
    ];

    /// What it means, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::TableFull => "processes not followed: limit reached",
            Self::InspectionsDropped => "processes or executables not inspected: limit reached",
            Self::FilesStuck => "file systems that do not answer: files on them are not inspected",
            Self::FilesRefused => "files not inspected: their file systems did not answer before",
            Self::ProcStuck => "processes whose arguments cannot be read: /proc does not answer",
            Self::ProcRefused => "processes whose arguments were not read: /proc did not answer before",
        }
    }

    /// How often it happened.
    pub const fn count(self, stats: &ProcessStats) -> u64 {
        let inspect = &stats.inspect;
        match self {
            Self::TableFull => stats.evicted + stats.not_kept,
            Self::InspectionsDropped => inspect.dropped + inspect.hash_dropped + inspect.compare_dropped,
            Self::FilesStuck => inspect.files.stuck,
            Self::FilesRefused => inspect.files.refused,
            Self::ProcStuck => stats.proc.stuck,
            Self::ProcRefused => stats.proc.refused,
        }
    }
}

/// Reports what is new since the last look. A look costs less than a microsecond while no worker is stuck.
#[derive(Clone, Copy, Debug, Default)]
pub struct DegradationWatch([u64; Degradation::ALL.len()]);

impl DegradationWatch {
    /// Returns what happened since the last look, and how often in all.
    pub fn look(&mut self, stats: &ProcessStats) -> impl Iterator<Item = (Degradation, u64)> + use<> {
        let now = Degradation::ALL.map(|what| what.count(stats));
        let before = std::mem::replace(&mut self.0, now);
        let grown = Degradation::ALL.into_iter().zip(now.into_iter().zip(before));
        grown.filter(|(_, (now, before))| now > before).map(|(what, (now, _))| (what, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_seen_once_as_often_as_it_grows() {
        let (mut watch, mut stats) = (DegradationWatch::default(), ProcessStats::default());
        assert_eq!(watch.look(&stats).count(), 0);
        stats.evicted = 1;
        stats.inspect.hash_dropped = 2;
        stats.inspect.files.stuck = 1;
        let seen: Vec<_> = watch.look(&stats).collect();
        assert_eq!(
            seen,
            [(Degradation::TableFull, 1), (Degradation::InspectionsDropped, 2), (Degradation::FilesStuck, 1)]
        );
        stats.inspect.dropped = 3;
        assert_eq!(watch.look(&stats).collect::<Vec<_>>(), [(Degradation::InspectionsDropped, 5)]);
        assert_eq!(watch.look(&stats).count(), 0);
    }
}
