//! Which kinds of events a stream shows.

use super::model::EventKind;

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KindSet(u32);

impl KindSet {
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);

    /// What is shown when nothing is asked for: all but exec and exit.
    pub const DEFAULT: Self = Self::of_stream(false).without(EventKind::Exec).without(EventKind::Exit);

    /// Every kind; of a recording those too that are only in one.
    pub const fn of_stream(is_recording: bool) -> Self {
        if is_recording {
            Self::ALL
        } else {
            Self::ALL
                .without(EventKind::Start)
                .without(EventKind::Facts)
                .without(EventKind::Sample)
                .without(EventKind::Clock)
        }
    }

    /// Whether a kind is in it.
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }

    /// What is left of a connection when each has one line.
    pub const SUMMARY: Self =
        Self::DEFAULT.without(EventKind::Connect).without(EventKind::Established).without(EventKind::Accept);

    const fn without(self, kind: EventKind) -> Self {
        Self(self.0 & !(1 << kind as u32))
    }

    const fn with(self, kind: EventKind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// These and others.
    #[must_use]
    pub fn and(self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        kinds.into_iter().fold(self, Self::with)
    }

    /// The kinds, in the order of the documentation.
    pub fn kinds(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<EventKind> for KindSet {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(0).and(kinds)
    }
}
