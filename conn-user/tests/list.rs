//! `conn list` and `conn diff` against sockets of our own making, and against ss.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use conn_tests::against_ss;
use conn_tests::kernel_sockets::Witness;
use conn_tests::skip::skip;
use namespace::alone;
use serde_json::Value;
use states::wait_for_state;

mod namespace;
mod states;

const CONN: &str = env!("CARGO_BIN_EXE_conn");

fn conn(words: &[&str]) -> Output {
    Command::new(CONN).args(words).env("CONN_SOCKET", "").output().expect("conn runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sockets of `conn list --json`.
fn list(words: &[&str]) -> Vec<Value> {
    let output = conn(&[&["list", "--json"], words].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["kind"], "list");
    lines.into_iter().filter(|line| line["kind"] == "connection" || line["kind"] == "listener").collect()
}

/// The one socket with these ends.
fn one(sockets: &[Value], local: SocketAddr, remote: Option<SocketAddr>) -> &Value {
    let is = |socket: &&Value, end: SocketAddr, address: &str, port: &str| {
        socket[address] == end.ip().to_canonical().to_string() && socket[port] == end.port()
    };
    let found: Vec<&Value> = sockets
        .iter()
        .filter(|socket| is(socket, local, "laddr", "lport"))
        .filter(|socket| match remote {
            Some(remote) => is(socket, remote, "raddr", "rport"),
            None => socket["kind"] == "listener",
        })
        .collect();
    assert_eq!(found.len(), 1, "{local} {remote:?}: {found:?}");
    found[0]
}

fn pids(socket: &Value) -> Vec<u64> {
    let holders = socket["holders"].as_array().expect("holders");
    let mut pids: Vec<u64> = holders.iter().map(|holder| holder["pid"].as_u64().expect("a pid")).collect();
    pids.sort_unstable();
    pids
}

fn me() -> u64 {
    std::process::id().into()
}

/// A child that sleeps and holds this descriptor too.
struct Sharing(Child);

impl Sharing {
    fn of(fd: i32) -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null());
        // SAFETY: fcntl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            sleep.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        Self(sleep.spawn().expect("a child"))
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pair of connected sockets: ours, and the accepted one.
fn connected(listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let ours = TcpStream::connect(to).expect("a connection");
    let (theirs, _) = listener.accept().expect("accepted");
    (ours, theirs)
}

fn ends(stream: &TcpStream) -> (SocketAddr, Option<SocketAddr>) {
    (stream.local_addr().expect("an end"), stream.peer_addr().ok())
}

#[test]
fn listeners_of_both_families_and_their_holders() {
    let _alone = alone();
    let v4 = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let v6 = TcpListener::bind("[::1]:0").expect("a listener");
    let dual = TcpListener::bind("[::]:0").expect("a listener");
    let child = Sharing::of(v6.as_raw_fd());
    let found = list(&["-l"]);
    assert!(found.iter().all(|socket| socket["kind"] == "listener"));
    let at = |listener: &TcpListener| one(&found, listener.local_addr().expect("an address"), None);
    assert_eq!(pids(at(&v4)), [me()]);
    let mut both = [me(), u64::from(child.0.id())];
    both.sort_unstable();
    assert_eq!(pids(at(&v6)), both, "shared after a fork");
    assert_eq!((&at(&dual)["family"], &at(&dual)["v6only"]), (&"ipv6".into(), &false.into()));
    let holder = &at(&v4)["holders"][0];
    let exe = std::env::current_exe().expect("our path");
    assert_eq!(holder["process"]["exe"], exe.to_str().expect("UTF-8"));
    assert_eq!(holder["fds"], serde_json::json!([v4.as_raw_fd()]));
    assert_eq!(at(&v4)["method"], "fd_table");
}

#[test]
fn connections_with_direction_age_and_counters() {
    let _alone = alone();
    let listener = TcpListener::bind("[::]:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let (mut ours, theirs) = connected(&listener, SocketAddr::from(([127, 0, 0, 1], port)));
    ours.write_all(b"hello").expect("written");
    let waiting = TcpStream::connect(("::1", port)).expect("a connection");
    let found = list(&[&format!("port:{port}")]);
    assert!(found.iter().all(|socket| socket["kind"] == "connection"), "no listener by default");

    let (local, remote) = ends(&ours);
    let out = one(&found, local, remote);
    assert_eq!((&out["dir"], &out["state"], pids(out)), (&"out".into(), &"established".into(), vec![me()]));
    assert_eq!(out["bytes_out"], 5);
    let age = &out["age"];
    assert!(age["at_least_ns"].as_u64() <= age["at_most_ns"].as_u64(), "{age}");

    let (local, remote) = ends(&theirs);
    let accepted = one(&found, local, remote);
    assert_eq!((&accepted["dir"], pids(accepted)), (&"in".into(), vec![me()]));
    assert_eq!((&accepted["family"], &accepted["mapped"]), (&"ipv4".into(), &true.into()));
    assert_eq!((&accepted["bytes_in"], &accepted["recv_queue"]), (&5.into(), &5.into()), "not read yet");

    let (remote, local) = ends(&waiting);
    let unaccepted = one(&found, local.expect("connected"), Some(remote));
    assert_eq!((&unaccepted["method"], &unaccepted["reason"]), (&"unknown".into(), &"not_accepted".into()));
    assert_eq!(unaccepted["dir"], "in");
    let all = list(&["-a", &format!("lport:{port} state:listen")]);
    assert_eq!(all[0]["accept_queue"], 1);
}

#[test]
fn half_closed_and_lingering_ones() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let to = listener.local_addr().expect("an address");
    let (ours, theirs) = connected(&listener, to);
    let (half, other_half) = (ends(&ours), ends(&theirs));
    drop(ours);
    let (closed_first, closed_last) = connected(&listener, to);
    let lingering = ends(&closed_first);
    drop(closed_first);
    drop(closed_last);
    let at = |ends: (SocketAddr, Option<SocketAddr>), state| {
        wait_for_state(ends.0, ends.1.expect("connected"), state);
    };
    // FIN_WAIT2, CLOSE_WAIT, TIME_WAIT.
    at(half, 5);
    at(other_half, 8);
    at(lingering, 6);
    let filter = format!("port:{}", to.port());
    let found = list(&["-a", &filter]);
    let orphan = one(&found, half.0, half.1);
    assert_eq!((&orphan["state"], &orphan["reason"]), (&"fin_wait2".into(), &"orphan".into()));
    let left = one(&found, other_half.0, other_half.1);
    assert_eq!((&left["state"], pids(left)), (&"close_wait".into(), vec![me()]));
    let lingers = one(&found, lingering.0, lingering.1);
    assert_eq!((&lingers["state"], &lingers["reason"]), (&"time_wait".into(), &"time_wait".into()));
    assert!(list(&[&filter]).iter().all(|socket| socket["state"] != "time_wait"));
}

#[test]
fn filters_and_order() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let to = listener.local_addr().expect("an address");
    let pairs = [0, 1, 2].map(|_| connected(&listener, to));
    for (pair, bytes) in pairs.iter().zip([200, 100, 300]) {
        (&pair.0).write_all(&vec![b'x'; bytes]).expect("written");
    }
    let (port, pid) = (format!("rport:{}", to.port()), format!("pid:{}", me()));
    let sent = |order: &str| -> Vec<u64> {
        let found = list(&["--sort", order, &port, &pid, "dir:out"]);
        found.iter().map(|socket| socket["bytes_out"].as_u64().expect("counters")).collect()
    };
    assert_eq!(sent("bytes"), [100, 200, 300]);
    assert_eq!(sent("-bytes"), [300, 200, 100]);
    assert_eq!(list(&[&port, &format!("-pid:{}", me())]).len(), 0);
    for words in [&["list", "kind:listen"][..], &["list", "--sort", "size"], &["list", "nosuchkey:1"]] {
        assert_eq!(conn(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn the_table_shows_what_the_json_says() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let (ours, _theirs) = connected(&listener, listener.local_addr().expect("an address"));
    let output = conn(&["list", "-a", "--color", "never", &format!("pid:{}", me())]);
    let shown = text(&output.stdout);
    let (local, remote) = ends(&ours);
    let line = shown
        .lines()
        .find(|line| line.contains(" out ") && line.contains(&format!("  {local}  ")))
        .expect("our connection");
    for part in ["ESTAB", "out", &format!("[{}]", me()), &remote.expect("connected").to_string()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(shown.starts_with("STATE ") && !shown.contains('\x1b'));
}

/// A file that goes when the test ends.
struct Saved(PathBuf);

impl Saved {
    fn of(name: &str, words: &[&str]) -> Self {
        let path = std::env::temp_dir().join(format!("conn-list-{}-{name}", std::process::id()));
        let output = conn(&[&["list", "--json"], words].concat());
        fs::write(&path, output.stdout).expect("a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn differences() {
    let _alone = alone();
    let stays = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let goes = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mine = format!("pid:{}", me());
    let ports = |listeners: &[&TcpListener]| {
        let port = |listener: &&TcpListener| listener.local_addr().expect("an address").port().to_string();
        format!("lport:{}", listeners.iter().map(port).collect::<Vec<_>>().join(","))
    };
    let comes = TcpListener::bind("127.0.0.1:0").expect("a port");
    let came = comes.local_addr().expect("an address");
    let filter = ports(&[&stays, &goes, &comes]);
    drop(comes);
    let went = goes.local_addr().expect("an address");
    let old = Saved::of("old", &["-l", &filter, &mine]);
    drop(goes);
    let _comes = TcpListener::bind(came).expect("a listener");
    let child = Sharing::of(stays.as_raw_fd());
    let new = Saved::of("new", &["-l", &filter, &mine]);
    let output = conn(&["diff", "--exit-code", old.path(), new.path()]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{shown}");
    let line = |sign: char, end: SocketAddr| {
        shown.lines().find(|line| line.starts_with(sign) && line.contains(&format!(" {end} "))).is_some()
    };
    assert!(line('-', went) && line('+', came), "{shown}");
    assert!(line('~', stays.local_addr().expect("an address")), "the child holds it too: {shown}");
    assert!(shown.ends_with("1 appeared, 1 vanished, 1 changed, 0 the same\n"), "{shown}");
    drop(child);

    let same = conn(&["diff", "--exit-code", "--json", old.path(), old.path()]);
    let last: Value =
        serde_json::from_str(text(&same.stdout).lines().last().expect("a summary")).expect("JSON");
    assert_eq!((same.status.code(), &last["kind"], &last["same"]), (Some(0), &"summary".into(), &2.into()));
    let missing = conn(&["diff", old.path(), "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nonexistent: No such file"), "{}", text(&missing.stderr));
    let no_list = conn(&["diff", old.path(), CONN]);
    assert!(text(&no_list.stderr).contains(": line 1: it is not UTF-8"), "{}", text(&no_list.stderr));
}

#[test]
fn nobody_sees_the_sockets_and_is_reported_what_is_missing() {
    let _alone = alone();
    // SAFETY: it takes nothing and cannot fail.
    assert_eq!(unsafe { libc::geteuid() }, 0, "only root can become nobody: run the tests as root");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    // A copy where nobody can get at it.
    let copy = std::env::temp_dir().join(format!("conn-nobody-{}", std::process::id()));
    fs::copy(CONN, &copy).expect("a copy");
    let mut command = Command::new(&copy);
    command.args(["list", "-l", "--json", &format!("lport:{port}")]).uid(65534).gid(65534);
    let output = command.current_dir("/").env("CONN_SOCKET", "").output().expect("conn runs");
    fs::remove_file(&copy).expect("removed");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("conn: note: "), "{stderr}");
    let stdout = text(&output.stdout);
    let listed: Value = serde_json::from_str(stdout.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&listed["lport"], &listed["reason"]), (&port.into(), &"no_holder".into()), "{stdout}");
    assert!(stdout.lines().any(|line| line.contains("\"kind\":\"note\"")));
}

#[test]
fn agrees_with_ss() {
    let _alone = alone();
    if !Witness::here().contains(&Witness::Ss) {
        skip("no ss (package iproute2); list::equals-proc of the scenarios compares with /proc/net/tcp");
        return;
    }
    let listeners = ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(|at| TcpListener::bind(at).expect("a listener"));
    let child = Sharing::of(listeners[0].as_raw_fd());
    let mut pairs = Vec::new();
    for listener in &listeners {
        let mut to = listener.local_addr().expect("an address");
        if to.ip().is_unspecified() {
            to.set_ip([127, 0, 0, 1].into());
        }
        pairs.extend((0..5).map(|_| connected(listener, to)));
    }
    // Half closed, and lingering.
    let (half, other_half) = pairs.remove(0);
    let (lingering, other_end) = pairs.remove(0);
    let ended = [(ends(&half), 5), (ends(&lingering), 6)];
    drop(half);
    drop((lingering, other_end));
    for ((local, remote), state) in ended {
        wait_for_state(local, remote.expect("connected"), state);
    }
    // Others on this machine open and close theirs meanwhile.
    let ours: Vec<u16> = listeners.iter().map(|at| at.local_addr().expect("an address").port()).collect();
    let is_ours = |ends: &against_ss::Ends| {
        ours.contains(&ends.local.port()) || ends.remote.is_some_and(|remote| ours.contains(&remote.port()))
    };
    for (ss, conn) in [("-tan", &["-a"][..]), ("-tln", &["-l"]), ("-tn", &[])] {
        let report = against_ss::against_ss(Path::new(CONN), ss, conn, is_ours).expect("both run");
        println!("ss {ss}: {} the same, {} changing", report.same, report.changing);
        assert!(report.wrong.is_empty(), "ss {ss}: {:#?}", report.wrong);
        assert!(report.same >= 3, "ss {ss}: {report:?}");
    }
    drop((child, other_half));
}
