//! Compares what the agent reported with what happened: none missing, none invented, each right.

mod check;
mod life;
mod matching;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::event::Event;
use crate::expect::{Backend, Case, expect};
use crate::truth::{Fact, Line, ProcessFact};

pub use life::{Life, contradictions, lives};

/// How far the two clocks may differ: `CLOCK_BOOTTIME` as a process reads it, and `bpf_ktime_get_boot_ns`.
pub const CLOCK_SLACK_NS: u64 = 1_000_000;

/// The truth about one run of a workload.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Images, in the order reported.
    pub processes: Vec<ProcessFact>,
    /// Facts, in the order in which they happened.
    pub facts: Vec<Fact>,
}

impl Truth {
    /// Sorts the lines of a workload.
    pub fn new(lines: &[Line]) -> Self {
        let mut truth = Self::default();
        for line in lines {
            match line {
                Line::Process(process) => truth.processes.push(process.clone()),
                Line::Fact(fact) => truth.facts.push(fact.clone()),
                _ => {}
            }
        }
        truth.facts.sort_by_key(|f| (f.from_ns, f.kind));
        truth
    }

    /// The image that this process had at this time.
    pub fn image(&self, pid: u32, at_ns: u64) -> Option<&ProcessFact> {
        let of_pid = || self.processes.iter().filter(|p| p.pid == pid);
        of_pid().filter(|p| p.from_ns <= at_ns).max_by_key(|p| p.from_ns).or_else(|| of_pid().next())
    }

    /// What reports whether an event is about this workload.
    pub fn concern(&self) -> Concern {
        let mut ports: HashMap<_, HashSet<IpAddr>> = HashMap::new();
        for f in &self.facts {
            let (ip, port) = match f.sock.remote {
                Some(remote) if f.dir == Some(crate::truth::Dir::Out) => (remote.ip(), Some(remote.port())),
                _ => (f.sock.laddr, f.sock.lport),
            };
            if let Some(port) = port {
                ports.entry((f.sock.netns, port)).or_default().insert(ip);
            }
        }
        let namespaces = self.facts.iter().map(|f| f.sock.netns).collect();
        Concern { pids: self.processes.iter().map(|p| p.pid).collect(), ports, namespaces }
    }
}

/// Which events are about a workload.
#[derive(Clone, Debug)]
pub struct Concern {
    pids: HashSet<u32>,
    /// The addresses of its ports, by network namespace and port.
    ports: HashMap<(u64, u16), HashSet<IpAddr>>,
    /// The network namespaces that it knows of.
    namespaces: HashSet<u64>,
}

impl Concern {
    /// Whether an event is about this workload: one of its processes, or one of its ports on a loopback address.
    ///
    /// A module of the kernel that a workload loads listens in every network namespace, in the workload's
    /// name: also in those that the workload does not know, such as an earlier one's that the kernel still
    /// takes down (`cleanup_net`).
    pub fn has(&self, event: &Event) -> bool {
        if event.kernel_socket && !event.netns.is_some_and(|netns| self.namespaces.contains(&netns)) {
            return false;
        }
        let closer = event.closer.as_ref().and_then(|c| c.process.as_ref());
        if [event.process.as_ref(), closer].into_iter().flatten().any(|p| self.pids.contains(&p.pid)) {
            return true;
        }
        let is_ours = |ip: Option<IpAddr>, port: Option<u16>| {
            let ours = event.netns.zip(port).and_then(|place| self.ports.get(&place));
            ours.zip(ip).is_some_and(|(ours, ip)| {
                ours.contains(&ip) || ip.is_unspecified() || ours.iter().any(IpAddr::is_unspecified)
            })
        };
        is_ours(event.laddr, event.lport) || is_ours(event.raddr, event.rport)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A fact without its event.
    Missing(String),
    /// An event without its fact.
    Invented(String),
    /// An event that says something untrue.
    Wrong(String),
    /// Records were lost.
    Gap(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(text) => write!(f, "missing:  {text}"),
            Self::Invented(text) => write!(f, "invented: {text}"),
            Self::Wrong(text) => write!(f, "wrong:    {text}"),
            Self::Gap(text) => write!(f, "gap:      {text}"),
        }
    }
}

/// The names of the kinds that are compared.
const FLOW_KINDS: [&str; 7] = ["connect", "established", "failed", "accept", "close", "listen", "unlisten"];

/// Everything that is wrong with these events, for this truth and backend. `events` is what the agent reported from
/// before the workload began until after it ended; those of others are ignored.
pub fn compare(truth: &Truth, events: &[Event], backend: Backend) -> Vec<Problem> {
    let mut problems = Vec::new();
    for gap in events.iter().filter(|e| e.kind == "gap") {
        problems.push(Problem::Gap(gap.raw.clone()));
    }
    for pair in events.windows(2) {
        if pair[1].seq <= pair[0].seq {
            problems.push(Problem::Wrong(format!("seq {} after {}", pair[1].seq, pair[0].seq)));
        }
    }
    let concern = truth.concern();
    let ours: Vec<&Event> =
        events.iter().filter(|e| FLOW_KINDS.contains(&e.kind.as_str()) && concern.has(e)).collect();
    let lives = lives(&truth.facts);
    let matched = matching::assign(truth, &lives, &ours, backend);

    let known: HashSet<_> = matched.iter().flatten().flatten().copied().collect();
    for (i, event) in ours.iter().enumerate() {
        if !known.contains(&i) {
            problems.push(Problem::Invented(event.brief()));
        }
    }
    for (life, events) in lives.iter().zip(&matched) {
        for (&fact, event) in life.facts.iter().zip(events) {
            let fact = check::as_reported(&truth.facts[fact], event.map(|event| ours[event]));
            let case = Case { fact: &fact, begin: life.begin(truth), backend };
            let (expect, reasons) = expect(&case);
            match event {
                Some(event) => check::event(truth, &case, expect, &reasons, ours[*event], &mut problems),
                None => problems.push(Problem::Missing(brief(case.fact))),
            }
        }
        let reported: Vec<_> = events.iter().flatten().map(|&e| ours[e]).collect();
        check::life(&reported, &mut problems);
    }
    check::identities(&lives, &matched, &ours, &mut problems);
    problems
}

/// A fact in one line.
pub fn brief(fact: &Fact) -> String {
    let port = |p: Option<u16>| p.map_or("?".to_owned(), |p| p.to_string());
    let mut text = format!(
        "{} {} {} {}:{}",
        if fact.sock.mptcp { "mptcp" } else { "tcp" },
        fact.kind.name(),
        fact.dir.map_or("-", |d| if d == crate::truth::Dir::Out { "out" } else { "in" }),
        fact.sock.laddr,
        port(fact.sock.lport),
    );
    if let Some(remote) = fact.sock.remote {
        let _ = write!(text, " -> {remote}");
    }
    text += &fact.pid.map_or(" by nobody".to_owned(), |pid| format!(" by {pid}"));
    if let Some(end) = fact.end {
        let _ = write!(text, " end={}", end.name());
    }
    text + &format!(
        " errno={} netns={} from {} to {}",
        fact.errno, fact.sock.netns, fact.from_ns, fact.until_ns
    )
}
