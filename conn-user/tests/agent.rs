//! `conn agent` as a service: signals, wrong rules, files that cannot be written, rotation. As root, on the kernel that runs.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before the test fails: far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A rule about listeners at this port.
fn rule(port: u16) -> String {
    format!(
        "[[rule]]\nid = 'test.p{port}'\nkind = 'server'\nfind = 'listener'\nmatch = 'lport:{port} laddr:loopback'\nthrottle = '0s'\n"
    )
}

/// A folder with a configuration, its rules and a syslog socket.
struct Service {
    folder: PathBuf,
    syslog: UnixDatagram,
}

impl Service {
    /// `more`: of [alerts].
    fn new(more: &str, rules: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("conn-agent-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("rules.d")).expect("a folder");
        let syslog = UnixDatagram::bind(folder.join("syslog")).expect("a socket");
        syslog.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let config = format!("rules = ['rules.d']\nstate = ''\n[alerts]\nsyslog = 'syslog'\n{more}\n");
        fs::write(folder.join("agent.toml"), config).expect("a file");
        let service = Self { folder, syslog };
        service.rules(rules);
        service
    }

    fn rules(&self, text: &str) {
        fs::write(self.path("rules.d/rules.toml"), text).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn start(&self) -> Agent {
        let child = Command::new(env!("CARGO_BIN_EXE_conn"))
            .args(["agent", "--config", "agent.toml"])
            .current_dir(&self.folder)
            .env("CONN_SOCKET", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("conn runs");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        Agent { child, stderr, reported: String::new() }
    }

    /// The next message that syslog gets about an alert. Where other tests make the machine busy, records of
    /// theirs may be lost, which is a message too.
    fn message(&self) -> String {
        let mut message = [0; 8 << 10];
        loop {
            let length = self.syslog.recv(&mut message).expect("a message");
            let text = String::from_utf8_lossy(&message[..length]);
            if !text.contains("]: --- ") {
                return text.into_owned();
            }
        }
    }

    /// Listens at a port and waits for the alert of the rule about it.
    fn violate(&self, port: u16) -> TcpListener {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let rule = format!(" test.p{port}  ");
        loop {
            let message = self.message();
            if message.contains(&rule) && !message.contains("  no longer listening") {
                return listener;
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Agent {
    child: Child,
    stderr: BufReader<ChildStderr>,
    reported: String,
}

impl Agent {
    /// Reads what it reports up to a line with this.
    fn await_line(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            let length = self.stderr.read_line(&mut line).expect("UTF-8");
            assert!(length > 0, "it ended before {part:?}: {}", self.reported);
            self.reported.push_str(&line);
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Reads what it reports up to a line with this, which may have come since the text was `mark` bytes
    /// long: what reads rules and what writes are two threads.
    fn await_since(&mut self, mark: usize, part: &str) -> String {
        let known =
            self.reported[mark..].lines().find(|line| line.contains(part)).map(|line| format!("{line}\n"));
        known.unwrap_or_else(|| self.await_line(part))
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: our own child, which was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Ends it as a service manager does; all that it reported.
    fn end(&mut self) -> String {
        self.signal(libc::SIGTERM);
        let status = self.child.wait().expect("a status");
        while self.stderr.read_line(&mut self.reported).expect("UTF-8") > 0 {}
        assert_eq!(status.code(), Some(0), "{}", self.reported);
        std::mem::take(&mut self.reported)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const READY: &str = "conn: tracing with backend ";

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The rules and phases of the alerts in a file, of which every line must be JSON. The last one may just be written.
fn alerts(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a file");
    let (text, _) = text.rsplit_once('\n').unwrap_or_default();
    let of = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        (event["kind"] == "alert").then(|| {
            let word = |value: &Value| value.as_str().expect("text").to_owned();
            format!("{} {}", word(&event["alert"]["rule"]), word(&event["alert"]["phase"]))
        })
    };
    text.lines().filter_map(of).collect()
}

/// Waits until the file has this alert.
fn await_alert(path: &Path, alert: &str) {
    let end = Instant::now() + PATIENCE;
    while !path.exists() || !alerts(path).iter().any(|known| known == alert) {
        assert!(Instant::now() < end, "{alert}: {:?}", fs::read_to_string(path));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Only root can trace; without it nothing here can be tested.
fn needs_root() {
    // SAFETY: it takes nothing and cannot fail.
    assert_eq!(unsafe { libc::geteuid() }, 0, "only root can trace: run the tests as root");
}

#[test]
fn wrong_rules_change_nothing_and_a_moved_file_is_made_anew() {
    needs_root();
    let (one, two) = (port(), port());
    let service = Service::new("file = 'alerts'", &rule(one));
    let (file, moved) = (service.path("alerts"), service.path("alerts.1"));
    let mut agent = service.start();
    agent.await_line(READY);
    let listener = service.violate(one);
    await_alert(&file, &format!("test.p{one} raised"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);

    service.rules(&(rule(two) + "severity = 'hgih'\n"));
    fs::rename(&file, &moved).expect("moved");
    agent.signal(libc::SIGHUP);
    agent.await_line("the previous rules stay active");
    assert!(agent.reported.contains("unknown `hgih`"), "{}", agent.reported);
    drop(listener);
    await_alert(&file, &format!("test.p{one} resolved"));
    assert_eq!(alerts(&moved), [format!("test.p{one} raised")]);

    service.rules(&rule(two));
    agent.signal(libc::SIGHUP);
    agent.await_line("1 rules active");
    let listener = service.violate(two);
    await_alert(&file, &format!("test.p{two} raised"));

    // A folder without rules switches nothing off.
    service.rules("");
    agent.signal(libc::SIGHUP);
    agent.await_line("allow_empty_rules = true");
    agent.await_line("the previous rules stay active");
    drop(listener);
    await_alert(&file, &format!("test.p{two} resolved"));
    assert!(agent.reported.contains("no rule is active: there are none"), "{}", agent.reported);
    let reported = agent.end();
    assert!(reported.contains("\n4 events, nothing lost\n"), "{reported}");
}

#[test]
fn a_full_disk_costs_lines_and_not_the_agent() {
    needs_root();
    let ports = [port(), port(), port()];
    let service = Service::new("file = 'alerts'", &ports.map(rule).concat());
    let file = service.path("alerts");
    symlink("/dev/full", &file).expect("a link");
    let mut agent = service.start();
    agent.await_line(READY);
    let _one = service.violate(ports[0]);
    let line = agent.await_line("cannot write ");
    assert!(line.contains("alerts: No space left on device"), "{line}");
    let _two = service.violate(ports[1]);
    // There is room again.
    fs::remove_file(&file).expect("removed");
    let mark = agent.reported.len();
    agent.signal(libc::SIGHUP);
    agent.await_since(mark, "3 rules active");
    let _three = service.violate(ports[2]);
    let line = agent.await_since(mark, "is written again");
    await_alert(&file, &format!("test.p{} raised", ports[2]));
    // Each alert is in the file or among those dropped, with perhaps what the agent says of itself: the second one came to syslog, which
    // does not say that it has come to the file's writer too.
    let kept = alerts(&file).contains(&format!("test.p{} raised", ports[1]));
    let lost = 2 - u64::from(kept);
    assert!(dropped(&line) >= lost, "{line}");
    let reported = agent.end();
    assert_eq!(reported.matches("cannot write ").count(), 1, "{reported}");
    let last = reported.lines().last().expect("the totals");
    assert!(last.starts_with("lines of alerts that were dropped: ") && dropped(last) >= lost, "{reported}");
}

/// The number at the end of a line.
fn dropped(line: &str) -> u64 {
    let (_, number) = line.trim_end().rsplit_once(' ').expect("words");
    number.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Nobody reads the events. Alerts go on, to a file and to syslog, rules are read, and one signal ends it.
#[test]
fn an_output_that_hangs_delays_nothing_else() {
    needs_root();
    let ports = [port(), port()];
    let service = Service::new("file = 'alerts'\n[events]\nfile = 'events'", &rule(ports[0]));
    let file = service.path("alerts");
    let pipe = CString::new(service.path("events").into_os_string().into_encoded_bytes()).expect("a path");
    // SAFETY: a path that ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let mut agent = service.start();
    agent.await_line(READY);
    // A pipe has room for a mebibyte (fs/pipe.c): these are more.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    for _ in 0..1_000 {
        drop(TcpStream::connect(address).expect("it listens"));
        drop(listener.accept().expect("a connection"));
    }
    let _one = service.violate(ports[0]);
    await_alert(&file, &format!("test.p{} raised", ports[0]));
    service.rules(&rule(ports[1]));
    agent.signal(libc::SIGHUP);
    agent.await_line("1 rules active");
    let _two = service.violate(ports[1]);
    await_alert(&file, &format!("test.p{} raised", ports[1]));
    let reported = agent.end();
    let last = reported.lines().last().expect("the totals");
    assert!(last.starts_with("lines of events that were dropped: ") && dropped(last) > 1_000, "{reported}");
    let alerts = fs::read_to_string(&file).expect("a file");
    assert!(alerts.contains("\"kind\":\"degraded\",\"what\":\"output\",\"place\":\"events\""), "{alerts}");
}

#[test]
fn signals_that_come_during_the_start() {
    needs_root();
    let port = port();
    let service = Service::new("file = ''", &rule(port));
    let mut agent = service.start();
    // As soon as there are handlers, long before it is ready: the folder is read after they were installed.
    await_handlers(&agent);
    agent.signal(libc::SIGHUP);
    agent.signal(libc::SIGHUP);
    agent.await_line(READY);
    agent.await_line("1 rules active");
    let _listener = service.violate(port);
    let reported = agent.end();
    assert_eq!(reported.matches("rules active:").count(), 1, "{reported}");

    let mut agent = service.start();
    await_handlers(&agent);
    assert!(!agent.end().contains("panicked"));
}

/// Waits until the process catches SIGHUP and SIGTERM (`SigCgt` of proc_pid_status(5)).
fn await_handlers(agent: &Agent) {
    let end = Instant::now() + PATIENCE;
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        Some([libc::SIGHUP, libc::SIGTERM].iter().all(|signal| mask >> (signal - 1) & 1 == 1))
    };
    while caught() != Some(true) {
        assert!(Instant::now() < end, "it installs no handlers");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A shell that was there before the agent, and connects once it reads a line.
fn waiting_shell(port: u16) -> Child {
    let script = format!("read go; exec 3<>/dev/tcp/127.0.0.1/{port}; read go");
    let mut bash = Command::new("bash");
    let child = bash.args(["-c", &script]).current_dir("/usr").stdin(Stdio::piped()).stdout(Stdio::null());
    child.spawn().expect("bash runs")
}

/// The inspector needs some milliseconds, and an alert waits for it for 50: on a machine that has no time for
/// it a first one may lack something, but not each of several.
#[test]
fn an_alert_shows_what_is_found_out_of_a_process_from_before() {
    needs_root();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut shells: Vec<Child> = (0..8).map(|_| waiting_shell(port)).collect();
    let rule = format!(
        "[[rule]]\nid = 'test.out'\nkind = 'path'\nfind = 'forbidden'\nmatch = 'dir:out dport:{port}'\nthrottle = '0s'\n"
    );
    let service = Service::new("file = 'alerts'", &rule);
    let mut agent = service.start();
    agent.await_line(READY);
    let file = service.path("alerts");
    let mut shown = Vec::new();
    for shell in &mut shells {
        let known = if file.exists() { alerts(&file).len() } else { 0 };
        shell.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
        let end = Instant::now() + PATIENCE;
        while !file.exists() || alerts(&file).len() == known {
            assert!(Instant::now() < end, "no alert: {shown:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = fs::read_to_string(&file).expect("a file");
        let line = text.lines().nth(known).expect("the alert");
        let process: Value = serde_json::from_str::<Value>(line).expect("JSON")["process"].take();
        let has_all = process["cwd"] == "/usr"
            && process["netns"].is_u64()
            && process["exe_sha256"].as_str().is_some_and(|hash| hash.len() == 64);
        shown.push(process);
        if has_all {
            break;
        }
    }
    for mut shell in shells {
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }
    agent.end();
    let last = shown.last().expect("a process");
    assert!(last["cwd"] == "/usr" && last["exe_sha256"].is_string(), "{shown:?}");
}

#[test]
fn syslog_alone_and_no_rules() {
    needs_root();
    let port = port();
    let service = Service::new("file = ''", "");
    let mut agent = service.start();
    agent.await_line(READY);
    let warning = "conn: warning: no rule is active: there are none\n";
    assert!(agent.reported.contains(warning), "{}", agent.reported);
    service.rules(&rule(port));
    agent.signal(libc::SIGHUP);
    agent.await_line("1 rules active");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let message = service.message();
    let (head, text) = message.split_once(&format!(" conn[{}]: ", agent.child.id())).expect("a tag");
    assert!(head.starts_with("<28>") && text.starts_with("MEDIUM    a1  test.p"), "{message}");
    let (before, suppress) = text.split_once("  suppress: exe:").expect("an exception");
    assert!(!before.contains("port=") && before.matches("exe=").count() == 1, "{message}");
    assert!(suppress.ends_with(&format!(" lport:{port}")), "{message}");
    drop(listener);
    assert!(!service.path("alerts").exists());
    agent.end();
}
