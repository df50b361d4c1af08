//! Which processes a compact stream has written out.

use std::sync::Arc;

use crate::event::wire::REFERRED_MAX;
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::units::Pid;

/// The processes that were written out, by what makes their ids, as their last texts have them.
///
/// A reader keeps at least the last [`REFERRED_MAX`] that were written out: after as many, all are written out anew.
#[derive(Debug, Default)]
pub(super) struct WrittenOut {
    by_id: IntMap<(Pid, u64), (Arc<ProcessInfo>, u16)>,
    count: u64,
}

impl WrittenOut {
    /// Returns whether the process is written out as it is known now, and takes note that it will be, if it is not.
    pub(super) fn has(&mut self, process: &Arc<ProcessInfo>) -> bool {
        // Read before the text is made: what becomes known meanwhile makes it anew the next time.
        let version = process.identity.version();
        let id = (process.pid, process.start_ticks());
        let is_known =
            |(known, then): &(Arc<ProcessInfo>, u16)| Arc::ptr_eq(known, process) && *then == version;
        if self.by_id.get(&id).is_some_and(is_known) {
            return true;
        }
        self.count += 1;
        if self.count > REFERRED_MAX {
            self.by_id.clear();
            self.count = 1;
        }
        self.by_id.insert(id, (Arc::clone(process), version));
        false
    }
}
