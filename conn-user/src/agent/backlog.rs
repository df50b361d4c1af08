//! Records that wait in memory while the start-up snapshot is taken or /proc is read: that may take longer than the ring has room
//! for.

use bytes::{Bytes, BytesMut};

use super::source::Records;
use crate::kernel::ring::Turn;

/// Records of one batch: bounds how long whoever else waits has to, and what the ring cannot use meanwhile.
pub(super) const BATCH: usize = 1024;
/// Bytes that may wait; beyond them the ring fills, and what finds no room there is a gap.
const MOST: usize = 16 << 20;

/// Records in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: BytesMut,
    lengths: Vec<usize>,
}

impl Backlog {
    /// Takes a record.
    pub(super) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.lengths.push(record.len());
    }

    /// Takes what is in the ring, as far as there is room.
    pub(super) fn fill(&mut self, records: &mut impl Records) {
        while !self.is_full() && records.turn(BATCH, |bytes| self.push(bytes)) == Turn::More {}
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= MOST
    }

    /// Hands out every record.
    pub(super) fn each(self, mut take: impl FnMut(&[u8])) {
        let mut rest: Bytes = self.bytes.freeze();
        for length in self.lengths {
            take(&rest.split_to(length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_comes_out() {
        let mut backlog = Backlog::default();
        let records: [&[u8]; 3] = [b"one", b"", b"three"];
        for record in records {
            backlog.push(record);
        }
        assert!(!backlog.is_full());
        let mut out = Vec::new();
        backlog.each(|record| out.push(record.to_vec()));
        assert_eq!(out, records);
    }
}
