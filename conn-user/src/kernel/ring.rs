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
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::mapping::Mapping;
use crate::priority::Gauge;

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

/// Returns whether an eighth or more of a ring waits to be read: the reader is behind. `mask` is the ring's size minus one.
const fn is_much(waiting: u64, mask: u64) -> bool {
    waiting > mask / 8
}

/// Reads the ring buffer of the BPF programs.
pub struct RingReader {
    view: View,
    rate: Rate,
    /// The map's descriptor, for epoll; the map itself is kept by whoever loaded the programs.
    fd: AsyncFd<OwnedFd>,
    consumer_page: Arc<Mapping>,
    producer_pages: Arc<Mapping>,
}

/// How full a ring is, for another thread than the one that reads it.
pub struct RingGauge {
    consumer_page: Arc<Mapping>,
    producer_pages: Arc<Mapping>,
    /// Size of the data minus one.
    mask: u64,
}

impl RingGauge {
    /// Bytes that wait to be read, or were read and not given back.
    fn backlog_bytes(&self) -> u64 {
        let position = |page: &Mapping| {
            // SAFETY: each page begins with a position, which is used as an atomic only, and stays mapped.
            unsafe { page.start().cast::<AtomicU64>().as_ref() }.load(Ordering::Relaxed)
        };
        position(&self.producer_pages).saturating_sub(position(&self.consumer_page))
    }
}

impl Gauge for RingGauge {
    fn is_behind(&self) -> bool {
        is_much(self.backlog_bytes(), self.mask)
    }

    fn is_empty(&self) -> bool {
        self.backlog_bytes() == 0
    }
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
            consumer_page: consumer_page.into(),
            producer_pages: producer_pages.into(),
        })
    }

    /// Shows how full it is.
    pub fn gauge(&self) -> RingGauge {
        let (consumer_page, producer_pages) =
            (Arc::clone(&self.consumer_page), Arc::clone(&self.producer_pages));
        RingGauge { consumer_page, producer_pages, mask: self.view.mask }
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

    /// Whether an eighth of the ring or more waits to be read.
    pub fn is_behind(&self) -> bool {
        is_much(self.backlog_bytes(), self.view.mask)
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
mod tests;
