//! Time and memory of a snapshot while many connections are open. Needs root, and asks for it:
//!
//! ```text
//! cargo bench -p conn-user --bench snapshot -- --connections 100000
//! ```
//!
//! The connections are made in a network namespace of their own, by child processes that end with this one.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conn_user::flow::snapshot::model::TcpState;
use conn_user::flow::snapshot::{SnapshotOptions, take};

/// An address has fewer ports than that; and two descriptors for each fit under a common limit.
const EACH: usize = 9000;
const RUNS: usize = 5;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<usize>().ok()
    };
    if let Some(child) = number("--child") {
        return hold(child, number("--connections").unwrap_or(0));
    }
    let Some(connections) = number("--connections") else {
        println!("not run: give --connections 100000");
        return Ok(());
    };
    new_namespace()?;
    let children: Vec<Child> = (0..connections.div_ceil(EACH))
        .map(|child| spawn(child, EACH.min(connections - child * EACH)))
        .collect::<io::Result<_>>()?;
    println!("{connections} connections (both ends here) in {} processes", children.len());
    for run in 1..=RUNS {
        measure(run)?;
    }
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

fn measure(run: usize) -> io::Result<()> {
    // 5 sets the peak to what is used now (proc(5)).
    fs::write("/proc/self/clear_refs", "5")?;
    let before = status("VmRSS:")?;
    let (cpu, began) = (cpu(), Instant::now());
    let all = take(&SnapshotOptions::default()).map_err(io::Error::other)?;
    let took = began.elapsed();
    let cpu = self::cpu().saturating_sub(cpu);
    let (rss, peak) = (status("VmRSS:")?, status("VmHWM:")?);
    let open = all.sockets.iter().filter(|socket| socket.state == TcpState::Established).count();
    let owned = all.sockets.iter().filter(|socket| !socket.holders.is_empty()).count();
    println!(
        "{run}: {} ms, {} ms CPU; {} sockets, {open} established, {owned} with an owner; {} bytes each; memory {} MiB \
         before, {} MiB with it, {} MiB at the peak; {} notes",
        took.as_millis(),
        cpu.as_millis(),
        all.sockets.len(),
        rss.saturating_sub(before) * 1024 / (all.sockets.len() as u64).max(1),
        before / 1024,
        rss / 1024,
        peak / 1024,
        all.notes.len(),
    );
    Ok(())
}

/// A child: opens the connections, says so, and stays until its input ends.
fn hold(child: usize, connections: usize) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for reads and writes.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 1, 1 + child as u8), 0))?;
    let to = listener.local_addr()?;
    let mut open = Vec::with_capacity(2 * connections);
    for _ in 0..connections {
        open.push(TcpStream::connect(to)?);
        open.push(listener.accept()?.0);
    }
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn spawn(child: usize, connections: usize) -> io::Result<Child> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["--child", &child.to_string(), "--connections", &connections.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.trim() == "ready" { Ok(process) } else { Err(io::Error::other("a child could not connect")) }
}

/// Moves into a new network namespace with a loopback.
fn new_namespace() -> io::Result<()> {
    // SAFETY: there is one thread; the request is valid for reads and writes.
    let done = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::unshare(libc::CLONE_NEWNET) == 0 && {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request) == 0 && libc::close(socket) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A number of `/proc/self/status`, in KiB.
fn status(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other("no such line"))
}

/// CPU time of this process.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
