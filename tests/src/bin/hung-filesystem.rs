//! A FUSE file system with one file, which answers until it is reported to hang; and a program to lie on it.
//!
//! `serve DIRECTORY FILE` mounts it at the directory: it has a copy of this file by the name `program`. On standard output comes
//! the number of its connection (`/sys/fs/fuse/connections`). After a line on standard input it goes on to read requests and answers
//! none: whoever made one waits and cannot be killed, until the connection is aborted. That also ends this program.
//!
//! `client PORT` keeps all of itself in memory, waits for a line on standard input, connects to that port of 127.0.0.1, and
//! stays connected until standard input ends.
//!
//! `listen` accepts connections at a port of 127.0.0.1, which it writes to standard output, until standard input ends.

use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, thread};

use anyhow::{Context as _, bail, ensure};

/// Operations (include/uapi/linux/fuse.h).
mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const BATCH_FORGET: u32 = 42;
}

/// `FOPEN_KEEP_CACHE`: what was read once is not asked for again.
const KEEP_CACHE: u32 = 2;
const ROOT: u64 = 1;
const PROGRAM: u64 = 2;

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", directory, file] => serve(directory, &fs::read(file)?),
        ["client", port] => client(port.parse()?),
        ["listen"] => listen(),
        _ => bail!("serve DIRECTORY FILE, client PORT, or listen"),
    }
}

/// Waits until standard input ends.
fn until_end() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

fn client(port: u16) -> anyhow::Result<()> {
    // SAFETY: passes no pointer. After the hang no page of the executable can be read.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    ensure!(locked == 0, "mlockall: {}", io::Error::last_os_error());
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    println!("connected");
    until_end();
    drop(stream);
    Ok(())
}

fn listen() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        let _accepted: Vec<_> = listener.incoming().collect();
    });
    until_end();
    Ok(())
}

/// A request: `struct fuse_in_header` and what follows it.
struct Request<'a> {
    operation: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(40)?;
        let number = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let operation = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
        Some(Self { operation, unique: number(8)?, node: number(16)?, body })
    }
}

fn serve(directory: &str, content: &[u8]) -> anyhow::Result<()> {
    let mut device = File::options().read(true).write(true).open("/dev/fuse").context("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions\0",
        device.as_raw_fd()
    );
    let target = std::ffi::CString::new(directory)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all are texts that end with a zero and outlive the call.
    let mounted = unsafe {
        libc::mount(c"hung".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast())
    };
    ensure!(mounted == 0, "mounting: {}", io::Error::last_os_error());
    let hangs = &*Box::leak(Box::new(AtomicBool::new(false)));
    let directory = directory.to_owned();
    thread::spawn(move || {
        // It is answered by the loop below. The connection's number is that of the device.
        match fs::metadata(&directory) {
            Ok(meta) => println!("{}", libc::minor(meta.dev())),
            Err(error) => eprintln!("{directory}: {error}"),
        }
        let _ = io::stdin().lock().read_line(&mut String::new());
        hangs.store(true, Ordering::SeqCst);
        println!("hangs");
    });
    let mut bytes = vec![0; 1 << 20];
    loop {
        let length = match device.read(&mut bytes) {
            Ok(length) => length,
            // A request that was withdrawn before it was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            // Unmounted or aborted.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let request = Request::of(&bytes[..length]).context("a short request")?;
        if hangs.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(answer) = answer(&request, content) {
            let (error, body) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
            let mut reply = Vec::with_capacity(16 + body.len());
            reply.extend(u32::try_from(16 + body.len())?.to_ne_bytes());
            reply.extend(error.to_ne_bytes());
            reply.extend(request.unique.to_ne_bytes());
            reply.extend(body);
            match device.write_all(&reply) {
                // Withdrawn meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                written => written?,
            }
        }
    }
}

/// The body of a reply; `None`: none is expected.
fn answer(request: &Request<'_>, content: &[u8]) -> Option<Result<Vec<u8>, i32>> {
    let size = content.len() as u64;
    Some(match request.operation {
        op::FORGET | op::BATCH_FORGET | op::INTERRUPT => return None,
        op::INIT => {
            // `struct fuse_init_out`: version 7.31, nothing special.
            let mut body = Vec::new();
            body.extend([7_u32, 31, 0, 0].into_iter().flat_map(u32::to_ne_bytes));
            body.extend([0_u16, 0].into_iter().flat_map(u16::to_ne_bytes));
            body.extend([65_536_u32, 1].into_iter().flat_map(u32::to_ne_bytes));
            body.resize(64, 0);
            Ok(body)
        }
        op::LOOKUP if request.node == ROOT && request.body == b"program\0" => {
            // `struct fuse_entry_out`; neither the name nor the attributes are valid for any time.
            let mut body: Vec<u8> = [PROGRAM, 0, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
            body.extend(attributes(PROGRAM, size));
            Ok(body)
        }
        op::LOOKUP => Err(libc::ENOENT),
        op::GETATTR => {
            let mut body = vec![0; 16];
            body.extend(attributes(request.node, size));
            Ok(body)
        }
        op::OPEN | op::OPENDIR => {
            let mut body = vec![0; 16];
            body[8..12].copy_from_slice(&KEEP_CACHE.to_ne_bytes());
            Ok(body)
        }
        op::READ => {
            let number = |at: usize| request.body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            let from = number(8).map_or(0, u64::from_ne_bytes).min(size);
            let length = number(16).map_or(0, u64::from_ne_bytes) & 0xffff_ffff;
            let to = from.saturating_add(length).min(size);
            Ok(content[from as usize..to as usize].to_vec())
        }
        op::RELEASE | op::RELEASEDIR | op::FLUSH => Ok(Vec::new()),
        _ => Err(libc::ENOSYS),
    })
}

/// `struct fuse_attr`.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (size, mode) = if node == ROOT { (0, libc::S_IFDIR | 0o755) } else { (size, libc::S_IFREG | 0o755) };
    let times = [1_700_000_000_u64; 3];
    let mut bytes: Vec<u8> =
        [node, size, size.div_ceil(512)].into_iter().flat_map(u64::to_ne_bytes).collect();
    bytes.extend(times.into_iter().flat_map(u64::to_ne_bytes));
    // Nanoseconds of the times, mode, links, owner, group, device, size of a block, flags.
    bytes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_ne_bytes));
    bytes
}
