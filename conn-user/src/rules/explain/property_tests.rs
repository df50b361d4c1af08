//! For any stream of events, what the explanation of an event says (by a dry run, before it is judged) is what the engine then
//! does, and the dry run changes nothing: the rig checks the former at each event, and compares what was raised with a replay,
//! of which nothing is explained, at the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

use crate::event::alert::{Phase, Severity};
use crate::event::model::{EventBody, ProcEvent};
use crate::filter::Filter;
use crate::flow::model::{Change, ConnId, Direction, EndedHow, Source, Traffic};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::rules::baseline::tests::{baseline, rules as baseline_rules, service};
use crate::rules::model::{
    Detect, Expect, FanOutOf, LongRule, MissingRule, PathKey, PathRule, ProcessRule, Rule, ServerRule,
};
use crate::rules::testing::{Rig, child, process, rule, seconds};
use crate::units::DurationNs;

const CASES: u32 = 48;
/// Few: that the same comes again is what matters.
const PEERS: [&str; 4] = ["203.0.113.1", "203.0.113.2", "10.0.0.9", "10.0.0.8"];
const PORTS: [u16; 3] = [443, 4444, 22];
const PLACES: [&str; 4] = ["0.0.0.0:80", "127.0.0.1:80", "10.0.0.1:80", "0.0.0.0:443"];

/// Something that happens; what is chosen is one of those that there are, by a number.
#[derive(Clone, Debug)]
enum Act {
    Connect { process: usize, peer: usize, port: usize },
    Open { process: usize, peer: usize, port: usize },
    Beat { peer: usize },
    Accept { process: usize, peer: usize },
    Establish(usize),
    Fail(usize),
    Scan { process: usize, peer: usize },
    Close(usize, u64),
    Listen { process: usize, place: usize },
    Unlisten(usize),
    Exec(usize),
    ExecOn { process: usize, conn: usize, of_parent: bool },
    Exit(usize),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let (process, peer, port, which) = (0..7_usize, 0..4_usize, 0..3_usize, 0..8_usize);
    let opened = (process.clone(), peer.clone(), port);
    prop_oneof![
        3 => opened.clone().prop_map(|(process, peer, port)| Act::Connect { process, peer, port }),
        3 => opened.prop_map(|(process, peer, port)| Act::Open { process, peer, port }),
        4 => peer.clone().prop_map(|peer| Act::Beat { peer }),
        3 => (process.clone(), peer.clone()).prop_map(|(process, peer)| Act::Accept { process, peer }),
        2 => which.clone().prop_map(Act::Establish),
        2 => which.clone().prop_map(Act::Fail),
        2 => (process.clone(), peer.clone()).prop_map(|(process, peer)| Act::Scan { process, peer }),
        3 => (which.clone(), 0..4_000_u64).prop_map(|(which, bytes)| Act::Close(which, bytes)),
        4 => (process.clone(), 0..4_usize).prop_map(|(process, place)| Act::Listen { process, place }),
        2 => which.clone().prop_map(Act::Unlisten),
        4 => process.clone().prop_map(Act::Exec),
        2 => (process.clone(), which, any::<bool>())
            .prop_map(|(process, conn, of_parent)| Act::ExecOn { process, conn, of_parent }),
        1 => process.prop_map(Act::Exit),
        3 => (1..40_000_u64).prop_map(Act::Pass),
    ]
}

/// One rule of each detector, and some whose alerts are covered by others or throttled for a short time only.
fn rules() -> Vec<Rule> {
    let filter = |text: &str| Filter::new(text).expect("a filter");
    let level = || [(seconds(30), Severity::Low), (seconds(90), Severity::High)].into();
    let path = |find, matches: &'static str| (Detect::Path(find), matches);
    let program = |find, matches: &'static str| (Detect::Process(find), matches);
    let server = |find, matches: &'static str| (Detect::Server(find), matches);
    let missing = |expect, matches: &'static str| {
        (Detect::Missing(MissingRule { expect, grace: seconds(10) }), matches)
    };
    let spawn = |holds: &str, beside| ProcessRule::Spawn {
        holds: filter(holds),
        beside,
        received: None,
        answered: None,
    };
    let first_seen = |learn| PathRule::FirstSeen { by: [PathKey::Exe, PathKey::Ip].into(), learn };
    let fan_out = |of| PathRule::FanOut { of, limit: 1, window: seconds(60) };
    let pivot = PathRule::Pivot { to: filter("dst:internal"), within: seconds(60), own: true };
    let named = [
        ("forbidden", path(PathRule::Forbidden, "dport:4444")),
        ("first-seen", path(first_seen(seconds(0)), "dir:out")),
        ("first-seen-later", path(first_seen(seconds(60)), "dir:out")),
        ("peers", path(fan_out(FanOutOf::Peers), "dir:out")),
        ("peers-of-children", path(fan_out(FanOutOf::PeersOfChildren), "dir:out")),
        ("ports", path(fan_out(FanOutOf::Ports), "dir:out")),
        ("volume", path(PathRule::Volume { sent: 2_000, window: seconds(600) }, "dir:out")),
        (
            "beacon",
            path(PathRule::Beacon { score: 0.5, at_least: 4, apart: DurationNs(1_000_000) }, "dir:out"),
        ),
        ("pivot", path(pivot, "dir:in src:external")),
        ("network", program(ProcessRule::Network, "proc:sh")),
        ("probe", program(ProcessRule::Probe(seconds(2)), "-proc:sh")),
        ("exec", program(ProcessRule::Exec, "proc:sh")),
        ("spawn", program(spawn("dir:in", false), "")),
        ("spawn-beside", program(spawn("dir:out", true), "")),
        ("stdio", program(ProcessRule::Stdio, "")),
        ("parent-stdio", program(ProcessRule::ParentStdio, "")),
        ("listener", server(ServerRule::Listener, "lport:80")),
        ("takeover", server(ServerRule::Takeover, "")),
        ("join", server(ServerRule::Join, "")),
        ("widened", server(ServerRule::Widened, "")),
        ("accept", server(ServerRule::Accept, "")),
        ("each", (Detect::Long(LongRule { levels: level(), sum: false }), "")),
        ("sum", (Detect::Long(LongRule { levels: level(), sum: true }), "")),
        ("no-listener", missing(Expect::Listeners(1), "lport:443")),
        ("not-open", missing(Expect::Open(1), "dport:22")),
        ("not-every", missing(Expect::Every(seconds(60)), "dport:443")),
    ];
    let mut rules: Vec<Rule> = named
        .into_iter()
        .map(|(id, (detect, matches))| {
            let mut rule = rule(detect, matches);
            Arc::make_mut(&mut rule.about).id = id.into();
            Rule { throttle: seconds(if id.len() % 2 == 0 { 20 } else { 3_600 }), ..rule }
        })
        .collect();
    for rule in &mut rules {
        match &*rule.about.id {
            "stdio" => rule.covers = [Box::from("spawn")].into(),
            "pivot" => rule.except = [filter("dport:22")].into(),
            "takeover" => rule.except = [filter("lport:443")].into(),
            _ => {}
        }
    }
    rules.extend(baseline_rules());
    rules
}

/// What there is.
struct Machine {
    rig: Rig,
    processes: Vec<Arc<ProcessInfo>>,
    opening: Vec<ConnId>,
    open: Vec<ConnId>,
    listeners: Vec<ConnId>,
}

fn one(ids: &mut Vec<ConnId>, which: usize) -> Option<ConnId> {
    (!ids.is_empty()).then(|| ids.remove(which % ids.len()))
}

impl Machine {
    fn new() -> Self {
        let mut rig = Rig::with_baseline(rules(), baseline());
        let nginx = service(10, "/usr/sbin/nginx", "nginx.service");
        let sh = child(&nginx, 11, "/bin/sh");
        let tool = child(&nginx, 12, "/usr/bin/nc");
        let below = child(&sh, 13, "/usr/bin/curl");
        let beside = child(&sh, 14, "/bin/sh");
        rig.existing(Direction::Out, &tool, None, "203.0.113.9:443");
        let listeners = vec![rig.listen(&nginx, "0.0.0.0:443")];
        rig.begin();
        let processes =
            vec![nginx, sh, tool, below, beside, process(15, "/usr/bin/python3.11"), process(16, "/tmp/x")];
        Self { rig, processes, opening: Vec::new(), open: Vec::new(), listeners }
    }

    fn act(&mut self, act: &Act) {
        let Self { rig, processes, opening, open, listeners } = self;
        let remote = |peer: usize, port: usize| format!("{}:{}", PEERS[peer], PORTS[port]);
        match *act {
            Act::Connect { process, peer, port } => {
                opening.push(rig.connect(&processes[process], &remote(peer, port)));
            }
            Act::Open { process, peer, port } => {
                open.push(rig.open(&processes[process], &remote(peer, port)));
            }
            Act::Beat { peer } => {
                rig.pass(seconds(10));
                rig.open_and_close(&processes[6], &remote(peer, 0), None);
            }
            Act::Accept { process, peer } => {
                let remote = format!("{}:{}", PEERS[peer], 5_000 + open.len());
                open.push(rig.accept(&processes[process], "10.0.0.1:80", &remote));
            }
            Act::Establish(which) => {
                if let Some(id) = one(opening, which) {
                    rig.established(id);
                    open.push(id);
                }
            }
            Act::Fail(which) => {
                if let Some(id) = one(opening, which) {
                    rig.fail(id, libc::ECONNREFUSED);
                }
            }
            Act::Scan { process, peer } => {
                for port in 0..2 {
                    let id = rig.connect(&processes[process], &remote(peer, port));
                    rig.fail(id, libc::ECONNREFUSED);
                }
            }
            Act::Close(which, bytes_out) => {
                if let Some(id) = one(open, which) {
                    rig.close(id, EndedHow::LocalFin, Some(Traffic { bytes_out, ..Traffic::default() }));
                }
            }
            Act::Listen { process, place } => listeners.push(rig.listen(&processes[process], PLACES[place])),
            Act::Unlisten(which) => {
                if let Some(id) = one(listeners, which) {
                    rig.unlisten(id);
                }
            }
            Act::Exec(process) => rig.exec(&processes[process]),
            Act::ExecOn { process, conn, of_parent } => {
                let process = &processes[process];
                let mut exec = ProcEvent::new(Arc::clone(process));
                let conn =
                    rig.connection(Direction::Out, Some(process), None, &remote(conn % 4, 0), Source::Live);
                open.push(rig.opens(conn.clone(), Change::Connect));
                if of_parent {
                    exec.parent_stdio = Some(Box::new(conn));
                } else {
                    exec.stdio = Some(Box::new(conn));
                }
                rig.body(EventBody::Exec(exec));
            }
            Act::Exit(process) => rig.exit(&processes[process], ExitStatus::Code(1)),
            Act::Pass(ms) => rig.pass(DurationNs(ms * 1_000_000)),
        }
    }
}

#[test]
fn an_explanation_says_what_happens() {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(config.rng_algorithm));
    let raised = std::cell::RefCell::new(BTreeSet::new());
    let streams = proptest::collection::vec(act(), 1..120);
    let ran = runner.run(&streams, |acts| {
        let mut machine = Machine::new();
        for act in &acts {
            machine.act(act);
        }
        machine.rig.pass(seconds(100));
        let alerts = machine.rig.reported();
        let first = alerts.iter().filter(|alert| alert.phase == Phase::Raised);
        raised.borrow_mut().extend(first.map(|alert| alert.rule.id.to_string()));
        Ok(())
    });
    ran.unwrap_or_else(|failed| panic!("{failed}"));
    // Else nothing was compared of some detector.
    let raised = raised.into_inner();
    let silent: Vec<Box<str>> =
        rules().iter().map(|rule| rule.about.id.clone()).filter(|id| !raised.contains(&**id)).collect();
    assert!(silent.is_empty(), "{silent:?}");
}
