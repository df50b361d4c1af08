//! The reader of the BPF ring buffer, with its wake-up moderation.
//!
//! One wake-up costs the traced thread about 1.4 µs, a record 0.2–0.4 µs: wake-ups are what tracing costs. The kernel
//! wakes the reader only when the reader's position equals that of the record being committed
//! (`bpf_ringbuf_commit`, kernel/bpf/ringbuf.c). Two things keep that rare while much comes: the reader publishes its
//! position once a batch, not once a record, and while it naps it keeps the position one record behind, so that no
//! record finds it caught up. Before it goes back to epoll it publishes everything and looks again.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::mapping::Mapping;

/// Length bit: the record is reserved but not committed (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// Length bit: the record was given up (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARD: u32 = 1 << 30;
/// Bytes of the kernel's record header (`BPF_RINGBUF_HDR_SZ`).
const HEADER: u64 = 8;

/// Records within [`WINDOW`] up to which the reader goes back to epoll at once. The rate counts, not the size of one
/// drain: on another core a fast reader finds a record or two at each of very many wake-ups.
const FEW: usize = 16;
/// Over what time the rate is taken.
const WINDOW: Duration = Duration::from_millis(1);
/// Shortest and longest nap.
const NAP_MIN: Duration = Duration::from_micros(200);
const NAP_MAX: Duration = Duration::from_millis(1);
/// This many records within [`WINDOW`] deserve the longest nap.
const MANY: usize = 64;

/// The two positions and the data of a ring, independent of how they are mapped: what the tests drive.
struct View {
    /// Ours: the kernel may write over everything before it.
    consumer: NonNull<AtomicU64>,
    /// The kernel's.
    producer: NonNull<AtomicU64>,
    /// The data, mapped twice in a row so that a record never wraps.
    data: NonNull<u64>,
    /// Size of the data minus one; the size is a power of two.
    mask: u64,
    /// Up to here records were handed out; published lazily.
    read: u64,
    /// Start of the last record that was handed out.
    last: u64,
}

impl View {
    fn consumer(&self) -> &AtomicU64 {
        // SAFETY: valid as long as the view's owner keeps the mapping.
        unsafe { self.consumer.as_ref() }
    }

    fn producer(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { self.producer.as_ref() }
    }

    /// Hands out up to `limit` records; how many there were.
    fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < limit && self.read != self.producer().load(Ordering::Acquire) {
            let len = self.length_at_read();
            if len & BUSY != 0 {
                break;
            }
            let size = len & !DISCARD;
            if len & DISCARD == 0 {
                let at = (self.read & self.mask) as usize;
                // SAFETY: the record is committed, lies within the double mapping, and the kernel does not write over
                // it before the position is published past it.
                let record = unsafe {
                    std::slice::from_raw_parts(
                        self.data.as_ptr().cast::<u8>().add(at + HEADER as usize),
                        size as usize,
                    )
                };
                each(record);
                count += 1;
            }
            self.last = self.read;
            self.read += (u64::from(size) + HEADER).next_multiple_of(8);
        }
        count
    }

    /// Gives the space back, but stays one record behind: no commit then finds the reader caught up.
    fn publish_behind(&self) {
        self.consumer().store(self.last, Ordering::Release);
    }

    /// Gives all the space back; whether the next commit will wake us.
    fn publish(&self) -> bool {
        self.consumer().store(self.read, Ordering::SeqCst);
        // Pairs with the full barrier of `bpf_ringbuf_commit` (xchg) before it reads our position: either it sees the
        // new position and wakes us, or we see its record here.
        fence(Ordering::SeqCst);
        self.read == self.producer().load(Ordering::SeqCst) || self.length_at_read() & BUSY != 0
    }

    /// The length word of the next record.
    fn length_at_read(&self) -> u32 {
        let at = (self.read & self.mask) as usize;
        // SAFETY: records start at multiples of 8 within the data; the kernel writes the length atomically.
        unsafe { &*self.data.as_ptr().byte_add(at).cast::<AtomicU32>() }.load(Ordering::Acquire)
    }
}

/// What a turn of the reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Little or nothing: wait on [`RingReader::readable`].
    Idle,
    /// A lot: nap for this long, then turn again.
    Nap(Duration),
    /// The batch was full: turn again at once, after other work.
    More,
}

/// How many records came lately.
struct Rate {
    since: Instant,
    count: usize,
}

impl Rate {
    /// Adds records; how many there were in the current window.
    fn add(&mut self, count: usize, now: Instant) -> usize {
        if now.duration_since(self.since) > WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count += count;
        self.count
    }
}

/// How long to nap at this rate.
fn nap(recent: usize) -> Duration {
    let share = u32::try_from(recent.min(MANY)).unwrap_or(u32::MAX);
    (NAP_MAX * share / MANY as u32).max(NAP_MIN)
}

/// Reads the ring buffer of the BPF programs.
pub struct RingReader {
    view: View,
    rate: Rate,
    /// The map's descriptor, for epoll; the map itself is kept by whoever loaded the programs.
    fd: AsyncFd<OwnedFd>,
    _consumer_page: Mapping,
    _producer_pages: Mapping,
}

// SAFETY: the mapping is owned by the reader and used through `&mut self` only.
unsafe impl Send for RingReader {}

impl RingReader {
    /// Maps the ring `fd` of `size` bytes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated, mapped or registered with epoll, or the size is not a power of two.
    pub fn new(fd: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        let fd = fd.try_clone_to_owned()?;
        // SAFETY: sysconf has no precondition.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let data_len = size as usize;
        if !data_len.is_power_of_two() || data_len < page {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a ring of {size} bytes: it must be a power of two and at least a page"),
            ));
        }
        // kernel/bpf/ringbuf.c: page 0 is the consumer's position (ours to write), page 1 the producer's, then the data
        // twice in a row.
        let consumer_page = Mapping::new(fd.as_raw_fd(), page, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer_pages = Mapping::new(fd.as_raw_fd(), page + 2 * data_len, page, libc::PROT_READ)?;
        // SAFETY: the data begins one page into the second mapping.
        let data = unsafe { producer_pages.start().add(page) }.cast();
        let mut view = View {
            consumer: consumer_page.start().cast(),
            producer: producer_pages.start().cast(),
            data,
            mask: data_len as u64 - 1,
            read: 0,
            last: 0,
        };
        view.read = view.consumer().load(Ordering::Acquire);
        view.last = view.read;
        // SAFETY: an owned descriptor stays open, and the same, until the AsyncFd drops it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self {
            view,
            rate: Rate { since: Instant::now(), count: 0 },
            fd,
            _consumer_page: consumer_page,
            _producer_pages: producer_pages,
        })
    }

    /// Waits until the kernel says that there is something to read. Cancel safe.
    ///
    /// # Errors
    /// When epoll fails.
    pub async fn readable(&self) -> io::Result<()> {
        // Cleared before the drain: an edge that comes meanwhile makes us look once more, and none is lost.
        self.fd.readable().await?.clear_ready();
        Ok(())
    }

    /// Hands out up to `limit` records and says what to do next.
    pub fn turn(&mut self, limit: usize, each: impl FnMut(&[u8])) -> Turn {
        let count = self.view.drain(limit, each);
        if count >= limit {
            self.view.publish_behind();
            return Turn::More;
        }
        let recent = self.rate.add(count, Instant::now());
        if count > 0 && recent > FEW {
            self.view.publish_behind();
            return Turn::Nap(nap(recent));
        }
        if self.view.publish() { Turn::Idle } else { Turn::More }
    }

    /// Hands out everything that is left: for the end, when no program can write any more.
    pub fn drain_all(&mut self, mut each: impl FnMut(&[u8])) {
        while self.view.drain(usize::MAX, &mut each) > 0 {}
        self.view.publish();
    }

    /// Hands out what was committed when it is called, and perhaps some of what comes meanwhile. Unlike
    /// [`Self::drain_all`] it ends, however fast the programs write.
    ///
    /// It gives the space back as while reading goes on, so nothing wakes us: a [`Self::turn`] must follow.
    pub fn catch_up(&mut self, mut each: impl FnMut(&[u8])) {
        /// Less than any record takes with its head.
        const SMALLEST: u64 = 64;
        let mut limit =
            usize::try_from(self.backlog_bytes() / SMALLEST).unwrap_or(usize::MAX).saturating_add(1);
        while limit > 0 {
            let count = self.view.drain(limit, &mut each);
            if count == 0 {
                break;
            }
            limit -= count;
        }
        self.view.publish_behind();
    }

    /// Bytes that wait to be read.
    pub fn backlog_bytes(&self) -> u64 {
        self.view.producer().load(Ordering::Relaxed).saturating_sub(self.view.read)
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring in ordinary memory, written as the kernel writes it.
    struct FakeRing {
        consumer: Box<AtomicU64>,
        producer: Box<AtomicU64>,
        data: Box<[u64]>,
        size: usize,
    }

    impl FakeRing {
        fn new(size: usize) -> Self {
            Self {
                consumer: Box::new(AtomicU64::new(0)),
                producer: Box::new(AtomicU64::new(0)),
                data: vec![0; size / 4].into_boxed_slice(),
                size,
            }
        }

        fn view(&mut self) -> View {
            View {
                consumer: NonNull::from(&*self.consumer),
                producer: NonNull::from(&*self.producer),
                data: NonNull::new(self.data.as_mut_ptr()).unwrap(),
                mask: self.size as u64 - 1,
                read: 0,
                last: 0,
            }
        }

        /// Writes a record into both copies of the data; `false` when there is no room, as `bpf_ringbuf_reserve` does.
        fn write(&mut self, payload: &[u8], bits: u32) -> bool {
            let at = self.producer.load(Ordering::Relaxed);
            let total = (payload.len() as u64 + HEADER).next_multiple_of(8);
            if at + total - self.consumer.load(Ordering::Relaxed) > self.size as u64 - 1 {
                return false;
            }
            let mut record = (payload.len() as u32 | bits).to_ne_bytes().to_vec();
            record.extend([0; 4]);
            record.extend(payload);
            let start = at as usize & (self.size - 1);
            let data = self.data.as_mut_ptr().cast::<u8>();
            for (index, byte) in record.iter().enumerate() {
                let index = (start + index) % self.size;
                // SAFETY: the test's own buffer has twice `size` bytes.
                unsafe {
                    data.add(index).write(*byte);
                    data.add(index + self.size).write(*byte);
                }
            }
            self.producer.store(at + total, Ordering::Release);
            true
        }
    }

    #[test]
    fn records_come_in_order_and_wrap_around() {
        let mut ring = FakeRing::new(4096);
        let mut view = ring.view();
        let (mut written, mut seen) = (0u32, 0u32);
        for round in 0..2000u32 {
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
        assert!(written > 3000);
        assert_eq!(written, seen);
    }

    #[test]
    fn a_discarded_record_is_skipped_and_a_busy_one_stops_the_drain() {
        let mut ring = FakeRing::new(4096);
        let mut view = ring.view();
        ring.write(b"gone", DISCARD);
        ring.write(b"here", 0);
        ring.write(b"busy", BUSY);
        ring.write(b"later", 0);
        let mut seen = Vec::new();
        assert_eq!(view.drain(usize::MAX, |record| seen.push(record.to_vec())), 1);
        assert_eq!(seen, [b"here"]);
        assert!(
            view.publish(),
            "the commit of the busy record finds our position equal to its own and wakes us"
        );
        assert_eq!(ring.consumer.load(Ordering::Relaxed), 32);
    }

    #[test]
    fn a_napping_reader_never_looks_caught_up() {
        let mut ring = FakeRing::new(4096);
        let mut view = ring.view();
        for _ in 0..20 {
            ring.write(b"12345678", 0);
        }
        view.drain(usize::MAX, |_| {});
        view.publish_behind();
        let next = ring.producer.load(Ordering::Relaxed);
        assert_ne!(
            ring.consumer.load(Ordering::Relaxed),
            next,
            "the next record's position would equal ours"
        );
        assert!(view.publish());
        assert_eq!(ring.consumer.load(Ordering::Relaxed), next);
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
        let mut ring = FakeRing::new(4096);
        let mut view = ring.view();
        for _ in 0..10 {
            ring.write(b"x", 0);
        }
        assert_eq!(view.drain(4, |_| {}), 4);
        assert_eq!(view.drain(100, |_| {}), 6);
    }
}
