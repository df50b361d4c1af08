//! What few connections have: the column `more`.

use serde::{Deserialize, Serialize};

use super::row::ConnRow;
use crate::event::model::EventKind;
use crate::event::names::{Named as _, from_name};
use crate::flow::born::Born;
use crate::units::BootNs;

/// The column as JSON. Instants are on the boot clock, nanoseconds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct More {
    /// When the SYN was about to be sent, where that is not the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<u64>,
    /// Between which instants what was there before began.
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<u64>,
    /// How these bounds are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_by: Option<String>,
}

impl More {
    /// `None`: it has nothing of this.
    pub(super) fn of(row: &ConnRow) -> Option<Self> {
        let begun = row.conn.begun.0;
        let is_usual = match row.first {
            EventKind::Connect => begun == row.begin.boot.0,
            _ => begun == 0,
        };
        let born = row.conn.born.as_ref();
        let more = Self {
            begun: (!is_usual).then_some(begun),
            earliest: born.map(|born| born.earliest.0),
            latest: born.map(|born| born.latest.0),
            earliest_by: born.map(|born| born.earliest_by.name().to_owned()),
            latest_by: born.map(|born| born.latest_by.name().to_owned()),
        };
        (more != Self::default()).then_some(more)
    }

    /// When the SYN was about to be sent; 0: that is not known.
    pub(super) fn begun(&self, first: EventKind, first_boot: BootNs) -> BootNs {
        let usual = if first == EventKind::Connect { first_boot } else { BootNs(0) };
        self.begun.map_or(usual, BootNs)
    }

    /// `Err`: it is not as it was written.
    pub(super) fn born(&self) -> Result<Option<Born>, ()> {
        let (Some(earliest), Some(latest)) = (self.earliest, self.latest) else { return Ok(None) };
        let by = |name: &Option<String>| name.as_deref().and_then(from_name).ok_or(());
        Ok(Some(Born {
            earliest: BootNs(earliest),
            latest: BootNs(latest),
            earliest_by: by(&self.earliest_by)?,
            latest_by: by(&self.latest_by)?,
        }))
    }
}
