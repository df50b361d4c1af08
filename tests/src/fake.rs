//! An agent that knows everything: it turns the truth into the events of a perfect agent. The comparison must find
//! nothing wrong with them, and must find whatever is then changed.

use std::collections::BTreeMap;

use crate::compare::{Truth, contradictions};
use crate::event::{Actor, Age, Event, Process, shown, shown_args};
use crate::expect::{Backend, errno_name};
use crate::truth::{Dir, Fact, Kind};

/// The events of a perfect agent, or what contradicts itself in the truth.
///
/// # Errors
/// When the truth is no truth.
pub fn events(truth: &Truth, backend: Backend) -> Result<Vec<Event>, Vec<String>> {
    let wrong = contradictions(truth);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut events = Vec::new();
    for (number, life) in crate::compare::lives(&truth.facts).iter().enumerate() {
        let begin = life.begin(truth);
        let mut times: BTreeMap<Kind, u64> = BTreeMap::new();
        let facts: Vec<&Fact> = life.facts.iter().map(|&f| &truth.facts[f]).collect();
        for (at, fact) in facts.iter().enumerate() {
            if fact.early && fact.kind == Kind::Listen {
                continue;
            }
            let after = times.values().copied().max().unwrap_or(0);
            let mut event = event(truth, fact, begin, backend);
            // What comes after it in its life may be known to have come sooner than this fact alone says.
            let latest = facts[at..].iter().map(|fact| fact.until_ns).min().unwrap_or(fact.until_ns);
            event.boot_ns = fact.from_ns.midpoint(latest).max(after + 1).min(fact.until_ns);
            event.conn_id = Some(format!("boot-start-{number}"));
            times.insert(fact.kind, event.boot_ns);
            let since = |kind| times.get(&kind).map(|at| event.boot_ns.saturating_sub(*at));
            match fact.kind {
                Kind::Established => event.connect_ns = since(Kind::Connect),
                Kind::Failed => event.after_ns = since(Kind::Connect),
                Kind::Close => event.duration_ns = since(Kind::Established),
                Kind::Unlisten => event.duration_ns = since(Kind::Listen),
                _ => {}
            }
            events.push(event);
        }
    }
    events.sort_by_key(|e| e.boot_ns);
    for (seq, event) in (1..).zip(&mut events) {
        event.seq = seq;
    }
    Ok(events)
}

fn event(truth: &Truth, fact: &Fact, begin: Option<&Fact>, backend: Backend) -> Event {
    let owner = actor(truth, begin.unwrap_or(fact), backend);
    let owner = match (fact.early, begin) {
        (false, Some(begin)) if by_kernel(begin) && backend == Backend::Tracepoint => unknown("backend"),
        (true, _) if fact.sock.kernel => unknown("no_holder"),
        (true, _) => Actor { method: "fd_table".to_owned(), hook: None, tid: None, ..owner },
        (false, None) => unknown("before_attach"),
        (false, Some(_)) => owner,
    };
    let lport = fact.sock.lport.or(Some(40_000));
    let ends = fact.kind == Kind::Close || fact.kind == Kind::Unlisten;
    Event {
        schema: 1,
        kind: fact.kind.name().to_owned(),
        community_id: fact.sock.remote.map(|r| {
            let lport = lport.unwrap_or_default();
            format!("1:{}-{}", lport.min(r.port()), lport.max(r.port()))
        }),
        dir: fact.dir.map(|d| if d == Dir::Out { "out" } else { "in" }.to_owned()),
        proto: Some(if fact.sock.mptcp { "mptcp" } else { "tcp" }.to_owned()),
        family: Some(if fact.sock.laddr.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned()),
        mapped: Some(fact.sock.mapped),
        kernel_socket: fact.sock.kernel,
        laddr: Some(fact.sock.laddr),
        lport,
        raddr: fact.sock.remote.map(|r| r.ip()),
        rport: fact.sock.remote.map(|r| r.port()),
        device: fact.sock.device.clone(),
        netns: Some(fact.sock.netns),
        source: Some(if fact.early { "snapshot" } else { "live" }.to_owned()),
        process: owner.process,
        tid: owner.tid,
        method: Some(owner.method),
        hook: owner.hook,
        reason: owner.reason,
        closer: ends.then(|| actor(truth, fact, backend)),
        end: fact.end.map(|e| e.name().to_owned()),
        errno: matches!(fact.kind, Kind::Close | Kind::Failed).then_some(fact.errno),
        error: match (fact.kind, fact.errno) {
            (Kind::Failed, 0) => Some("cancelled".to_owned()),
            _ => errno_name(fact.errno).map(str::to_owned),
        },
        age: fact.begun_ns.map(|_| Age { at_least_ns: 0, at_most_ns: None }),
        bytes_in: fact.bytes_in,
        bytes_out: fact.bytes_out,
        ..Event::default()
    }
}

fn unknown(reason: &str) -> Actor {
    Actor { method: "unknown".to_owned(), reason: Some(reason.to_owned()), ..Actor::default() }
}

/// A thread of the kernel did it, of which the workload knows nothing.
fn by_kernel(fact: &Fact) -> bool {
    fact.sock.kernel && fact.dir == Some(Dir::In) && fact.pid.is_none()
}

fn actor(truth: &Truth, fact: &Fact, backend: Backend) -> Actor {
    if by_kernel(fact) {
        let worker = Process { pid: 9, comm: "kworker/0:1".to_owned(), kernel: true, ..Process::default() };
        return Actor { process: Some(worker), method: "hook".to_owned(), ..Actor::default() };
    }
    let Some(image) = fact.pid.and_then(|pid| truth.image(pid, fact.from_ns)) else {
        return unknown("kernel");
    };
    let hook = match backend {
        Backend::Fentry => "fentry:tcp_connect",
        Backend::Kprobe => "kprobe:tcp_connect",
        Backend::Tracepoint => "tp_btf:inet_sock_set_state",
    };
    Actor {
        process: Some(Process {
            id: format!("boot-{}-{}", image.pid, image.start_ticks.unwrap_or(1)),
            pid: image.pid,
            ppid: image.ppid,
            start_ns: image.start_ticks.unwrap_or(1) * 10_000_000 + 5,
            comm: shown(image.comm.as_bytes()),
            exe: Some(image.exe.clone()),
            args: shown_args(&image.args).0,
            args_escaped: shown_args(&image.args).1,
            uid: image.uid,
            gid: image.gid,
            source: "exec".to_owned(),
            ..Process::default()
        }),
        tid: fact.tid,
        method: "hook".to_owned(),
        hook: Some(hook.to_owned()),
        reason: None,
    }
}
