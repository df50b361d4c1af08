//! Absences on the rig's clock.

use crate::event::alert::{Alert, Covered, Phase, Value};
use crate::flow::model::{Direction, EndedHow};
use crate::process::info::ExitStatus;
use crate::rules::model::{Detect, Expect, MissingRule, Rule};
use crate::rules::testing::{Rig, child, evidence, process, rule, seconds};
use crate::units::DurationNs;

fn missing(expect: Expect, matches: &str) -> Rule {
    let rule = rule(Detect::Missing(MissingRule { expect, grace: seconds(30) }), matches);
    Rule { throttle: seconds(600), ..rule }
}

fn cause(alert: &Alert) -> String {
    match evidence(alert, "cause") {
        Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_that_never_comes() {
    let mut rig = Rig::new(missing(Expect::Listeners(1), "lport:443"));
    rig.listen(&process(10, "/usr/sbin/nginx"), "0.0.0.0:80");
    rig.pass(DurationNs(30_000_000_000 - 1));
    assert!(rig.reported().is_empty());
    rig.pass(DurationNs(1));
    let alert = rig.only();
    assert_eq!((alert.phase, cause(&alert).as_str()), (Phase::Raised, "never seen"));
    rig.pass(seconds(5));
    rig.listen(&process(11, "/usr/sbin/nginx"), "0.0.0.0:443");
    let alert = rig.only();
    assert_eq!(alert.phase, Phase::Resolved);
    assert_eq!(evidence(&alert, "absent_for"), Some(&Value::Duration(seconds(35))));
    assert_eq!(rig.timers(), 0);
}

#[test]
fn a_listener_that_goes_with_its_process_in_either_order() {
    for exit_first in [true, false] {
        let mut rig = Rig::before(vec![missing(Expect::Listeners(1), "lport:443")]);
        let nginx = process(10, "/usr/sbin/nginx");
        let id = rig.listen(&nginx, "0.0.0.0:443");
        rig.begin();
        rig.pass(seconds(1_000));
        if exit_first {
            rig.exit(&nginx, ExitStatus::Signal(9));
        }
        rig.unlisten(id);
        if !exit_first {
            rig.exit(&nginx, ExitStatus::Signal(9));
        }
        assert!(rig.reported().is_empty());
        rig.pass(seconds(30));
        let alert = rig.only();
        assert_eq!((alert.phase, cause(&alert).as_str()), (Phase::Raised, "process killed by signal 9"));
        assert_eq!(alert.covered, Covered::All);
    }
}

/// A daemon listens and goes to the background: its first process exits, and a later one is killed. `closer`:
/// who closed the listener is known.
#[test]
fn a_listener_whose_first_process_exited_long_before() {
    for (closer, expected) in [(true, "process killed by signal 9"), (false, "closed")] {
        let mut rig = Rig::before(vec![missing(Expect::Listeners(1), "lport:443")]);
        let nginx = process(10, "/usr/sbin/nginx");
        let id = rig.listen(&nginx, "0.0.0.0:443");
        rig.begin();
        rig.exit(&nginx, ExitStatus::Code(0));
        rig.pass(seconds(1_000));
        let worker = child(&nginx, 11, "/usr/sbin/nginx");
        rig.unlisten_by(id, closer.then_some(&worker));
        rig.exit(&worker, ExitStatus::Signal(9));
        rig.pass(seconds(30));
        assert_eq!(cause(&rig.only()), expected);
    }
}

#[test]
fn a_restart_within_the_grace_is_none() {
    let mut rig = Rig::before(vec![missing(Expect::Listeners(1), "lport:443")]);
    let mut id = rig.listen(&process(10, "/usr/sbin/nginx"), "0.0.0.0:443");
    rig.begin();
    for pid in 11..20 {
        rig.unlisten(id);
        rig.pass(seconds(29));
        id = rig.listen(&process(pid, "/usr/sbin/nginx"), "0.0.0.0:443");
        rig.pass(seconds(29));
    }
    assert!(rig.reported().is_empty());
    assert_eq!(rig.timers(), 0);
}

#[test]
fn an_outage_soon_after_another_is_reported_if_it_lasts() {
    let mut rig = Rig::before(vec![missing(Expect::Listeners(1), "lport:443")]);
    let nginx = process(10, "/usr/sbin/nginx");
    let id = rig.listen(&nginx, "0.0.0.0:443");
    rig.begin();
    rig.unlisten(id);
    rig.pass(seconds(30));
    let id = rig.listen(&nginx, "0.0.0.0:443");
    assert_eq!(rig.phases(), [(1, Phase::Raised), (1, Phase::Resolved)]);
    rig.unlisten(id);
    rig.pass(seconds(30));
    assert!(rig.reported().is_empty(), "within the throttle");
    rig.pass(seconds(601));
    assert_eq!(rig.phases(), [(2, Phase::Raised)]);
}

#[test]
fn connections_that_must_be_open() {
    let mut rig = Rig::before(vec![missing(Expect::Open(2), "dir:out,unknown dport:5432")]);
    let app = process(10, "/usr/bin/app");
    let one = rig.existing(Direction::Out, &app, None, "10.0.0.5:5432");
    rig.begin();
    rig.pass(seconds(29));
    let two = rig.open(&app, "10.0.0.5:5432");
    rig.pass(seconds(100));
    assert!(rig.reported().is_empty());
    rig.close(two, EndedHow::PeerReset, None);
    rig.pass(seconds(30));
    let alert = rig.only();
    assert_eq!((alert.phase, cause(&alert).as_str()), (Phase::Raised, "peer_reset"));
    assert_eq!(evidence(&alert, "present"), Some(&Value::Number(1)));
    rig.close(one, EndedHow::LocalFin, None);
    rig.open(&app, "10.0.0.5:5432");
    assert!(rig.reported().is_empty(), "one is not enough");
    rig.open(&app, "10.0.0.5:5432");
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
}

#[test]
fn a_connection_every_now_and_then() {
    let mut rig = Rig::new(missing(Expect::Every(seconds(300)), "dport:873"));
    let rsync = process(10, "/usr/bin/rsync");
    for _ in 0..5 {
        rig.pass(seconds(329));
        rig.open_and_close(&rsync, "10.0.0.5:873", None);
    }
    assert!(rig.reported().is_empty());
    rig.pass(seconds(330));
    let alert = rig.only();
    assert_eq!(evidence(&alert, "absent_for"), Some(&Value::Duration(seconds(330))));
    rig.pass(seconds(1_000));
    assert!(rig.reported().is_empty(), "reported once");
    let id = rig.connect(&rsync, "10.0.0.5:873");
    rig.fail(id, 111);
    assert!(rig.reported().is_empty(), "an attempt is no connection");
    rig.open_and_close(&rsync, "10.0.0.5:873", None);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
}
