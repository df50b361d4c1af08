//! The least of io_uring: one request at a time, by raw system calls.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_long, c_void, off_t};

use crate::sys::RawAddr;

/// `struct io_uring_params` (include/uapi/linux/io_uring.h), as 32-bit words.
#[repr(C, align(8))]
struct Params([u32; 30]);

/// Words of [`Params`].
mod word {
    pub(super) const SQ_ENTRIES: usize = 0;
    pub(super) const CQ_ENTRIES: usize = 1;
    pub(super) const SQ_HEAD: usize = 10;
    pub(super) const SQ_TAIL: usize = 11;
    pub(super) const SQ_MASK: usize = 12;
    pub(super) const SQ_ARRAY: usize = 16;
    pub(super) const CQ_HEAD: usize = 20;
    pub(super) const CQ_TAIL: usize = 21;
    pub(super) const CQ_MASK: usize = 22;
    pub(super) const CQ_CQES: usize = 25;
}

/// `struct io_uring_sqe`, without what is not used here.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cqe {
    user_data: u64,
    res: i32,
    flags: u32,
}

const OP_ACCEPT: u8 = 13;
const OP_CONNECT: u8 = 16;
const ENTER_GETEVENTS: c_long = 1;
const OFF_SQ: off_t = 0;
const OFF_CQ: off_t = 0x800_0000;
const OFF_SQES: off_t = 0x1000_0000;

/// A piece of the ring's memory, unmapped on drop.
struct Map {
    start: *mut c_void,
    len: usize,
}

impl Map {
    fn new(fd: &OwnedFd, offset: off_t, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a fresh mapping of the ring's own memory; nothing else lies there.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, len }) }
    }

    /// The place at this offset.
    fn at<T>(&self, offset: u32) -> *mut T {
        debug_assert!((offset as usize) < self.len);
        // SAFETY: the kernel gave the offset for this mapping, within its length.
        unsafe { self.start.byte_add(offset as usize).cast() }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the place is an aligned u32 shared with the kernel, alive as long as the mapping.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours and nobody uses it any more.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// A ring.
pub(crate) struct Ring {
    sq: Map,
    cq: Map,
    sqes: Map,
    params: Params,
    fd: OwnedFd,
}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        let mut params = Params([0; 30]);
        // SAFETY: `params` is a valid io_uring_params that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4 as c_long, &raw mut params) };
        let fd = crate::sys::check(fd as i32)?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let p = &params.0;
        let sq_len = p[word::SQ_ARRAY] as usize + p[word::SQ_ENTRIES] as usize * 4;
        let cq_len = p[word::CQ_CQES] as usize + p[word::CQ_ENTRIES] as usize * size_of::<Cqe>();
        let sqes_len = p[word::SQ_ENTRIES] as usize * size_of::<Sqe>();
        Ok(Self {
            sq: Map::new(&fd, OFF_SQ, sq_len)?,
            cq: Map::new(&fd, OFF_CQ, cq_len)?,
            sqes: Map::new(&fd, OFF_SQES, sqes_len)?,
            params,
            fd,
        })
    }

    /// Submits one request and waits for its answer.
    fn run(&mut self, sqe: Sqe) -> io::Result<i32> {
        let p = &self.params.0;
        let tail = self.sq.word(p[word::SQ_TAIL]);
        let at = tail.load(Ordering::Relaxed);
        let index = at & self.sq.word(p[word::SQ_MASK]).load(Ordering::Relaxed);
        // SAFETY: the index is masked, so it lies within the array of entries, and the kernel reads it only after
        // the tail has moved.
        unsafe { self.sqes.at::<Sqe>(0).add(index as usize).write(sqe) };
        self.sq.word(p[word::SQ_ARRAY] + 4 * index).store(index, Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
        loop {
            let head = self.cq.word(p[word::CQ_HEAD]);
            let next = head.load(Ordering::Relaxed);
            if next != self.cq.word(p[word::CQ_TAIL]).load(Ordering::Acquire) {
                let index = next & self.cq.word(p[word::CQ_MASK]).load(Ordering::Relaxed);
                // SAFETY: the index is masked, and the kernel has written this entry before it moved the tail.
                let cqe = unsafe { self.cq.at::<Cqe>(p[word::CQ_CQES]).add(index as usize).read() };
                head.store(next.wrapping_add(1), Ordering::Release);
                return if cqe.res < 0 { Err(io::Error::from_raw_os_error(-cqe.res)) } else { Ok(cqe.res) };
            }
            let submit = c_long::from(self.sq.word(p[word::SQ_HEAD]).load(Ordering::Acquire) == at);
            self.enter(submit)?;
        }
    }

    fn enter(&self, submit: c_long) -> io::Result<()> {
        let fd = c_long::from(self.fd.as_raw_fd());
        let none = std::ptr::null::<c_void>();
        // SAFETY: no signal mask is passed; the ring's memory is mapped.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                submit,
                1 as c_long,
                ENTER_GETEVENTS,
                none,
                0 as c_long,
            )
        };
        match crate::sys::check(result as i32) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.map(drop),
        }
    }

    /// Accepts from this descriptor, bad ones too.
    pub(crate) fn accept(&mut self, fd: i32) -> io::Result<i32> {
        let op_flags = libc::SOCK_CLOEXEC.cast_unsigned();
        self.run(Sqe { opcode: OP_ACCEPT, fd, op_flags, ..Sqe::default() })
    }

    pub(crate) fn accept_fd(&mut self, listener: &OwnedFd) -> io::Result<OwnedFd> {
        let fd = self.accept(listener.as_raw_fd())?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn connect(&mut self, fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
        let raw = RawAddr::new(to);
        let addr = raw.as_ptr() as u64;
        let sqe =
            Sqe { opcode: OP_CONNECT, fd: fd.as_raw_fd(), addr, off: u64::from(raw.len), ..Sqe::default() };
        self.run(sqe).map(drop)
    }
}
