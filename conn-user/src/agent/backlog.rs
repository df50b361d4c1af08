//! Records that wait in memory while the start-up snapshot is taken: it may take longer than the ring has room for.

/// Bytes that may wait; beyond them the ring fills, and what finds no room there is a gap.
const MOST: usize = 16 << 20;

/// Records in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    lengths: Vec<u32>,
}

impl Backlog {
    /// Takes a record.
    pub(super) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        // Records are of some kilobytes.
        self.lengths.push(record.len() as u32);
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() >= MOST
    }

    /// Hands out every record.
    pub(super) fn each(&self, mut take: impl FnMut(&[u8])) {
        let mut rest = self.bytes.as_slice();
        for &length in &self.lengths {
            let (record, after) = rest.split_at(length as usize);
            rest = after;
            take(record);
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
        let mut out = Vec::new();
        backlog.each(|record| out.push(record.to_vec()));
        assert_eq!(out, records);
        assert!(!backlog.is_full());
    }
}
