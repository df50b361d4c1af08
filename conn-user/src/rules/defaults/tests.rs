//! That the default rules are right, documented, and what `docs/rules.md` shows.

use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::event::alert::RuleKind;
use crate::event::model::{EventBody, ProcEvent};
use crate::filter::Filter;
use crate::filter::key::Key;
use crate::flow::model::{Change, Direction, Source};
use crate::process::info::ProcessInfo;
use crate::rules::model::Rule;
use crate::rules::testing::{Rig, child, process, seconds};

#[test]
fn every_default_rule_compiles_and_has_its_own_id() {
    let set = set(&Host::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let ids: HashSet<&str> = set.rules.iter().map(|rule| &*rule.about.id).collect();
    assert_eq!(ids.len(), set.rules.len());
    for kind in [RuleKind::Path, RuleKind::Process, RuleKind::Server, RuleKind::Long] {
        assert!(set.rules.iter().any(|rule| rule.about.kind == kind), "{kind:?}");
    }
}

/// Rules of a text, by way of a file.
fn read(name: &str, text: &str) -> RuleSet {
    let path = std::env::temp_dir().join(format!("conn-defaults-{name}-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let set = file::load(std::slice::from_ref(&path), &Host::default());
    std::fs::remove_file(&path).expect("removed");
    set.unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn printed_and_read_again_they_are_the_same() {
    let (own, again) = (set(&Host::default()).expect("right"), read("printed", &text()));
    assert_eq!(format!("{:?}", own.rules), format!("{:?}", again.rules));
}

/// The examples of the rules without a default, read as rules.
#[test]
fn the_examples_of_missing_compile() {
    let (_, text) = FILES.iter().find(|(name, _)| *name == "missing.toml").expect("the file");
    let rules: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.strip_prefix('#')).map(str::trim_start).collect();
    let rules = rules.join("\n");
    assert_eq!(read("missing", &rules).rules.len(), 3);
}

/// Whether an exception asks for something that the process did not choose. A name, an argument or a port alone does not; a path does
/// where the file is the host's own, or a container's.
fn is_anchored(filter: &Filter) -> bool {
    let has = |key: Key, negated: bool| filter.keys().any(|of| of == (key, negated));
    let is = |key: Key| has(key, false);
    let of_container = is(Key::Container);
    (is(Key::Exe) && is(Key::ExeFlag))
        || (is(Key::Parent) && is(Key::ParentHost))
        || (is(Key::Ancestor) && is(Key::MntNsHost))
        // Users name units of their own manager.
        || (is(Key::Unit) && has(Key::UserUnit, true))
        || (is(Key::LoginUid) && has(Key::Unit, true) && has(Key::Container, true))
        || is(Key::Uid)
        || is(Key::User)
        || of_container
        || is(Key::KernelSocket)
        || (is(Key::ExeFlag) && !is(Key::Exe))
}

/// Issue 13, 1.3: nobody switches a default rule off by a name.
#[test]
fn no_exception_goes_by_what_a_process_chooses() {
    for (text, anchored) in [
        ("proc:docker", false),
        ("comm:nginx dport:80", false),
        ("dport:389", false),
        ("arg:/usr/bin/x", false),
        ("script:/usr/bin/x", false),
        ("exe:/usr/sbin/sshd", false),
        ("parent:/usr/sbin/inetd", false),
        ("unit:cron.service", false),
        ("login_uid:>=0", false),
        ("exe:/usr/sbin/sshd exe_flag:host", true),
        ("unit:cron.service -user_unit:*", true),
    ] {
        assert_eq!(is_anchored(&Filter::new(text).expect("a filter")), anchored, "{text}");
    }
    // What a rule leaves out another one has, whatever it is called.
    let left = [
        ("process.reverse-shell", Key::Script),
        ("process.spawn-piped-code", Key::Script),
        ("path.pivot-forward", Key::Dport),
    ];
    let left_to_others = |rule: &str, key: Key| left.contains(&(rule, key));
    for rule in &set(&Host::default()).expect("right").rules {
        let id = &*rule.about.id;
        for except in &*rule.except {
            // No metadata service listens there.
            let is_resolver = id == "path.metadata" && except.to_string() == "dport:53";
            // In a mount namespace of one's own any path may lead to another file, also that of a sandbox.
            let is_sandbox = id == "process.laid-over" && except.to_string() == "ancestor:@sandboxes";
            assert!(is_anchored(except) || is_resolver || is_sandbox, "{id}: {except}");
        }
        let detector = crate::rules::detectors::detector(&rule.detect);
        let secondary = detector.secondary().map(|of| of.filter);
        for (key, negated) in [Some(&rule.matches), secondary].into_iter().flatten().flat_map(Filter::keys) {
            let is_chosen = matches!(
                key,
                Key::Proc
                    | Key::Comm
                    | Key::Arg
                    | Key::InlineCode
                    | Key::Script
                    | Key::Parent
                    | Key::Ancestor
                    | Key::Port
                    | Key::Lport
                    | Key::Rport
                    | Key::Sport
                    | Key::Dport
            );
            assert!(!(negated && is_chosen) || left_to_others(id, key), "{id}: -{}", key.name());
        }
    }
}

/// An engine with all default rules.
fn rig() -> Rig {
    let set = set(&Host::default()).expect("right");
    let mut rig = Rig::before(set.rules.iter().map(|rule| Rule::clone(rule)).collect());
    rig.begin();
    rig
}

/// Ids of the rules that raised something.
fn raised(rig: &mut Rig) -> Vec<String> {
    let mut ids: Vec<String> = rig.reported().iter().map(|alert| alert.rule.id.to_string()).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn with_args(pid: u32, exe: &str, args: &[&str]) -> Arc<ProcessInfo> {
    let mut process = process(pid, exe);
    Arc::make_mut(&mut process).args = args.iter().map(|arg| arg.as_bytes().into()).collect();
    process
}

#[test]
fn what_intruders_do_is_reported() {
    type Act = fn(&mut Rig);
    let acts: [(&str, &[&str], Act); 10] = [
        ("bash with /dev/tcp", &["process.shell"], |rig| {
            rig.open(&process(7, "/usr/bin/bash"), "203.0.113.9:4443");
        }),
        ("a shell on a socket", &["process.reverse-shell"], |rig| {
            let python = process(7, "/usr/bin/python3.11");
            let shell = child(&python, 8, "/usr/bin/dash");
            let conn = rig.connection(Direction::Out, Some(&python), None, "203.0.113.9:4443", Source::Live);
            // No event reports the connection.
            rig.is_not_recorded();
            rig.body(EventBody::Exec(ProcEvent { stdio: Some(Box::new(conn)), ..ProcEvent::new(shell) }));
        }),
        ("netcat under another name", &["process.drop-place", "process.kernel-name"], |rig| {
            rig.open(&process(7, "/tmp/kworker"), "203.0.113.9:4443");
        }),
        ("ncat -e under another name", &["process.kernel-name", "process.shell-argument"], |rig| {
            rig.open(&with_args(7, "/opt/kworker", &["kworker", "-e", "/bin/sh"]), "203.0.113.9:4443");
        }),
        ("python at 443", &["server.interpreter"], |rig| {
            rig.listen(&process(7, "/usr/bin/python3.11"), "0.0.0.0:443");
        }),
        ("something at 443", &["server.well-known"], |rig| {
            rig.listen(&process(7, "/opt/x/y"), "[::]:443");
        }),
        ("no file", &["process.memfd"], |rig| {
            let mut memfd = process(7, "/memfd:x");
            Arc::make_mut(&mut memfd).exe_deleted = true;
            rig.open(&memfd, "203.0.113.9:443");
        }),
        ("cat connects", &["process.coreutils"], |rig| {
            rig.open(&process(7, "/usr/bin/cat"), "10.0.0.7:80");
        }),
        ("credentials of the cloud", &["path.metadata"], |rig| {
            rig.open(&process(7, "/usr/bin/curl"), "169.254.169.254:80");
        }),
        ("from outside to an internal host", &["path.pivot-admin"], |rig| {
            let server = process(7, "/usr/sbin/sshd");
            rig.accept(&server, "192.0.2.1:22", "203.0.113.9:4443");
            let ssh = child(&child(&server, 100_001, "/usr/bin/bash"), 100_002, "/usr/bin/ssh");
            rig.open(&ssh, "10.0.0.8:22");
        }),
    ];
    for (name, expected, act) in acts {
        let mut rig = rig();
        act(&mut rig);
        assert_eq!(raised(&mut rig), *expected, "{name}");
    }
}

/// Whose listener is gone, or which goes to a high port: nothing says which side opened it.
#[test]
fn a_shell_that_is_driven_over_a_connection_of_an_unknown_direction() {
    for (exe, is_reported) in [("/usr/bin/perl", true), ("/usr/lib/openssh/sshd-session", false)] {
        let set = set(&Host::default()).expect("right");
        let mut rig = Rig::before(set.rules.iter().map(|rule| Rule::clone(rule)).collect());
        let server = process(7, exe);
        let shell = child(&server, 8, "/usr/bin/dash");
        rig.existing(Direction::Unknown, &server, None, "203.0.113.9:40000");
        let stdio_peers = [(server.pid, server.start)].into();
        rig.body(EventBody::Exec(ProcEvent { stdio_peers, ..ProcEvent::new(shell) }));
        rig.begin();
        assert_eq!(raised(&mut rig).contains(&"process.spawn".to_owned()), is_reported, "{exe}");
    }
}

/// Issue 13: one incident, one alert, as long as it is about one connection.
#[test]
fn a_reverse_shell_is_one_alert() {
    let mut rig = rig();
    let python = process(7, "/usr/bin/python3.11");
    let conn = rig.connection(Direction::Out, Some(&python), None, "203.0.113.9:4443", Source::Live);
    let id = rig.opens(conn.clone(), Change::Connect);
    rig.established(id);
    let shell = child(&python, 100_001, "/usr/bin/dash");
    rig.body(EventBody::Exec(ProcEvent {
        stdio: Some(Box::new(conn)),
        ..ProcEvent::new(Arc::clone(&shell))
    }));
    rig.exec(&child(&shell, 100_002, "/usr/bin/id"));
    let alerts = rig.reported();
    let ids: Vec<&str> = alerts.iter().map(|alert| &*alert.rule.id).collect();
    assert_eq!(ids, ["process.reverse-shell"]);
    // Its commands without a descriptor of the connection, to another peer: that is another finding.
    rig.open(&python, "203.0.113.10:4443");
    rig.close(id, crate::flow::model::EndedHow::PeerFin, None);
    let repeats = rig.reported().iter().map(|alert| alert.repeats).max();
    assert_eq!(repeats, Some(2), "the shell and the command of the same connection are counted");
    rig.exec(&child(&python, 100_003, "/usr/bin/dash"));
    let alerts = rig.reported();
    let ids: Vec<&str> = alerts.iter().map(|alert| &*alert.rule.id).collect();
    assert_eq!(ids, ["process.spawn"]);
}

#[test]
fn what_servers_do_is_not() {
    let mut rig = rig();
    let started = 100_001;
    for (exe, local) in [
        ("/usr/sbin/sshd", "0.0.0.0:22"),
        ("/usr/sbin/nginx", "[::]:443"),
        ("/usr/lib/postgresql/15/bin/postgres", "0.0.0.0:5432"),
        ("/usr/bin/python3.11", "127.0.0.1:631"),
    ] {
        rig.listen(&process(started, exe), local);
    }
    for (exe, remote) in [
        ("/usr/lib/apt/methods/http", "151.101.2.132:80"),
        ("/usr/bin/cargo", "151.101.2.137:443"),
        ("/usr/bin/git-remote-https", "140.82.121.4:443"),
        ("/usr/bin/curl", "203.0.113.1:443"),
        ("/usr/bin/python3.11", "203.0.113.1:443"),
        ("/usr/bin/pgbench", "127.0.0.1:5432"),
        ("/usr/bin/ssh", "127.0.0.1:22"),
        ("/tmp/go-build12/b001/x.test", "127.0.0.1:4000"),
    ] {
        rig.open_and_close(&process(started, exe), remote, None);
    }
    rig.open(&with_args(started, "/usr/bin/ssh", &["ssh", "-t", "bastion", "/bin/bash"]), "203.0.113.1:2222");
    rig.open(&with_args(started, "/opt/dnf", &["dnf", "install", "bash"]), "203.0.113.1:443");
    let nginx = process(started, "/usr/sbin/nginx");
    for peer in 1..250 {
        rig.accept(&nginx, "192.0.2.1:443", &format!("203.0.113.{peer}:50000"));
    }
    rig.open(&nginx, "10.0.0.20:8080");
    // sshd hands the connection to itself as standard input; the user's shell has a terminal.
    let sshd = process(started, "/usr/sbin/sshd");
    let conn =
        rig.connection(Direction::In, Some(&sshd), Some("192.0.2.1:22"), "203.0.113.9:4443", Source::Live);
    let session = child(&sshd, started + 1, "/usr/lib/openssh/sshd-session");
    rig.body(EventBody::Exec(ProcEvent { stdio: Some(Box::new(conn)), ..ProcEvent::new(session) }));
    rig.exec(&process(started + 2, "/usr/bin/bash"));
    assert_eq!(raised(&mut rig), Vec::<String>::new());
}

#[test]
fn what_stays_open_is_reported_in_time() {
    let mut rig = rig();
    rig.open(&process(100_001, "/usr/bin/curl"), "203.0.113.9:443");
    rig.pass(seconds(3_599));
    assert_eq!(raised(&mut rig), Vec::<String>::new());
    rig.pass(seconds(2));
    assert_eq!(raised(&mut rig), ["long.external"]);
}
