//! The first process of a test VM. It mounts what a machine has mounted, brings `lo` up, runs the scenario tests with a
//! backend, writes what they print and the counts to the second serial port, and powers the machine off.
//!
//! `cargo xtask vm` puts it into the initramfs as `/init`, next to `/vm.conf` (see [`Config`]).
//!
//! Lines on the port: `BEGIN <backend>`, `| <what the tests printed>`, `RESULT <backend> passed=… failed=… ignored=…
//! filtered=… seconds=…`, `NOTE <text>`, and last `END passed=… failed=… ignored=…`. Without the last one the run is void.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use conn_tests::module;

/// The port that carries results; the first one is the console, on which the kernel writes too.
const PORT: &str = "/dev/ttyS1";
/// How much longer than on a real machine the tests wait: the processor is emulated, on a host that may be busy.
const PATIENCE: &str = "4";
/// How long output may still come after all writers are dead.
const DRAIN: Duration = Duration::from_secs(2);

fn main() {
    // Nobody could read a panic's text elsewhere, and when init ends the kernel panics, which reads like a kernel bug.
    std::panic::set_hook(Box::new(|info| {
        let _ = File::create(PORT).and_then(|mut port| writeln!(port, "NOTE vm-init panicked: {info}"));
        power_off();
    }));
    if let Err(error) = run() {
        let _ = File::create(PORT).and_then(|mut port| writeln!(port, "NOTE vm-init: {error}"));
    }
    power_off();
}

fn run() -> io::Result<()> {
    let mounted = mount_all();
    let mut port = File::create(PORT)?;
    raw_mode(&port);
    for note in mounted {
        writeln!(port, "NOTE {note}")?;
    }
    let config = Config::read()?;
    raise_fd_limit();
    for (what, result) in [
        ("lo up", loopback_up()),
        ("TIME_WAIT", room_for_time_wait()),
        ("modules", load_modules(&config.modules)),
    ] {
        if let Err(error) = result {
            writeln!(port, "NOTE {what}: {error}")?;
        }
    }
    let backend = &config.backend;
    writeln!(port, "BEGIN {backend}")?;
    let start = Instant::now();
    let Counts { passed, failed, ignored, filtered } = run_tests(&mut port, backend, &config)?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        port,
        "RESULT {backend} passed={passed} failed={failed} ignored={ignored} filtered={filtered} seconds={seconds:.1}"
    )?;
    writeln!(port, "END passed={passed} failed={failed} ignored={ignored}")?;
    drain(&port);
    Ok(())
}

/// What `/vm.conf` says: lines of the form `key=value`.
#[derive(Default)]
struct Config {
    /// `backend=`, the agent's.
    backend: String,
    /// `share=`: what is to be run beside what every backend of every kernel runs.
    share: Share,
    /// `module=`, files of kernel modules, in the order to load them.
    modules: Vec<String>,
    /// `filter=`, which tests to run; all when absent.
    filter: Option<String>,
    /// `timeout=`, seconds for the tests.
    timeout: Duration,
}

impl Config {
    fn read() -> io::Result<Self> {
        let mut config = Self { timeout: Duration::from_mins(5), ..Self::default() };
        for line in fs::read_to_string("/vm.conf")?.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.to_owned();
            match key {
                "backend" => config.backend = value,
                "share" => {
                    config.share = match &*value {
                        "kernel" => Share::Kernel,
                        "all" => Share::All,
                        _ => return Err(io::Error::other(format!("/vm.conf: unknown share {value}"))),
                    }
                }
                "module" => config.modules.push(value),
                "filter" => config.filter = Some(value),
                "timeout" => config.timeout = value.parse().map_or(config.timeout, Duration::from_secs),
                _ => return Err(io::Error::other(format!("/vm.conf: unknown key {key}"))),
            }
        }
        Ok(config)
    }
}

/// What is to be run of the tests that not every guest runs.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Share {
    /// None of them.
    #[default]
    None,
    /// [`ONCE`].
    Kernel,
    /// [`FIRST`] too.
    All,
}

/// The numbers of a libtest summary.
#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered: u64,
}

impl Counts {
    /// Reads "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.20s".
    fn of_line(line: &str) -> Option<Self> {
        let numbers = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let mut words = part.split(' ');
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            match what {
                "passed" => counts.passed = number.parse().ok()?,
                "failed" => counts.failed = number.parse().ok()?,
                "ignored" => counts.ignored = number.parse().ok()?,
                "filtered" => counts.filtered = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }
}

/// How much the scenarios do: emulated, a connection takes a millisecond and the start of a program ten. This machine's own
/// tests have the large samples.
const SIZES: [(&str, &str); 3] =
    [("CONN_STORM", "2000"), ("CONN_SHORT_LIVED", "120"), ("CONN_PREEXISTING", "250")];

/// What no kernel changes: large samples of what the workload alone does, what the command line does with events, and 128 busy
/// threads, which an emulated machine takes minutes for. The tests of the machine itself have them.
const NEVER: [&str; 4] = ["truth::short-lived", "truth::preexisting", "cli::", "storm::in-a-crowd"];
/// What one backend of a kernel is enough for: the workload without the agent, sleep, what is refused to whom; what judges
/// events that the scenarios hold against the truth for every backend; what comes of the snapshot and of `/proc`, whatever the
/// backend; `conn list`, which uses none. Under emulation each start of an agent takes seconds, most of them in the verifier
/// of the kernel: hence also one of the two storms.
const ONCE: [&str; 13] = [
    "truth::",
    "suspend::",
    "kernel::",
    "run::",
    "list::",
    "timens::",
    "scenario::timens-preexisting",
    "disguise::",
    "alert::before",
    "alert::path-beacon",
    "alert::process-replaced",
    "alert::long-sum",
    "storm::one-thread",
];

/// What one kernel besides the one of this machine is enough for: what judges, keeps and passes on events once they are made, by code
/// that asks the kernel nothing. Each runs a minute and more under emulation.
const FIRST: [&str; 3] = ["replay::", "baseline::", "history::"];

/// Runs the tests. A run that ends without a summary, or in another way than its summary says, counts as
/// one failure more.
fn run_tests(port: &mut File, backend: &str, config: &Config) -> io::Result<Counts> {
    let (reader, writer) = io::pipe()?;
    // Whoever names tests wants them.
    let skipped = match (&config.filter, config.share) {
        (Some(_), _) => vec![],
        (None, Share::All) => NEVER.to_vec(),
        (None, Share::Kernel) => [&NEVER[..], &FIRST].concat(),
        (None, Share::None) => [&NEVER[..], &FIRST, &ONCE].concat(),
    };
    let mut command = Command::new("/tests/scenarios");
    command
        .args(config.filter.as_deref())
        .arg("--test-threads=1")
        .args(skipped.into_iter().flat_map(|name| ["--skip", name]))
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp")
        .env("RUST_BACKTRACE", "1")
        .env("CONN_TIME_FACTOR", PATIENCE)
        .env("CONN_BACKEND", backend)
        .env("CONN_MAY_SUSPEND", "1")
        .env("CONN_BIN", "/conn")
        .env("CONN_SCENARIO_BIN", "/bin/conn-scenario")
        .envs(SIZES)
        .current_dir("/tmp")
        .process_group(0)
        .stdin(File::open("/dev/null")?)
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = match command.spawn() {
        Ok(child) => child.id(),
        Err(error) => {
            writeln!(port, "| cannot start /tests/scenarios: {error}")?;
            return Ok(Counts { failed: 1, ..Counts::default() });
        }
    };
    // It holds the pipe's writing end, which must be closed for the reader to see the end.
    drop(command);
    let lines = read_lines(BufReader::new(reader));

    let end = Instant::now() + config.timeout;
    let mut counts = None;
    let status = loop {
        if let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
            pass_on(port, &line, &mut counts)?;
        }
        if let Some(status) = reap(child) {
            break Some(status);
        }
        if Instant::now() >= end {
            break None;
        }
    };
    // From the first process, -1 means all others: nothing of this run may live on into the next one.
    // SAFETY: kill has no memory arguments.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    let end = Instant::now() + DRAIN;
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        pass_on(port, &line, &mut counts)?;
    }
    reap_all();

    let mut result = counts.unwrap_or_default();
    let complaint = match status {
        None => Some(format!("not finished after {} s: killed", config.timeout.as_secs())),
        Some(status) if let Some(signal) = status.signal() => Some(format!("killed by signal {signal}")),
        Some(status) if !status.success() && result.failed == 0 => Some(format!("ended with {status}")),
        Some(_) if counts.is_none() => Some("ended without a summary".to_owned()),
        Some(_) => None,
    };
    if let Some(complaint) = complaint {
        writeln!(port, "| vm-init: /tests/scenarios with {backend}: {complaint}")?;
        result.failed += 1;
    }
    Ok(result)
}

fn read_lines(mut from: BufReader<io::PipeReader>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    receiver
}

fn pass_on(port: &mut File, line: &[u8], counts: &mut Option<Counts>) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    if let Some(found) = Counts::of_line(&text) {
        *counts = Some(found);
    }
    writeln!(port, "| {}", text.trim_end())
}

/// Collects ended processes, as init must; returns the status of the wanted one when it is among them.
fn reap(wanted: u32) -> Option<ExitStatus> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return None;
        }
        if u32::try_from(pid) == Ok(wanted) {
            return Some(ExitStatus::from_raw(status));
        }
    }
}

/// Collects every process; all have been killed, so this ends.
fn reap_all() {
    // SAFETY: a null status pointer means that the status is not wanted.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
}

/// Mounts the usual file systems and returns a note for each that the kernel would not mount.
fn mount_all() -> Vec<String> {
    const MOUNTS: [(&str, &str, &str); 9] = [
        ("devtmpfs", "/dev", ""),
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/run", "mode=755"),
        ("debugfs", "/sys/kernel/debug", ""),
        ("tracefs", "/sys/kernel/tracing", ""),
        ("bpf", "/sys/fs/bpf", "mode=700"),
        ("cgroup2", "/sys/fs/cgroup", ""),
    ];
    let mut notes = Vec::new();
    for (kind, target, options) in MOUNTS {
        let _ = fs::create_dir_all(target);
        if let Err(error) = mount(kind, target, options) {
            notes.push(format!("cannot mount {kind} on {target}: {error}"));
        }
    }
    notes
}

fn mount(kind: &str, target: &str, options: &str) -> io::Result<()> {
    let (kind, target, options) = (CString::new(kind)?, CString::new(target)?, CString::new(options)?);
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A machine this small keeps 4,096 sockets in TIME_WAIT. When they are full, a socket that waits for the other side's FIN goes
/// at once (`tcp_time_wait`, net/ipv4/tcp_minisocks.c), and the next segment of the other side is answered by a reset: not what
/// the workload says that it did.
fn room_for_time_wait() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "262144")
}

/// Keeps the line discipline from changing what is written.
fn raw_mode(port: &File) {
    // SAFETY: all bytes zero is a valid termios, which tcgetattr then fills.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `settings` is a valid place.
    if unsafe { libc::tcgetattr(port.as_raw_fd(), &raw mut settings) } != 0 {
        return;
    }
    // SAFETY: `settings` was filled by tcgetattr.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // SAFETY: as above; a failure leaves carriage returns in the output, which the reader strips.
    unsafe { libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &raw const settings) };
}

/// Waits until everything written has left the port.
fn drain(port: &File) {
    // SAFETY: the descriptor is open.
    unsafe { libc::tcdrain(port.as_raw_fd()) };
}

fn raise_fd_limit() {
    let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
    // SAFETY: `limit` outlives the call. A failure leaves the default, which most tests can live with.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open and `request` is what this request code takes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn load_modules(files: &[String]) -> io::Result<()> {
    for file in files {
        module::load(Path::new(file)).map_err(|error| io::Error::other(format!("{file}: {error}")))?;
    }
    Ok(())
}

fn power_off() {
    // SAFETY: neither call has memory arguments. reboot does not return.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn summaries_are_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 1.20s";
        let counts = Counts::of_line(line).expect("a summary");
        assert_eq!((counts.passed, counts.failed, counts.ignored, counts.filtered), (3, 1, 2, 4));
        assert!(Counts::of_line("test basic ... ok").is_none());
    }
}
