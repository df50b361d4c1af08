//! What people read of a rule that nearly reported, of each detector: the first word that does not hold, the exception that does,
//! what was reported, and what it remembers.

use std::sync::Arc;

use crate::event::model::{EventBody, ProcEvent};
use crate::filter::Filter;
use crate::flow::model::{Change, Direction, EndedHow, Source};
use crate::process::info::ProcessInfo;
use crate::rules::baseline::tests::{baseline, rules as baseline_rules, service};
use crate::rules::model::{
    Detect, Expect, FanOutOf, LongRule, MissingRule, PathKey, PathRule, ProcessRule, Rule, ServerRule,
};
use crate::rules::testing::{BEGAN, Rig, process, rule, seconds};
use crate::units::BootNs;

/// What is said of each event that the rule looks at, before it is judged.
fn said(rule: Rule, happens: impl FnOnce(&mut Rig)) -> Vec<String> {
    let mut rig = Rig::new(rule);
    happens(&mut rig);
    rig.why_nots()
}

fn path(rule_: PathRule, matches: &str) -> Rule {
    rule(Detect::Path(rule_), matches)
}

fn curl() -> Arc<ProcessInfo> {
    process(10, "/usr/bin/curl")
}

#[test]
fn words_exceptions_and_what_was_reported() {
    let except = ["proc:nc", "user:nobody"].map(|text| Filter::new(text).expect("a filter")).into();
    let forbidden = Rule { except, ..path(PathRule::Forbidden, "dir:out dst:external -dport:53") };
    let said = said(forbidden, |rig| {
        rig.connect(&curl(), "10.0.0.9:53");
        rig.connect(&curl(), "203.0.113.9:53");
        rig.connect(&process(11, "/usr/bin/nc"), "203.0.113.9:80");
        rig.connect(&curl(), "203.0.113.9:80");
        rig.connect(&curl(), "203.0.113.9:80");
        rig.connect_as(None, "203.0.113.9:80");
    });
    assert_eq!(
        said,
        [
            "fails 2 of 3 words: dst:external  dst is 10.0.0.9",
            "fails 1 of 3 words: -dport:53  dport is 53",
            "exception 1 holds",
            "every match raises an alert",
            "the same was reported already",
            "every match raises an alert",
        ]
    );
}

#[test]
fn first_seen() {
    let learn = seconds(90);
    let by = [PathKey::Exe, PathKey::Port].into();
    let said = said(path(PathRule::FirstSeen { by, learn }, ""), |rig| {
        rig.connect(&curl(), "10.0.0.9:80");
        rig.pass(seconds(90));
        rig.connect(&curl(), "10.0.0.8:80");
        rig.connect(&curl(), "10.0.0.8:81");
    });
    let expected = [
        "the path is new, and is learnt: everything is for 1m30s still",
        "the path is known",
        "the path is new",
    ];
    assert_eq!(said, expected);
}

#[test]
fn fan_out() {
    let rule = path(PathRule::FanOut { of: FanOutOf::Peers, limit: 2, window: seconds(60) }, "");
    let said = said(rule, |rig| {
        for peer in [1, 2, 2, 3, 4] {
            rig.connect(&curl(), &format!("10.0.0.{peer}:445"));
        }
        rig.connect_as(None, "10.0.0.5:445");
    });
    assert_eq!(
        said,
        [
            "with this one 1 peers, of 2 allowed",
            "with this one 2 peers, of 2 allowed",
            "not a new one: with it 2 peers, of 2 allowed",
            "with this one 3 peers, 2 are allowed",
            "reported already, of these peers",
            "whose connection it is is not known",
        ]
    );
}

#[test]
fn beacon() {
    let said =
        said(path(PathRule::Beacon { score: 0.9, at_least: 5, apart: seconds(0) }, "dir:out"), |rig| {
            for _ in 0..5 {
                rig.open_and_close(&curl(), "10.0.0.9:80", None);
                rig.pass(seconds(60));
            }
        });
    assert_eq!(said[0], "with this one 1 of 5 connections");
    assert_eq!(said[3], "with this one 4 of 5 connections; so far they score 1.000");
    assert_eq!(said[4], "they score 1.000, at least 0.900");
}

#[test]
fn pivot() {
    let to = Filter::new("dst:internal").expect("a filter");
    let except = [Filter::new("dport:53").expect("a filter")].into();
    let rule = Rule {
        except,
        ..path(PathRule::Pivot { to, within: seconds(60), own: true }, "dir:in src:external")
    };
    let said = said(rule, |rig| {
        let sshd = process(12, "/usr/sbin/sshd");
        rig.connect(&sshd, "10.0.0.9:22");
        rig.accept(&sshd, "10.0.0.1:22", "10.0.0.7:5000");
        rig.accept(&sshd, "10.0.0.1:53", "203.0.113.1:5000");
        rig.connect(&sshd, "198.51.100.4:443");
        rig.connect(&sshd, "10.0.0.9:53");
        rig.connect(&sshd, "10.0.0.9:22");
    });
    assert_eq!(
        said,
        [
            "no connection in that matches leads to this process or one above it",
            "fails 1 of 2 words: src:external  src is 10.0.0.7",
            "it is a way in, and is remembered as one",
            "fails 1 of 1 words: dst:internal  dst is 198.51.100.4",
            "exception 1 holds",
            "somebody came in to this process and goes on",
        ]
    );
}

#[test]
fn baselines() {
    let mut rig = Rig::with_baseline(baseline_rules(), baseline());
    rig.begin();
    rig.connect(&curl(), "10.1.0.7:443");
    assert_eq!(
        rig.why_nots(),
        [
            "path: the baseline has an entry of this connection",
            "process: the baseline has an entry of this program"
        ]
    );
    rig.listen(&service(13, "/bin/sh", "nginx.service"), "0.0.0.0:81");
    assert_eq!(
        rig.why_nots(),
        [
            "server: the baseline has no entry of this listener, nor of its program: that is for the rule process to report",
            "process: the baseline has no entry of this program"
        ]
    );
    rig.connect(&process(14, "/tmp/new"), "10.1.0.7:443");
    let said = rig.why_nots();
    assert!(
        said[0].starts_with("path: the baseline has no entry of this connection, nor of its"),
        "{said:?}"
    );
    rig.connect_as(None, "10.1.0.7:443");
    let nobody = "whose it is is not known: neither a service nor an executable";
    assert_eq!(rig.why_nots(), [format!("path: {nobody}"), format!("process: {nobody}")]);
}

#[test]
fn processes() {
    let mut said = said(rule(Detect::Process(ProcessRule::Network), "exe:/usr/bin/*"), |rig| {
        rig.connect(&process(11, "/tmp/x"), "10.0.0.9:80");
        rig.connect(&curl(), "10.0.0.9:80");
        rig.connect(&curl(), "10.0.0.8:81");
        rig.listen(&curl(), "10.0.0.1:80");
    });
    assert_eq!(
        said,
        [
            "fails 1 of 1 words: exe:/usr/bin/*  exe is /tmp/x",
            "every match raises an alert",
            "the same was reported already",
            "every match raises an alert",
        ]
    );
    let exec = |rig: &mut Rig| {
        rig.exec(&process(11, "/bin/sh"));
    };
    said = self::said(rule(Detect::Process(ProcessRule::Stdio), ""), exec);
    assert_eq!(said, ["the standard input or output is no TCP connection"]);
    said = self::said(rule(Detect::Process(ProcessRule::ParentStdio), ""), |rig| {
        let conn = rig.connection(Direction::Out, Some(&curl()), None, "10.0.0.9:80", Source::Live);
        rig.opens(conn.clone(), Change::Connect);
        exec(rig);
        let shell =
            ProcEvent { parent_stdio: Some(Box::new(conn)), ..ProcEvent::new(process(11, "/bin/sh")) };
        rig.body(EventBody::Exec(shell));
    });
    let parent = "the standard input or output of its parent";
    assert_eq!(said, [format!("{parent} is no TCP connection"), format!("{parent} is a TCP connection")]);
}

#[test]
fn replaced() {
    use crate::event::names::Named as _;
    use crate::process::identity::Replaced;
    let replaced = || rule(Detect::Process(ProcessRule::Replaced), "");
    let mut rig = Rig::new(replaced());
    rig.connect(&curl(), "10.0.0.9:80");
    assert_eq!(rig.why_nots(), ["executables are not compared"]);
    let mut rig = Rig::before(vec![replaced()]).with_facts();
    rig.begin();
    rig.is_not_recorded();
    rig.connect(&curl(), "10.0.0.9:80");
    assert_eq!(rig.why_nots(), ["the executable was not compared yet; the answer is waited for"]);
    for (answer, says) in [
        (Replaced::No, "the executable is compared again; the answer is waited for"),
        (Replaced::Other, "its path leads to another file"),
        (Replaced::Gone, "its path leads to no file"),
    ] {
        let process = process(20 + answer as u32, &format!("/usr/bin/{}", answer.name()));
        process.identity.set_replaced(answer);
        rig.connect(&process, "10.0.0.9:80");
        assert_eq!(rig.why_nots(), [says]);
    }
}

#[test]
fn servers() {
    let server = |find| rule(Detect::Server(find), "");
    let (one, other) = (|| process(11, "/usr/bin/one"), || process(12, "/usr/bin/other"));
    let said_of = |find, happens: &dyn Fn(&mut Rig)| said(server(find), happens);
    assert_eq!(
        said_of(ServerRule::Listener, &|rig| {
            rig.listen(&one(), "0.0.0.0:80");
            rig.listen(&one(), "0.0.0.0:80");
        }),
        ["every match raises an alert", "the same was reported already"]
    );
    assert_eq!(
        said_of(ServerRule::Takeover, &|rig| {
            let id = rig.listen(&one(), "0.0.0.0:80");
            rig.unlisten(id);
            let id = rig.listen(&one(), "0.0.0.0:80");
            rig.unlisten(id);
            rig.listen(&other(), "0.0.0.0:80");
        }),
        [
            "nobody listened here before, as far as was seen",
            "the same service listened here before",
            "another service listened here before"
        ]
    );
    assert_eq!(
        said_of(ServerRule::Join, &|rig| {
            rig.listen(&one(), "0.0.0.0:80");
            rig.listen(&one(), "0.0.0.0:80");
            rig.listen(&other(), "0.0.0.0:80");
        }),
        [
            "nobody else listens at this place",
            "those who listen at this place are of the same service and user",
            "others listen at this place"
        ]
    );
    assert_eq!(
        said_of(ServerRule::Widened, &|rig| {
            rig.listen(&other(), "0.0.0.0:80");
            rig.listen(&one(), "127.0.0.1:80");
            rig.listen(&one(), "0.0.0.0:80");
            rig.listen(&one(), "127.0.0.1:81");
            rig.pass(seconds(60));
            rig.listen(&one(), "0.0.0.0:81");
        }),
        [
            "this executable did not listen on loopback only at this port before",
            "it listens on loopback only",
            "it listened on loopback only, but it has just begun",
            "it listens on loopback only",
            "it listened on loopback only before"
        ]
    );
    assert_eq!(
        said_of(ServerRule::Accept, &|rig| {
            rig.accept(&one(), "10.0.0.1:80", "10.0.0.9:5000");
            rig.accept(&one(), "10.0.0.1:80", "10.0.0.9:5001");
        }),
        [
            "the first one that this server accepts at this port",
            "not the first one that this server accepts at this port"
        ]
    );
}

#[test]
fn long() {
    let rule = |sum| {
        let levels = [(seconds(3_600), crate::event::alert::Severity::Low)].into();
        rule(Detect::Long(LongRule { levels, sum }), "")
    };
    let happens = |rig: &mut Rig| {
        let id = rig.open(&curl(), "10.0.0.9:80");
        rig.pass(seconds(600));
        rig.close(id, EndedHow::LocalFin, None);
        rig.open(&curl(), "10.0.0.9:80");
    };
    let each = "reported if it is open for 1h00m more";
    assert_eq!(said(rule(false), happens), [each, each]);
    assert_eq!(
        said(rule(true), happens),
        [
            "the first connection of this program to this peer: reported if they are open for 1h00m more in all",
            "reported if they are open for 50m00s more in all"
        ]
    );
}

#[test]
fn missing() {
    let missing =
        |expect, matches| rule(Detect::Missing(MissingRule { expect, grace: seconds(30) }), matches);
    let nginx = process(11, "/usr/sbin/nginx");
    let mut rig = Rig::new(missing(Expect::Listeners(2), "lport:443"));
    rig.pass(seconds(10));
    rig.listen(&nginx, "0.0.0.0:443");
    assert_eq!(rig.why_nots(), ["0 are there, 2 must be: reported in 20.00s"]);
    rig.pass(seconds(20));
    rig.listen(&nginx, "[::]:443");
    assert_eq!(rig.why_nots(), ["1 are there, 2 must be; that is reported"]);
    rig.listen(&nginx, "127.0.0.1:443");
    assert_eq!(rig.why_nots(), ["2 are there, 2 must be"]);

    let mut rig = Rig::new(missing(Expect::Every(seconds(300)), "dport:873"));
    assert_eq!(rig.now, BootNs(BEGAN.0));
    rig.pass(seconds(300));
    rig.open_and_close(&curl(), "10.0.0.9:873", None);
    assert_eq!(rig.why_nots(), ["the next one is overdue in 30.00s"]);
    rig.pass(seconds(330));
    rig.open_and_close(&curl(), "10.0.0.9:873", None);
    assert_eq!(rig.why_nots(), ["overdue, and reported"]);
}
