//! What rules with `baseline = true` report, and what they do not.

use std::sync::Arc;

use super::*;
use crate::event::alert::{Alert, Phase, Value};
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::rules::model::{Detect, PathRule, ProcessRule, Rule, ServerRule};
use crate::rules::testing::{Rig, evidence as evidence_of, process, rule, seconds};
use crate::units::WallNs;

/// In a service.
pub(crate) fn service(pid: u32, exe: &str, unit: &str) -> Arc<ProcessInfo> {
    let placement = Placement::of(format!("/system.slice/{unit}").as_bytes());
    Arc::new(ProcessInfo { placement: Some(Arc::new(placement)), ..ProcessInfo::clone(&process(pid, exe)) })
}

fn entry(who: Who, what: What) -> Entry {
    Entry { who, what, seen: Seen::once(WallNs(1), "") }
}

fn exe(name: &str) -> Who {
    Who::Exe(name.into())
}

fn out(who: Who, remote: &str, port: u16) -> Entry {
    let remote = match remote.parse() {
        Ok(net) => Place::Net(net),
        Err(_) => Place::Zone(remote.into()),
    };
    entry(who, What::Connection { direction: Direction::Out, remote, ports: Ports::one(port) })
}

fn listens(who: Who, local: &str, port: u16) -> Entry {
    entry(
        who,
        What::Listener { local: Place::Net(local.parse().expect("a network")), ports: Ports::one(port) },
    )
}

pub(crate) fn rules() -> Vec<Rule> {
    let named = |id: &str, detect| {
        let mut rule = rule(detect, "");
        Arc::make_mut(&mut rule.about).id = id.into();
        rule
    };
    vec![
        named("path", Detect::Path(PathRule::Unlearned)),
        named("server", Detect::Server(ServerRule::Unlearned)),
        named("process", Detect::Process(ProcessRule::Unlearned)),
    ]
}

pub(crate) fn baseline() -> Baseline {
    let nginx = || Who::Unit("nginx.service".into());
    let entries = vec![
        out(exe("/usr/bin/curl"), "10.1.0.0/24", 443),
        out(exe("/usr/bin/python3.*"), "loopback", 5432),
        out(nginx(), "loopback", 8080),
        listens(nginx(), "0.0.0.0/0", 80),
        entry(nginx(), What::Program { exe: "/usr/sbin/nginx".into() }),
        listens(exe("/usr/bin/nc"), "127.0.0.1/32", 4000),
    ];
    Baseline::new(entries, Vec::new())
}

fn rig() -> Rig {
    let mut rig = Rig::with_baseline(rules(), baseline());
    rig.begin();
    rig
}

fn reported(rig: &mut Rig) -> Vec<String> {
    let raised = |alert: &Alert| alert.phase == Phase::Raised;
    rig.reported().iter().filter(|alert| raised(alert)).map(|alert| alert.rule.id.to_string()).collect()
}

#[test]
fn what_is_known_is_not_reported() {
    let mut rig = rig();
    rig.open_and_close(&process(10, "/usr/bin/curl"), "10.1.0.77:443", None);
    rig.open_and_close(&process(11, "/usr/bin/python3.11"), "127.0.0.1:5432", None);
    let nginx = service(12, "/usr/sbin/nginx", "nginx.service");
    rig.open_and_close(&nginx, "127.0.0.1:8080", None);
    rig.listen(&nginx, "0.0.0.0:80");
    // Narrower than what is known.
    rig.listen(&nginx, "10.0.0.1:80");
    rig.listen(&process(13, "/usr/bin/nc"), "127.0.0.1:4000");
    assert_eq!(reported(&mut rig), [""; 0]);
}

#[test]
fn each_new_thing_is_one_alert() {
    let mut rig = rig();
    let curl = process(10, "/usr/bin/curl");
    rig.open(&curl, "10.2.0.1:443");
    let alert = rig.only();
    assert_eq!(&*alert.rule.id, "path");
    assert_eq!(evidence_of(&alert, "baseline"), Some(&Value::Text(b"connection"[..].into())));
    assert_eq!(evidence_of(&alert, "known"), Some(&Value::Number(1)));
    let nearest = Value::List(vec![Value::Text(b"out 10.1.0.0/24 port 443"[..].into())]);
    assert_eq!(evidence_of(&alert, "nearest"), Some(&nearest));
    assert_eq!(alert.suppress.as_deref(), Some("exe:/usr/bin/curl dport:443 raddr:10.2.0.1"));
    rig.open(&curl, "10.1.0.1:80");
    rig.accept(&curl, "10.0.0.1:443", "10.1.0.1:50000");
    assert_eq!(reported(&mut rig), ["path", "path"], "another port, another direction");

    rig.listen(&process(11, "/usr/bin/nc"), "0.0.0.0:4000");
    assert_eq!(reported(&mut rig), ["server"], "wider than what is known");

    let new = process(12, "/tmp/new");
    for remote in ["10.1.0.1:443", "10.9.0.1:22"] {
        rig.open(&new, remote);
    }
    rig.listen(&new, "0.0.0.0:4444");
    assert_eq!(reported(&mut rig), ["process"], "a new program is one new thing, whatever it does");
}

#[test]
fn a_service_is_asked_by_its_unit_and_its_executables() {
    let mut rig = rig();
    rig.open(&service(10, "/usr/bin/curl", "nginx.service"), "10.1.0.1:443");
    let alert = rig.only();
    assert_eq!(&*alert.rule.id, "process", "curl is known, but not in this service");
    assert_eq!(evidence_of(&alert, "unit"), Some(&Value::Text(b"nginx.service"[..].into())));
    rig.open(&service(11, "/usr/sbin/nginx", "nginx.service"), "10.1.0.1:443");
    assert_eq!(reported(&mut rig), ["path"]);
    // What a session does is not distinguished by its number.
    let scope = Placement::of(b"/user.slice/user-0.slice/session-12.scope");
    let curl =
        ProcessInfo { placement: Some(Arc::new(scope)), ..ProcessInfo::clone(&process(13, "/usr/bin/curl")) };
    rig.open(&Arc::new(curl), "10.1.0.2:443");
    assert_eq!(reported(&mut rig), [""; 0]);
}

#[test]
fn without_a_rule_on_programs_a_new_one_is_reported_by_what_it_does() {
    let mut rules = rules();
    rules.pop();
    let mut rig = Rig::with_baseline(rules, baseline());
    rig.begin();
    let new = process(12, "/tmp/new");
    rig.open(&new, "10.1.0.1:443");
    rig.listen(&new, "0.0.0.0:4444");
    assert_eq!(reported(&mut rig), ["path", "server"]);
}

#[test]
fn a_rule_on_programs_that_leaves_one_out_leaves_it_to_the_others() {
    let mut rules = rules();
    rules[2] = rule(Detect::Process(ProcessRule::Unlearned), "-exe:/tmp/*");
    let mut rig = Rig::with_baseline(rules, baseline());
    rig.begin();
    rig.open(&process(12, "/tmp/new"), "10.1.0.1:443");
    assert_eq!(reported(&mut rig), ["path"]);
}

#[test]
fn what_is_open_at_the_start_is_judged() {
    let mut rig = Rig::with_baseline(rules(), baseline());
    rig.existing(Direction::Out, &process(10, "/usr/bin/curl"), None, "10.2.0.1:443");
    rig.existing(Direction::Unknown, &process(10, "/usr/bin/curl"), None, "10.3.0.1:443");
    rig.listen(&process(11, "/usr/bin/nc"), "127.0.0.1:4001");
    rig.begin();
    assert_eq!(reported(&mut rig), ["path", "server"]);
}

#[test]
fn what_is_not_known_of_whom_is_not_judged() {
    let mut rig = rig();
    rig.connect_as(None, "10.9.0.1:1");
    let nameless =
        |process: Arc<ProcessInfo>| Arc::new(ProcessInfo { exe: None, ..ProcessInfo::clone(&process) });
    rig.open(&nameless(process(10, "/tmp/x")), "10.9.0.1:1");
    // Of a service its path is judged, and not its program.
    rig.open(&nameless(service(11, "/tmp/x", "nginx.service")), "127.0.0.1:8080");
    assert_eq!(reported(&mut rig), [""; 0]);
}

#[test]
fn the_same_is_reported_once() {
    let mut rig = rig();
    let curl = process(10, "/usr/bin/curl");
    for _ in 0..3 {
        rig.open_and_close(&curl, "10.2.0.1:443", None);
        rig.pass(seconds(1));
    }
    assert_eq!(reported(&mut rig), ["path"]);
    rig.pass(seconds(4_000));
    rig.open_and_close(&curl, "10.2.0.1:443", None);
    assert_eq!(reported(&mut rig), ["path"], "after the throttle");
}

#[test]
fn another_baseline_is_put_in_force() {
    let mut rig = rig();
    let curl = process(10, "/usr/bin/curl");
    rig.open(&curl, "10.2.0.1:443");
    assert_eq!(reported(&mut rig), ["path"]);
    rig.set_rules_and(rules(), baseline());
    assert_eq!(rig.reported().len(), 0, "nothing has changed");
    let mut entries = baseline().entries().to_vec();
    entries.push(out(exe("/usr/bin/curl"), "10.2.0.1/32", 443));
    rig.set_rules_and(rules(), Baseline::new(entries, Vec::new()));
    assert_eq!(rig.only().phase, Phase::Resolved);
    rig.open(&curl, "10.2.0.1:443");
    assert_eq!(rig.reported().len(), 0, "it is known now");
}

#[test]
fn a_loss_while_learning_is_reported() {
    let windows = vec![Window { lost: 3, ..Window::default() }];
    let mut rig = Rig::with_baseline(rules(), Baseline::new(baseline().entries().to_vec(), windows));
    rig.begin();
    rig.open(&process(10, "/usr/bin/curl"), "10.2.0.1:443");
    assert_eq!(evidence_of(&rig.only(), "lost_while_learning"), Some(&Value::Number(3)));
}
