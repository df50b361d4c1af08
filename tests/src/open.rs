//! Which sockets are open by what an agent has reported, and by what the kernel says.

use std::collections::{BTreeMap, BTreeSet};

use crate::against_ss::{Ends, Sockets};
use crate::event::Event;

/// An open socket, as far as both sides report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Open {
    /// Local and remote end; without a remote one it listens.
    pub ends: Ends,
    /// The process that holds it; `None`: the agent does not know.
    pub pid: Option<u32>,
}

/// What is open after these events of one network namespace, in order. One that is reported twice is there twice. Only what
/// began while the agent ran: it reports nothing of what it found at its start.
pub fn by_events(events: &[Event], netns: u64) -> Vec<Open> {
    let mut open = BTreeMap::new();
    for event in events.iter().filter(|event| event.netns == Some(netns)) {
        let Some(id) = event.conn_id.as_deref() else { continue };
        match event.kind.as_str() {
            // Later ones know more.
            "connect" | "established" | "accept" | "listen" => {
                let remote = if event.kind == "listen" { None } else { event.remote() };
                if let Some(local) = event.local() {
                    let pid = event.process.as_ref().map(|process| process.pid);
                    open.insert(id, Open { ends: Ends { local, remote }, pid });
                }
            }
            "failed" | "close" | "unlisten" => {
                open.remove(id);
            }
            _ => {}
        }
    }
    let mut open: Vec<_> = open.into_values().collect();
    open.sort();
    open
}

/// What is open by the kernel: an agent follows a socket as long as a process holds it, so TIME_WAIT and orphans are over,
/// and what nobody has accepted has not begun.
pub fn by_kernel(sockets: &Sockets) -> Vec<Open> {
    let mut open = Vec::new();
    for (ends, facts) in sockets {
        for pid in facts.iter().flat_map(|facts| &facts.pids) {
            open.push(Open { ends: *ends, pid: Some(*pid) });
        }
    }
    open.sort();
    open
}

/// What only the first has, and what only the second has; one that is in a list twice counts twice.
pub fn differences(first: &[Open], second: &[Open]) -> (Vec<Open>, Vec<Open>) {
    let count = |list: &[Open]| {
        let mut counts = BTreeMap::<Open, usize>::new();
        for open in list {
            *counts.entry(*open).or_default() += 1;
        }
        counts
    };
    let (first, second) = (count(first), count(second));
    let only = |a: &BTreeMap<Open, usize>, b: &BTreeMap<Open, usize>| {
        let all: BTreeSet<&Open> = a.keys().collect();
        let more = |open: &&Open| a[*open].saturating_sub(b.get(*open).copied().unwrap_or(0));
        all.into_iter().flat_map(|open| std::iter::repeat_n(*open, more(&open))).collect()
    };
    (only(&first, &second), only(&second, &first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::against_ss::Facts;
    use crate::event::Process;

    fn event(kind: &str, id: &str, ends: Ends, pid: u32) -> Event {
        Event {
            kind: kind.to_owned(),
            conn_id: Some(id.to_owned()),
            netns: Some(1),
            laddr: Some(ends.local.ip()),
            lport: Some(ends.local.port()),
            raddr: ends.remote.map(|remote| remote.ip()),
            rport: ends.remote.map(|remote| remote.port()),
            process: Some(Process { pid, ..Process::default() }),
            ..Event::default()
        }
    }

    fn ends(local: &str, remote: Option<&str>) -> Ends {
        let address = |text: &str| text.parse().expect("address");
        Ends { local: address(local), remote: remote.map(address) }
    }

    #[test]
    fn events_open_and_close() {
        let listener = ends("127.0.0.1:80", None);
        let (out, back) = (("127.0.0.1:40000"), ("127.0.0.1:80"));
        let (client, server) = (ends(out, Some(back)), ends(back, Some(out)));
        let mut events = vec![
            event("listen", "a", listener, 1),
            event("connect", "b", Ends { local: "127.0.0.1:0".parse().expect("address"), ..client }, 2),
            event("established", "b", client, 2),
            event("accept", "c", server, 1),
            event("connect", "d", client, 2),
            Event { netns: Some(2), ..event("connect", "e", client, 2) },
            Event { kind: "gap".to_owned(), ..Event::default() },
            event("failed", "d", client, 2),
        ];
        let all = [(client, 2), (listener, 1), (server, 1)].map(|(ends, pid)| Open { ends, pid: Some(pid) });
        let reported = |events: &[Event]| {
            let open = by_events(events, 1);
            let (only_reported, only_true) = differences(&open, &all);
            (open.len(), only_reported.len(), only_true.len())
        };
        assert_eq!(reported(&events), (3, 0, 0));
        events.push(event("established", "f", client, 2));
        assert_eq!(reported(&events), (4, 1, 0), "reported twice");
        events.push(event("close", "f", client, 2));
        events.push(event("unlisten", "a", listener, 1));
        assert_eq!(reported(&events), (2, 0, 1));
        events.push(Event { process: None, ..event("accept", "c", server, 1) });
        assert_eq!(reported(&events), (2, 1, 2), "nobody's is another");
    }

    #[test]
    fn what_nobody_holds_is_not_open() {
        let client = ends("127.0.0.1:40000", Some("127.0.0.1:80"));
        let facts = |state: &str, pids: &[u32]| Facts {
            state: state.to_owned(),
            pids: pids.iter().copied().collect(),
            uid: 0,
            inode: 1,
        };
        let listener = ends("127.0.0.1:80", None);
        let sockets = Sockets::from([
            (client, vec![facts("TIME-WAIT", &[]), facts("ESTAB", &[2])]),
            (listener, vec![facts("LISTEN", &[1, 3])]),
        ]);
        let open =
            [(client, 2), (listener, 1), (listener, 3)].map(|(ends, pid)| Open { ends, pid: Some(pid) });
        assert_eq!(differences(&by_kernel(&sockets), &open), (Vec::new(), Vec::new()));
    }
}
