//! A ring of the test's own. `cargo miri` runs them too (CONTRIBUTING.md).

use super::*;

/// A ring in ordinary memory, written as the kernel writes it. All of its memory is used through pointers, as memory that is
/// mapped is: `cargo miri` then checks what the reader does with it.
struct FakeRing {
    consumer: NonNull<AtomicU64>,
    producer: NonNull<AtomicU64>,
    /// The data twice in a row: `2 * size` bytes.
    data: NonNull<[u64]>,
    size: usize,
}

// SAFETY: positions and lengths are atomic; other bytes are written before the length that shows them is, and not again before
// the reader's position is past them.
unsafe impl Sync for FakeRing {}

impl FakeRing {
    fn new(size: usize) -> Self {
        let data = vec![0; size / 4].into_boxed_slice();
        Self {
            consumer: leaked(Box::new(AtomicU64::new(0))),
            producer: leaked(Box::new(AtomicU64::new(0))),
            data: leaked(data),
            size,
        }
    }

    fn view(&self) -> View {
        View {
            consumer: self.consumer,
            producer: self.producer,
            data: self.data.cast(),
            mask: self.size as u64 - 1,
            read: 0,
            last: 0,
        }
    }

    fn consumer(&self) -> u64 {
        // SAFETY: the ring's own, used as an atomic only.
        unsafe { self.consumer.as_ref() }.load(Ordering::Acquire)
    }

    fn producer(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.producer.as_ref() }.load(Ordering::Relaxed)
    }

    /// Writes a record; `false` when there is no room. Only one thread may write.
    fn write(&self, payload: &[u8], bits: u32) -> bool {
        let Some(at) = self.reserve(payload) else { return false };
        self.commit(at, payload, bits);
        true
    }

    /// Makes room for a record, which is busy until it is committed (`__bpf_ringbuf_reserve`).
    fn reserve(&self, payload: &[u8]) -> Option<usize> {
        let at = self.producer();
        let total = (payload.len() as u64 + HEADER).next_multiple_of(8);
        if at + total - self.consumer() > self.size as u64 - 1 {
            return None;
        }
        let start = at as usize & (self.size - 1);
        self.length(start).store(payload.len() as u32 | BUSY, Ordering::Relaxed);
        // SAFETY: as in `producer`.
        unsafe { self.producer.as_ref() }.store(at + total, Ordering::Release);
        Some(start)
    }

    /// Writes the record, and shows it (`bpf_ringbuf_commit`).
    fn commit(&self, start: usize, payload: &[u8], bits: u32) {
        let first = self.data.as_ptr().cast::<u8>();
        for (index, byte) in payload.iter().enumerate() {
            let index = (start + HEADER as usize + index) % self.size;
            for copy in [index, index + self.size] {
                // SAFETY: the data has twice `size` bytes, and nobody reads these before the length shows them.
                unsafe { first.add(copy).write(*byte) };
            }
        }
        self.length(start).store(payload.len() as u32 | bits, Ordering::Release);
    }

    fn length(&self, start: usize) -> &AtomicU32 {
        // SAFETY: within the data, aligned to 8, and used as an atomic only.
        unsafe { &*self.data.as_ptr().cast::<AtomicU32>().byte_add(start) }
    }
}

impl Drop for FakeRing {
    fn drop(&mut self) {
        // SAFETY: made from boxes, which nothing uses any more.
        unsafe {
            drop(Box::from_raw(self.consumer.as_ptr()));
            drop(Box::from_raw(self.producer.as_ptr()));
            drop(Box::from_raw(self.data.as_ptr()));
        }
    }
}

fn leaked<T: ?Sized>(value: Box<T>) -> NonNull<T> {
    NonNull::from(Box::leak(value))
}

#[test]
fn records_come_in_order_and_wrap_around() {
    let ring = FakeRing::new(4096);
    let mut view = ring.view();
    let (mut written, mut seen) = (0u32, 0u32);
    let rounds: u32 = if cfg!(miri) { 200 } else { 2_000 };
    for round in 0..rounds {
        for _ in 0..(round % 5) {
            let mut payload = written.to_ne_bytes().to_vec();
            payload.resize(4 + (written % 70) as usize, 0xab);
            if ring.write(&payload, 0) {
                written += 1;
            }
        }
        view.drain(usize::MAX, |record| {
            assert_eq!(record[..4], seen.to_ne_bytes());
            assert_eq!(record.len(), 4 + (seen % 70) as usize);
            seen += 1;
        });
        assert!(view.publish());
    }
    assert!(written > rounds * 3 / 2);
    assert_eq!(written, seen);
}

#[test]
fn a_discarded_record_is_skipped_and_a_busy_one_stops_the_drain() {
    let ring = FakeRing::new(4096);
    let mut view = ring.view();
    ring.write(b"gone", DISCARD);
    ring.write(b"here", 0);
    ring.write(b"busy", BUSY);
    ring.write(b"later", 0);
    let mut seen = Vec::new();
    assert_eq!(view.drain(usize::MAX, |record| seen.push(record.to_vec())), 1);
    assert_eq!(seen, [b"here"]);
    assert!(view.publish(), "the commit of the busy record finds our position equal to its own and wakes us");
    assert_eq!(ring.consumer(), 32);
}

#[test]
fn a_napping_reader_never_looks_caught_up() {
    let ring = FakeRing::new(4096);
    let mut view = ring.view();
    for _ in 0..20 {
        ring.write(b"12345678", 0);
    }
    view.drain(usize::MAX, |_| {});
    view.publish_behind();
    let next = ring.producer();
    assert_ne!(ring.consumer(), next, "the next record's position would equal ours");
    assert!(view.publish());
    assert_eq!(ring.consumer(), next);
}

#[test]
fn many_small_drains_are_a_high_rate() {
    let start = Instant::now();
    let mut rate = Rate { since: start, count: 0 };
    let mut recent = 0;
    for step in 0..20 {
        recent = rate.add(1, start + Duration::from_micros(40 * step));
    }
    assert!(recent > FEW, "20 records in 0.8 ms");
    assert!(nap(recent) >= NAP_MIN && nap(recent) < NAP_MAX);
    assert_eq!(nap(1000), NAP_MAX);
    assert_eq!(rate.add(1, start + Duration::from_millis(5)), 1, "a pause ends the window");
}

#[test]
fn a_limit_bounds_a_drain() {
    let ring = FakeRing::new(4096);
    let mut view = ring.view();
    for _ in 0..10 {
        ring.write(b"x", 0);
    }
    assert_eq!(view.drain(4, |_| {}), 4);
    assert_eq!(view.drain(100, |_| {}), 6);
}

/// A writer on another thread, in a ring that is nearly always full.
#[test]
fn two_threads_agree() {
    let records: u32 = if cfg!(miri) { 60 } else { 200_000 };
    let ring = FakeRing::new(4096);
    let mut view = ring.view();
    let payload = |record: u32| {
        let mut payload = record.to_ne_bytes().to_vec();
        payload.resize(4 + (record % 300) as usize, record as u8);
        payload
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for record in 0..records {
                let payload = payload(record);
                let start = loop {
                    match ring.reserve(&payload) {
                        Some(start) => break start,
                        None => std::thread::yield_now(),
                    }
                };
                ring.commit(start, &payload, if record % 7 == 0 { DISCARD } else { 0 });
            }
        });
        let mut expected = (0..records).filter(|record| record % 7 != 0).map(payload);
        let mut left = expected.clone().count();
        while left > 0 {
            left -= view.drain(16, |record| assert_eq!(Some(record), expected.next().as_deref()));
            view.publish();
            std::thread::yield_now();
        }
    });
}
