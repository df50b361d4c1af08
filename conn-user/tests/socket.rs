//! The local socket of `conn agent`: who may use it, what clients get, and what becomes of one that does not read. As root, on the
//! kernel that runs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

/// How long anything may take before the test fails: far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_mins(1);
/// A group that every machine has, in the place of `conn`.
const GROUP: (&str, &str) = ("daemon", "1");

/// A folder with a configuration, and a copy of conn that everybody may execute.
struct Place(PathBuf);

impl Place {
    fn new(rules: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: it takes nothing and cannot fail.
        assert_eq!(unsafe { libc::geteuid() }, 0, "only root can trace: run the tests as root");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = Self(std::env::temp_dir().join(format!("conn-socket-{}-{number}", std::process::id())));
        fs::create_dir_all(place.path("rules.d")).expect("a folder");
        fs::write(place.path("rules.d/rules.toml"), rules).expect("a file");
        let config = format!(
            "rules = ['rules.d']\nstate = ''\nsocket = 'run/conn.sock'\ngroup = '{}'\n[alerts]\nfile = 'alerts'\nsyslog = ''\n\
             [history]\nfolder = 'history'\n",
            GROUP.0
        );
        fs::write(place.path("agent.toml"), config).expect("a file");
        // By another process: a child that this one starts meanwhile would hold the file open for writing, and nobody could execute it.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_conn")).arg(place.path("conn")).status();
        assert!(copied.expect("cp runs").success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn agent(&self) -> Agent {
        let child = Command::new(self.path("conn"))
            .args(["agent", "--config", "agent.toml"])
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("conn runs");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        Agent { child, stderr, reported: String::new() }
    }

    /// conn as nobody, who is in this group besides its own.
    fn nobody(&self, group: Option<&str>, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534"]);
        match group {
            Some(group) => command.args(["--groups", group]),
            None => command.arg("--clear-groups"),
        };
        command.arg(self.path("conn")).args(words).current_dir("/");
        command.env("CONN_SOCKET", self.path("run/conn.sock")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same, run to its end.
    fn member(&self, words: &[&str]) -> Output {
        self.nobody(Some(GROUP.1), words).output().expect("setpriv (util-linux) and conn run")
    }

    fn said(&self, words: &[&str]) -> String {
        let output = self.member(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.said(&["status", "--json"])).expect("JSON")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Agent {
    child: Child,
    stderr: BufReader<ChildStderr>,
    reported: String,
}

impl Agent {
    fn await_line(&mut self, part: &str) {
        while !self.reported.contains(part) {
            let length = self.stderr.read_line(&mut self.reported).expect("UTF-8");
            assert!(length > 0, "it ended before {part:?}: {}", self.reported);
        }
    }

    fn end(mut self) -> String {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: our own child, which was not waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        while self.stderr.read_line(&mut self.reported).expect("UTF-8") > 0 {}
        assert_eq!(self.child.wait().expect("a status").code(), Some(0), "{}", self.reported);
        std::mem::take(&mut self.reported)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVING: &str = "conn: clients connect at ";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn rule(port: u16) -> String {
    format!(
        "[[rule]]\nid = 'test.p{port}'\nkind = 'server'\nfind = 'listener'\nmatch = 'lport:{port} laddr:loopback'\n"
    )
}

/// Starts a client that tails, and waits until it gets events.
fn tail(mut command: Command) -> (Child, BufReader<ChildStderr>) {
    let mut child = command.spawn().expect("conn runs");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let (mut line, mut all) = (String::new(), String::new());
    while !line.contains("reading events of the agent") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("UTF-8") > 0, "it ended: {all}");
        all.push_str(&line);
    }
    (child, stderr)
}

#[test]
fn a_member_of_the_group_needs_no_privileges_and_others_are_refused() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let place = Place::new(&rule(port));
    let mut agent = place.agent();
    agent.await_line(SERVING);
    assert!(agent.reported.contains("root, and the group daemon"), "{}", agent.reported);

    // Of a second agent there is no need.
    let second = Command::new(place.path("conn"))
        .args(["agent", "--config", "agent.toml"])
        .current_dir(&place.0)
        .output();
    let second = second.expect("conn runs");
    let why = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{why}");
    assert!(why.contains(&format!("another agent (pid {})", agent.child.id())), "{why}");

    let filter = format!("port:{port}");
    let (json, _json_stderr) =
        tail(place.nobody(Some(GROUP.1), &["tail", "--json", "--count", "5", &filter]));
    let (compact, _compact_stderr) =
        tail(place.nobody(Some(GROUP.1), &["tail", "--compact", "--count", "5", &filter]));
    let (people, _people_stderr) =
        tail(place.nobody(Some(GROUP.1), &["tail", "--color", "never", "--alerts", "--count", "1", &filter]));
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let server = listener.accept().expect("a connection");

    let lines = |child: Child| text(&child.wait_with_output().expect("it ends by itself").stdout);
    let events: Vec<Value> =
        lines(json).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert!(kinds.contains(&"listen") && kinds.contains(&"alert"), "{kinds:?}");
    assert!(events.iter().all(|event| event["process"]["pid"].is_u64()), "{events:?}");
    // Once, and again when more is known of it.
    let written_out = lines(compact).matches("\"process\":{").count();
    assert!((1..5).contains(&written_out), "{written_out}");
    let alert = lines(people);
    assert!(alert.contains("MEDIUM    a1  test.p") && alert.contains("suppress    exe:"), "{alert}");

    // What began after the agent did has an exact age, and its process is there.
    let listed = place.said(&["list", "--json", "-a", &format!("pid:{}", std::process::id()), &filter]);
    let mut sockets: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // The head, and what could not be seen.
    sockets.retain(|line| line["kind"] == "listener" || line["kind"] == "connection");
    assert_eq!(sockets.len(), 3, "{listed}");
    for socket in &sockets {
        let age = &socket["age"];
        assert_eq!((&age["at_least_by"], &age["at_most_by"]), (&"seen".into(), &"seen".into()), "{socket}");
        assert_eq!(age["at_least_ns"], age["at_most_ns"], "{socket}");
        assert_eq!(socket["holders"][0]["pid"], std::process::id(), "{socket}");
    }
    let table = place.said(&["list", "-l", "--color", "never", &filter]);
    assert!(table.starts_with("STATE") && table.contains(&format!("127.0.0.1:{port}")), "{table}");

    let status = place.status();
    assert_eq!(status["agent"]["pid"], agent.child.id());
    assert_eq!(
        (&status["rules"]["active"], &status["open_alerts"]["medium"]),
        (&1.into(), &1.into()),
        "{status}"
    );
    assert!(
        status["events"]["listen"].as_u64() >= Some(1) && status["memory_bytes"].as_u64() > Some(1 << 20)
    );
    assert!(place.said(&["status"]).contains("1 medium"));

    // By the agent's rules, which this user could read nowhere.
    let why = place.said(&["explain", "a1"]);
    assert!(why.contains(&format!("test.p{port}")), "{why}");

    // The history is read by this user itself, who may write nothing of it, while the agent writes it.
    let shown = place.said(&["query", "--json", &filter]);
    let shown: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<_> = shown.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert!(kinds.contains(&"established") && kinds.contains(&"accept"), "{kinds:?}");
    let alerts = place.said(&["query", "--json", "--alerts"]);
    assert!(alerts.contains(&format!("test.p{port}")), "{alerts}");
    let folder = place.path("history");
    let folder = folder.to_str().expect("UTF-8");
    let refused = place.nobody(None, &["query", "--history", folder]).output().expect("conn runs");
    let reason = text(&refused.stderr);
    assert!(!refused.status.success() && reason.contains("ermission denied"), "{reason}");

    let refused = place.nobody(None, &["status"]).output().expect("conn runs");
    let reason = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{reason}");
    assert!(reason.contains("usermod -aG daemon nobody"), "{reason}");
    let refused = place.nobody(None, &["tail"]).output().expect("conn runs");
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));

    drop((client, server, listener));
    let reported = agent.end();
    assert!(reported.contains("(uid 65534, gid 65534) asks for tail"), "{reported}");
    assert!(reported.contains("asks for alert") && reported.contains("asks for rules"), "{reported}");
    assert!(!place.path("run/conn.sock").exists());
}

/// A client of the protocol itself.
struct Raw {
    stream: BufReader<UnixStream>,
    /// The last event before those that it gets.
    seq: u64,
}

impl Raw {
    fn ask(place: &Place, request: &str) -> (BufReader<UnixStream>, Value) {
        let mut stream = UnixStream::connect(place.path("run/conn.sock")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut stream = BufReader::new(stream);
        let answer = line(&mut stream).expect("an answer");
        (stream, answer)
    }

    fn tail(place: &Place) -> Self {
        let kinds = r#"["connect","accept","established","failed","close","listen","unlisten","exec","exit","gap","repair","degraded","alert"]"#;
        let (stream, answer) =
            Self::ask(place, &format!("{{\"conn\":1,\"request\":\"tail\",\"kinds\":{kinds}}}\n"));
        let seq = answer["ok"]["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        Self { stream, seq }
    }

    /// Reads up to the beginning of a connection to this port: the events' numbers, and how many were dropped.
    fn read_until(&mut self, port: u16) -> (Vec<u64>, u64) {
        let (mut numbers, mut dropped) = (Vec::new(), 0);
        loop {
            let line = line(&mut self.stream).expect("a line");
            if let Some(count) = line["dropped"].as_u64() {
                dropped += count;
                continue;
            }
            numbers.push(line["seq"].as_u64().unwrap_or_else(|| panic!("{line}")));
            if line["kind"] == "connect" && line["rport"] == port {
                return (numbers, dropped);
            }
        }
    }
}

fn line(from: &mut impl std::io::BufRead) -> Option<Value> {
    let mut line = String::new();
    let read = from.read_line(&mut line).expect("a line");
    (read > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

#[test]
fn a_client_that_does_not_read_loses_its_own_events_and_no_others() {
    let place = Place::new("");
    let mut agent = place.agent();
    agent.await_line(SERVING);
    for (request, reason) in [
        ("{\"conn\":2,\"request\":\"status\"}\n", "version 2 of the protocol"),
        ("{\"conn\":1,\"request\":\"tail\",\"filter\":\"nosuchkey:1\"}\n", "nosuchkey"),
        ("GET / HTTP/1.1\n", "not a line of the protocol"),
    ] {
        let (_, answer) = Raw::ask(&place, request);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(reason)), "{answer}");
    }
    let (mut slow, mut quick) = (Raw::tail(&place), Raw::tail(&place));
    let last = TcpListener::bind("127.0.0.1:0").expect("a port");
    let marker = last.local_addr().expect("an address").port();
    // It only reads, and says when it has got so far: what it got is looked at afterwards.
    let (got_so_far, is_there) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (connects, to_marker) = ("\"kind\":\"connect\"", format!("\"rport\":{marker},"));
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(quick.stream.read_line(&mut line).expect("a line") > 0, "it ended");
            let is_marker = line.contains(connects) && line.contains(&to_marker);
            lines.push(line);
            // Nobody waits any more.
            if is_marker && got_so_far.send(()).is_err() {
                return (quick, lines);
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let dropped = || place.status()["clients"]["dropped"].as_u64().expect("a number");
    let mut rounds = 0;
    while dropped() == 0 {
        for _ in 0..200 {
            drop(TcpStream::connect(address).expect("it listens"));
            drop(listener.accept().expect("a connection"));
        }
        drop(TcpStream::connect(("127.0.0.1", marker)).expect("it listens"));
        drop(last.accept().expect("a connection"));
        // What waits for it is less than what may wait.
        is_there.recv_timeout(PATIENCE).expect("it reads");
        rounds += 1;
        assert!(rounds < 200, "nothing is dropped");
    }
    drop(is_there);
    drop(TcpStream::connect(("127.0.0.1", marker)).expect("it listens"));
    let (quick, lines) = reader.join().expect("it read");
    let (mut numbers, mut lost) = (Vec::new(), 0);
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        lost += line["dropped"].as_u64().unwrap_or(0);
        numbers.extend(line["seq"].as_u64());
    }
    assert_eq!(lost, 0);
    let end = *numbers.last().expect("events");
    assert_eq!(numbers, (quick.seq + 1..=end).collect::<Vec<_>>(), "no hole and no duplicate");

    // Once it reads again it learns what it lost, and goes on.
    let (mut numbers, mut lost) = (Vec::new(), 0);
    while lost == 0 {
        let line = line(&mut slow.stream).expect("a line");
        match line["dropped"].as_u64() {
            Some(count) => lost += count,
            None => numbers.push(line["seq"].as_u64().expect("an event")),
        }
    }
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    let _last = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let (more, later) = slow.read_until(port);
    numbers.extend(more);
    lost += later;
    let end = *numbers.last().expect("events");
    assert!(numbers.is_sorted(), "in order");
    assert_eq!(numbers.len() as u64 + lost, end - slow.seq, "each event came, or was counted");
    // Both get the end.
    let readers = [slow, quick].map(|mut client| {
        std::thread::spawn(move || {
            let (mut last, mut line) = (String::new(), String::new());
            while client.stream.read_line(&mut line).expect("a line") > 0 {
                last = std::mem::take(&mut line);
            }
            last
        })
    });
    agent.end();
    for reader in readers {
        assert_eq!(reader.join().expect("it read"), "{\"conn\":1,\"end\":\"the agent ends\"}\n");
    }
    let alerts = fs::read_to_string(place.path("alerts")).expect("a file");
    assert!(alerts.contains("\"what\":\"output\",\"place\":\"socket\""), "{alerts}");
}
