//! A hash for keys that the kernel chose (process ids, socket cookies, addresses).
//!
//! The standard hash resists keys chosen by an adversary and costs more than the rest of a record's way through the
//! tables. Here a folded multiplication is enough: cookies and process ids are counters, and socket addresses differ
//! in their middle bits.

use std::hash::{BuildHasherDefault, Hasher};

/// Odd, and without a short period in binary: the fraction of the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hasher for integers that the kernel chose; for keys that an adversary chooses it is the wrong one.
#[derive(Clone, Copy, Debug, Default)]
pub struct IntHasher(u64);

/// Builds [`IntHasher`]s.
pub type IntBuild = BuildHasherDefault<IntHasher>;
/// A map from a number to something.
pub type IntMap<K, V> = std::collections::HashMap<K, V, IntBuild>;

impl Hasher for IntHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        // Rotated, so that a field of zeros still separates what comes before from what comes after.
        let product = u128::from(self.0.rotate_left(23) ^ n ^ FACTOR) * u128::from(FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, Hash as _};

    use super::*;

    /// Small numbers, counters and aligned addresses fill a small table's buckets (low bits) and tags (high bits).
    #[test]
    fn spreads_counters_and_addresses() {
        for (start, step) in [(0u64, 1u64), (0xffff_8881_0000_0000, 2304), (1 << 40, 1 << 20)] {
            let hashes: Vec<u64> =
                (0..4096).map(|i| IntBuild::default().hash_one(start.wrapping_add(i * step))).collect();
            let low: HashSet<u64> = hashes.iter().map(|h| h & 0xfff).collect();
            let high: HashSet<u64> = hashes.iter().map(|h| h >> 57).collect();
            // 4096 balls in 4096 bins leave about 37 % empty.
            assert!(low.len() > 2000, "step {step}: {} of 4096 buckets", low.len());
            assert_eq!(high.len(), 128, "step {step}");
        }
    }

    #[test]
    fn fields_in_another_order_differ() {
        let hash = |a: u32, b: u16| {
            let mut h = IntHasher::default();
            (a, b).hash(&mut h);
            h.finish()
        };
        assert_ne!(hash(0, 1), hash(1, 0));
        assert_ne!(hash(7, 0), hash(0, 7));
    }
}
