//! Finds the event of each fact.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::compare::{CLOCK_SLACK_NS, Life, Truth};
use crate::event::Event;
use crate::expect::{Backend, Case, Expect, expect};
use crate::truth::Fact;

/// For each life and each of its facts the event that reports it, as an index into `events`. Each event is used once.
///
/// The ends of a socket name its connection, but ports may be unknown on either side, and a four-tuple may come
/// twice: among the events that fit, the one of the right process and the right time is taken.
pub(crate) fn assign(
    truth: &Truth,
    lives: &[Life],
    events: &[&Event],
    backend: Backend,
) -> Vec<Vec<Option<usize>>> {
    let by_port = ByPort::new(events);
    let mut used = vec![false; events.len()];
    let mut matched: Vec<Vec<Option<usize>>> = lives.iter().map(|l| vec![None; l.facts.len()]).collect();
    // Exact fits first: a looser fact must not take the event of a stricter one.
    for loose in [false, true] {
        for (life, found) in lives.iter().zip(&mut matched) {
            let begin = life.begin(truth);
            for (&index, slot) in life.facts.iter().zip(found) {
                if slot.is_some() {
                    continue;
                }
                let fact = &truth.facts[index];
                let (expect, _) = expect(&Case { fact, begin, backend });
                let owner = begin.unwrap_or(fact).pid;
                let best = by_port
                    .candidates(fact)
                    .into_iter()
                    .filter(|&e| !used[e] && fits(fact, expect, events[e]))
                    .map(|e| (score(fact, expect, owner, events[e]), e))
                    .filter(|((in_time, _), _)| loose || *in_time)
                    .max_by_key(|&(score, e)| (score, std::cmp::Reverse(e)));
                if let Some((_, e)) = best {
                    used[e] = true;
                    *slot = Some(e);
                }
            }
        }
    }
    matched
}

/// Events by what must be the same in an event and its fact: looking through all of them for each takes too long where
/// there are thousands.
struct ByPort<'a>(HashMap<KindInNetns<'a>, BTreeMap<Option<u16>, Vec<usize>>>);

type KindInNetns<'a> = (&'a str, Option<u64>);

impl<'a> ByPort<'a> {
    fn new(events: &[&'a Event]) -> Self {
        let mut by_port: HashMap<_, BTreeMap<_, Vec<_>>> = HashMap::new();
        for (i, event) in events.iter().enumerate() {
            let of_kind = by_port.entry((event.kind.as_str(), event.netns)).or_default();
            of_kind.entry(event.lport).or_default().push(i);
        }
        Self(by_port)
    }

    /// The events that may fit, and perhaps others.
    fn candidates(&self, fact: &Fact) -> Vec<usize> {
        let Some(of_kind) = self.0.get(&(fact.kind.name(), Some(fact.sock.netns))) else { return Vec::new() };
        let port = fact.sock.lport;
        if port.is_none() {
            return of_kind.values().flatten().copied().collect();
        }
        [port, None].iter().filter_map(|port| of_kind.get(port)).flatten().copied().collect()
    }
}

fn score(fact: &Fact, expect: Expect, owner: Option<u32>, event: &Event) -> (bool, u32) {
    let in_time = event.boot_ns + CLOCK_SLACK_NS >= fact.from_ns
        && (expect.reported_late || event.boot_ns <= fact.until_ns + CLOCK_SLACK_NS);
    let pid = event.process.as_ref().map(|p| p.pid);
    let closer = event.closer.as_ref().and_then(|c| c.process.as_ref()).map(|p| p.pid);
    let port = fact.sock.lport.is_some() && fact.sock.lport == event.lport;
    (in_time, u32::from(pid == owner) * 2 + u32::from(closer == fact.pid) + u32::from(port) * 4)
}

/// Whether the event can be about the fact's socket.
fn fits(fact: &Fact, expect: Expect, event: &Event) -> bool {
    if event.kind != fact.kind.name() || event.netns != Some(fact.sock.netns) {
        return false;
    }
    let sock = &fact.sock;
    let port_fits = sock.lport.is_none()
        || sock.lport == event.lport
        || (expect.port_may_be_null && event.lport.is_none());
    let blank = |ip: Option<IpAddr>, port: Option<u16>| {
        expect.ends_may_be_null
            && ip.is_none_or(|ip| ip.is_unspecified())
            && port.is_none_or(|port| port == 0)
    };
    let local = event.laddr == Some(sock.laddr) || blank(event.laddr, event.lport);
    let remote = sock.remote.is_none() || sock.remote == event.remote() || blank(event.raddr, event.rport);
    local && port_fits && remote
}
