//! `conn list` against ss of iproute2: the same sockets, in the same states, of the same users and inodes, held by the same
//! processes.
//!
//! Sockets come and go while both look, so ss looks before and after: where it says the same twice, `conn list` must say
//! that too. A difference that ss itself shows is counted, and nothing else is let pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What names a socket for ss: the ends. Several may have the same (SO_REUSEPORT).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// Local end; IPv4-mapped addresses as IPv4.
    pub local: SocketAddr,
    /// Remote end; `None`: it listens.
    pub remote: Option<SocketAddr>,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts {
    /// TCP state, as ss writes it.
    pub state: String,
    /// The processes that hold it.
    pub pids: BTreeSet<u32>,
    /// The user whose socket it is.
    pub uid: u32,
    /// Inode number; 0: it has none (any more).
    pub inode: u64,
}

/// Sockets by their ends; the facts of those with the same ends are sorted.
pub type Sockets = BTreeMap<Ends, Vec<Facts>>;

/// The result of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sockets about which ss said the same twice, and conn too.
    pub same: usize,
    /// Sockets about which ss itself said different things.
    pub changing: usize,
    /// Sockets and holders that only conn saw, between the two looks of ss, and that were gone a moment later.
    pub brief: usize,
    /// What conn said otherwise.
    pub wrong: Vec<Wrong>,
}

/// What conn said otherwise than ss.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The socket, or several with the same ends.
    pub ends: Ends,
    /// What ss said, twice.
    pub ss: Option<Vec<Facts>>,
    /// What conn said.
    pub conn: Option<Vec<Facts>>,
}

/// Compares a list with what ss said before and after it.
pub fn compare(before: &Sockets, list: &Sockets, after: &Sockets) -> Report {
    let mut report = Report::default();
    let all: BTreeSet<&Ends> = before.keys().chain(list.keys()).chain(after.keys()).collect();
    for ends in all {
        let [was, said, is] = [before, list, after].map(|sockets| sockets.get(ends));
        if was != is {
            report.changing += 1;
        } else if said == is {
            report.same += said.map_or(0, Vec::len);
        } else {
            report.wrong.push(Wrong { ends: *ends, ss: is.cloned(), conn: said.cloned() });
        }
    }
    report
}

/// What ss says; `options` such as `-tan`. `-H`, `-p` and `-e` are added.
///
/// # Errors
/// When ss cannot be run, or says something that cannot be read.
pub fn ss(options: &str) -> Result<Sockets> {
    let output = Command::new("ss").args(["-H", "-p", "-e", options]).output().context("running ss")?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    parse_ss(&String::from_utf8_lossy(&output.stdout))
}

fn parse_ss(text: &str) -> Result<Sockets> {
    let mut sockets = Sockets::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let state = words.next().context("no state")?.to_owned();
        let (local, peer) = (words.nth(2), words.next());
        let (Some(local), Some(peer)) = (local, peer) else { bail!("ss: {line}") };
        let local = end(local).with_context(|| line.to_owned())?;
        let remote = match state.as_str() {
            "LISTEN" => None,
            _ => Some(end(peer).with_context(|| line.to_owned())?),
        };
        let pids = line.split(",pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
        // After the names of the processes, which may be anything.
        let details = line.rsplit_once("))").map_or(line, |(_, details)| details);
        let (uid, inode) = (detail(details, "uid:").unwrap_or(0), detail(details, "ino:").unwrap_or(0));
        let uid = u32::try_from(uid).with_context(|| line.to_owned())?;
        add(&mut sockets, Ends { local, remote }, Facts { state, pids: pids.collect(), uid, inode });
    }
    Ok(sockets)
}

/// What `ss -e` says of a socket under this name; it leaves out what is 0.
fn detail(details: &str, name: &str) -> Option<u64> {
    details.split_ascii_whitespace().find_map(|word| word.strip_prefix(name))?.parse().ok()
}

/// `127.0.0.1:80`, `[::1]:80`, `[::ffff:127.0.0.1]:80`, `127.0.0.53%lo:53`, `*:80` (IPv6 that takes IPv4 too).
fn end(text: &str) -> Result<SocketAddr> {
    let (address, port) = text.rsplit_once(':').context("no port")?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.split('%').next().unwrap_or(address);
    let port = if port == "*" { 0 } else { port.parse().context("port")? };
    let address = match address {
        "*" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        other => other.parse().context("address")?,
    };
    Ok(SocketAddr::new(canonical(address), port))
}

/// IPv4-mapped addresses as IPv4.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, Ipv4Addr::into),
        IpAddr::V4(_) => address,
    }
}

/// Adds a socket.
pub(crate) fn add(sockets: &mut Sockets, ends: Ends, facts: Facts) {
    let all = sockets.entry(ends).or_default();
    all.push(facts);
    all.sort();
}

/// What `conn list --json` says of our own network namespace, the only one that ss shows; `options` such as `-a`.
///
/// # Errors
/// When conn cannot be run, or says something that cannot be read.
pub fn conn(conn: &Path, options: &[&str]) -> Result<Sockets> {
    let output = Command::new(conn)
        .args(["list", "--json"])
        .env("CONN_SOCKET", "")
        .args(options)
        .output()
        .with_context(|| format!("running {}", conn.display()))?;
    ensure!(output.status.success(), "conn: {}", String::from_utf8_lossy(&output.stderr));
    parse_list(&String::from_utf8(output.stdout).context("conn writes UTF-8")?, own_netns()?)
}

/// Inode number of our own network namespace.
///
/// # Errors
/// When /proc does not say.
pub fn own_netns() -> Result<u64> {
    use std::os::linux::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?.st_ino())
}

fn parse_list(text: &str, netns: u64) -> Result<Sockets> {
    let mut sockets = Sockets::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).context("a line of JSON")?;
        if !matches!(line["kind"].as_str(), Some("connection" | "listener")) || line["netns"] != netns {
            continue;
        }
        let end = |address: &str, port: &str| -> Result<SocketAddr> {
            let address = line[address].as_str().with_context(|| format!("{address}: {line}"))?;
            let port = line[port].as_u64().unwrap_or(0);
            Ok(SocketAddr::new(address.parse()?, u16::try_from(port)?))
        };
        let state = line["state"].as_str().and_then(ss_state).with_context(|| line.to_string())?;
        let remote = if state == "LISTEN" { None } else { Some(end("raddr", "rport")?) };
        let holders = line["holders"].as_array().with_context(|| line.to_string())?;
        let pids = holders.iter().filter_map(|holder| u32::try_from(holder["pid"].as_u64()?).ok()).collect();
        let uid = line["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok());
        let uid = uid.with_context(|| line.to_string())?;
        let inode = line["inode"].as_u64().unwrap_or(0);
        let ends = Ends { local: end("laddr", "lport")?, remote };
        add(&mut sockets, ends, Facts { state: state.to_owned(), pids, uid, inode });
    }
    Ok(sockets)
}

/// How ss calls a state.
fn ss_state(state: &str) -> Option<&'static str> {
    Some(match state {
        "established" => "ESTAB",
        "syn_sent" => "SYN-SENT",
        "syn_recv" => "SYN-RECV",
        "fin_wait1" => "FIN-WAIT-1",
        "fin_wait2" => "FIN-WAIT-2",
        "time_wait" => "TIME-WAIT",
        "close" => "UNCONN",
        "close_wait" => "CLOSE-WAIT",
        "last_ack" => "LAST-ACK",
        "listen" => "LISTEN",
        "closing" => "CLOSING",
        _ => return None,
    })
}

/// ss, conn, ss, of the sockets that are `of_interest`. What only conn saw is looked for once more: what was there briefly
/// is gone by then, what is invented is not.
///
/// # Errors
/// When one of them cannot be run or read.
pub fn against_ss(
    conn_binary: &Path,
    ss_options: &str,
    conn_options: &[&str],
    of_interest: impl Fn(&Ends) -> bool,
) -> Result<Report> {
    against(|| ss(ss_options), conn_binary, conn_options, of_interest)
}

/// The same with any other witness in the place of ss.
///
/// # Errors
/// When one of them cannot be run or read.
pub fn against(
    witness: impl Fn() -> Result<Sockets>,
    conn_binary: &Path,
    conn_options: &[&str],
    of_interest: impl Fn(&Ends) -> bool,
) -> Result<Report> {
    let look = || -> Result<(Sockets, Report)> {
        let mut before = witness()?;
        let mut list = conn(conn_binary, conn_options)?;
        let mut after = witness()?;
        for sockets in [&mut before, &mut list, &mut after] {
            sockets.retain(|ends, _| of_interest(ends));
        }
        let report = compare(&before, &list, &after);
        Ok((list, report))
    };
    let (_, mut report) = look()?;
    if !report.wrong.is_empty() {
        let (later, _) = look()?;
        let found = report.wrong.len();
        report.wrong.retain(|wrong| !wrong.is_brief(&later));
        report.brief = found - report.wrong.len();
    }
    Ok(report)
}

impl Wrong {
    /// Whether conn only saw more than ss, and `later` nothing of that any more: had it been there all the time, ss would
    /// have seen it, and had conn invented it, conn would do so again.
    fn is_brief(&self, later: &Sockets) -> bool {
        let later = later.get(&self.ends).map_or(&[][..], Vec::as_slice);
        let Some(said) = &self.conn else { return false };
        let Some(ss) = &self.ss else { return later.is_empty() };
        ss.len() == said.len()
            && ss.iter().zip(said).all(|(ss, said)| {
                let more: Vec<_> = said.pids.difference(&ss.pids).collect();
                (&ss.state, ss.uid, ss.inode) == (&said.state, said.uid, said.inode)
                    && ss.pids.is_subset(&said.pids)
                    && !later.iter().any(|later| more.iter().any(|pid| later.pids.contains(pid)))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SS: &str = "\
LISTEN     0      511          0.0.0.0:8080       0.0.0.0:*     users:((\"nginx\",pid=12,fd=6),(\"nginx\",pid=11,fd=6)) ino:8080 sk:1 cgroup:/a ino:1 <->
LISTEN     0      128                *:22               *:*     users:((\" ino:6 uid:6\",pid=5,fd=3)) ino:22 sk:2 v6only:0 <->
LISTEN     0      128             [::]:23            [::]:*     ino:23 sk:3
TIME-WAIT  0      0      127.0.0.53%lo:53       127.0.0.1:50000 ino:0 sk:4
ESTAB      0      0      [::ffff:10.0.0.1]:22 [::ffff:10.0.0.2]:4000  users:((\"sshd\",pid=9,fd=4)) uid:1000 ino:22 sk:5
";

    fn list() -> String {
        let line = |kind: &str, state: &str, local: (&str, u16), remote: (&str, u16), pids: &[u32]| {
            let holders: Vec<_> = pids.iter().map(|pid| serde_json::json!({ "pid": pid })).collect();
            // Any number will do.
            let inode = (state != "time_wait").then_some(local.1);
            let uid = if state == "established" { 1000 } else { 0 };
            let mut line = serde_json::json!({
                "kind": kind, "state": state, "netns": 1, "holders": holders, "inode": inode, "uid": uid,
                "laddr": local.0, "lport": local.1,
            });
            if kind == "connection" {
                line["raddr"] = remote.0.into();
                line["rport"] = remote.1.into();
            }
            line.to_string() + "\n"
        };
        [
            "{\"kind\":\"list\"}\n".to_owned(),
            line("listener", "listen", ("0.0.0.0", 8080), ("", 0), &[11, 12]),
            line("listener", "listen", ("::", 22), ("", 0), &[5]),
            line("listener", "listen", ("::", 23), ("", 0), &[]),
            line("connection", "time_wait", ("127.0.0.53", 53), ("127.0.0.1", 50000), &[]),
            line("connection", "established", ("10.0.0.1", 22), ("10.0.0.2", 4000), &[9]),
            line("connection", "established", ("10.9.9.9", 22), ("10.0.0.2", 4000), &[9])
                .replace(":1,", ":2,"),
        ]
        .concat()
    }

    #[test]
    fn both_sides_read_the_same() {
        let (ss, mut conn) = (parse_ss(SS).expect("ss"), parse_list(&list(), 1).expect("list"));
        let report = compare(&ss, &conn, &ss);
        assert_eq!((report.same, report.wrong.len()), (5, 0), "{report:?}");
        for facts in conn.values_mut().flatten() {
            facts.pids.remove(&9);
        }
        let wrong = compare(&ss, &conn, &ss).wrong;
        assert!(wrong.iter().any(|wrong| wrong.ends.local.to_string() == "10.0.0.1:22"));
    }

    #[test]
    fn only_what_ss_shows_as_changing_is_let_pass() {
        let ss = parse_ss(SS).expect("ss");
        let without = |port: u16| {
            let mut sockets = ss.clone();
            sockets.retain(|ends, _| ends.local.port() != port);
            sockets
        };
        let report = compare(&ss, &without(53), &ss);
        assert_eq!((report.same, report.changing, report.wrong.len()), (4, 0, 1), "conn lacks one");
        let report = compare(&without(53), &ss, &without(53));
        assert_eq!((report.changing, report.wrong.len()), (0, 1), "conn invents one");
        for list in [&ss, &without(53)] {
            let report = compare(&ss, list, &without(53));
            assert_eq!((report.same, report.changing, report.wrong.len()), (4, 1, 0));
        }
    }
    #[test]
    fn only_what_is_gone_was_brief() {
        let ends = Ends { local: "127.0.0.1:80".parse().expect("address"), remote: None };
        let held = |pids: &[u32]| {
            let pids = pids.iter().copied().collect();
            Some(vec![Facts { state: "LISTEN".to_owned(), pids, uid: 0, inode: 7 }])
        };
        let later = |pids: &[u32]| Sockets::from([(ends, held(pids).expect("facts"))]);
        let brief = |ss, conn, later: &Sockets| Wrong { ends, ss, conn }.is_brief(later);
        assert!(brief(held(&[1]), held(&[1, 2]), &later(&[1])), "a holder");
        assert!(!brief(held(&[1]), held(&[1, 2]), &later(&[1, 2])));
        assert!(!brief(held(&[1, 3]), held(&[1, 2]), &later(&[1])), "conn missed one");
        assert!(brief(None, held(&[2]), &Sockets::new()), "a socket");
        assert!(!brief(None, held(&[2]), &later(&[2])));
        assert!(!brief(held(&[1]), None, &later(&[1])), "conn missed it");
    }
}
