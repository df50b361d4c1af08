//! Connections count if they received data shortly before the execution.

use std::sync::mpsc::Receiver;

use super::*;
use crate::event::alert::{Alert, Phase};
use crate::flow::model::EndedHow;
use crate::flow::sample::{Counters, Question};
use crate::rules::model::{Detect, ProcessRule};
use crate::rules::testing::{Rig, SECOND, child, evidence, process, rule, seconds};

const RECEIVED: DurationNs = seconds(10);

fn rig() -> (Rig, Receiver<Question>) {
    rig_of(None)
}

fn rig_of(answered: Option<DurationNs>) -> (Rig, Receiver<Question>) {
    let holds = Filter::new("dir:out").expect("a filter");
    let spawn = ProcessRule::Spawn { holds, beside: false, received: Some(RECEIVED), answered };
    let (mut rig, questions) = Rig::before(vec![rule(Detect::Process(spawn), "proc:sh")]).sampling();
    rig.begin();
    (rig, questions)
}

fn asked(questions: &Receiver<Question>) -> Vec<ConnId> {
    questions.try_iter().map(|question| question.id).collect()
}

/// A sample asked for now, of a connection that received data so long ago.
fn received(rig: &mut Rig, id: ConnId, ago: u64) {
    let received = BootNs(rig.now.0 - ago);
    rig.sampled(id, Some(counters(rig, received, received, 2)));
}

fn counters(rig: &Rig, received: BootNs, sent: BootNs, bytes_out: u64) -> Counters {
    Counters { asked: rig.now, bytes_in: 1, bytes_out, received, sent }
}

fn about(alert: &Alert) -> ConnId {
    let Subject::Connection(conn) = &alert.subject else { panic!("{alert:?}") };
    conn.id
}

#[test]
fn one_that_received_data_shortly_before() {
    let (python, at_most) = (process(10, "/usr/bin/python3"), RECEIVED.0);
    for (ago, expected) in [(0, 1), (SECOND, 1), (at_most, 1), (at_most + 1, 0), (900 * SECOND, 0)] {
        let (mut rig, questions) = rig();
        let id = rig.open(&python, "203.0.113.9:443");
        rig.exec(&child(&python, 11, "/bin/ls"));
        assert_eq!(asked(&questions), [], "nothing that the rule matches");
        rig.exec(&child(&python, 12, "/bin/sh"));
        assert_eq!((asked(&questions), rig.waiting()), (vec![id], 1));
        assert!(rig.reported().is_empty(), "the sample decides");
        received(&mut rig, id, ago);
        let reported = rig.reported();
        assert_eq!((reported.len(), rig.timers(), rig.waiting()), (expected, 0, 0), "{ago}");
        for alert in reported {
            assert_eq!(about(&alert), id);
            assert_eq!(evidence(&alert, "received_before"), Some(&Value::Duration(DurationNs(ago))));
        }
        rig.pass(seconds(60));
        assert!(rig.reported().is_empty());
    }
}

/// The one of several that received data is found, whichever it is; idle ones of a parent do not hide it, and nor do many.
#[test]
fn any_of_several() {
    let (parent, count) = (process(10, "/opt/parent"), 12);
    let python = child(&parent, 11, "/usr/bin/python3");
    for active in [0, 5, count] {
        let (mut rig, questions) = rig();
        let above = rig.open(&parent, "203.0.113.1:443");
        let mut ids: Vec<_> = (0..count).map(|_| rig.open(&python, "203.0.113.9:443")).collect();
        ids.push(above);
        rig.exec(&child(&python, 12, "/bin/sh"));
        assert_eq!(asked(&questions), ids);
        for (at, id) in ids.iter().enumerate() {
            received(&mut rig, *id, if at == active { 0 } else { 60 * SECOND });
        }
        assert_eq!(about(&rig.only()), ids[active]);
        assert_eq!((rig.timers(), rig.waiting()), (0, 0));
    }
}

#[test]
fn without_a_sample_it_counts() {
    let python = process(10, "/usr/bin/python3");
    let shell = || child(&python, 11, "/bin/sh");
    // The kernel does not know it any more.
    let (mut rig, _questions) = rig();
    let id = rig.open(&python, "203.0.113.9:443");
    rig.exec(&shell());
    rig.sampled(id, None);
    let alert = rig.only();
    assert_eq!((about(&alert), evidence(&alert, "received_before")), (id, None));

    // It ends.
    let (mut rig, _questions) = self::rig();
    let id = rig.open(&python, "203.0.113.9:443");
    rig.exec(&shell());
    rig.close(id, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(1, Phase::Raised), (1, Phase::Resolved)]);
    assert_eq!(rig.timers(), 0);

    // Nothing comes.
    let (mut rig, _questions) = self::rig();
    let id = rig.open(&python, "203.0.113.9:443");
    rig.exec(&shell());
    rig.pass(seconds(9));
    assert!(rig.reported().is_empty());
    rig.pass(seconds(1));
    assert_eq!(about(&rig.only()), id);

    // Nobody can be asked.
    let (mut rig, questions) = self::rig();
    drop(questions);
    rig.is_not_recorded();
    rig.open(&python, "203.0.113.9:443");
    rig.exec(&shell());
    rig.only();
}

/// A sample that was asked for an earlier execution says nothing of the data that came since.
#[test]
fn a_sample_is_of_its_execution() {
    let python = process(10, "/usr/bin/python3");
    let (mut rig, questions) = rig();
    let id = rig.open(&python, "203.0.113.9:443");
    rig.pass(seconds(60));
    rig.exec(&child(&python, 11, "/bin/sh"));
    let earlier = Counters {
        asked: rig.now,
        bytes_in: 0,
        bytes_out: 0,
        received: BootNs(rig.now.0 - 60 * SECOND),
        sent: BootNs(0),
    };
    rig.pass(seconds(1));
    rig.exec(&child(&python, 12, "/bin/sh"));
    assert_eq!(asked(&questions), [id, id]);
    rig.sampled(id, Some(earlier));
    assert_eq!((asked(&questions), rig.waiting()), (vec![id], 1), "asked again for the second");
    received(&mut rig, id, 0);
    assert_eq!(evidence(&rig.only(), "received_before"), Some(&Value::Duration(DurationNs(0))));
    assert_eq!((rig.timers(), rig.waiting()), (0, 0));
}

/// A connection over which the output of the command goes back is that of a remote shell; one that only brought something is not.
#[test]
fn an_answer_makes_the_severity() {
    use crate::event::alert::Severity;
    let python = process(10, "/usr/bin/python3");
    let shell = || child(&python, 11, "/bin/sh");
    let begin = || {
        let (mut rig, questions) = rig_of(Some(seconds(10)));
        let id = rig.open(&python, "203.0.113.9:443");
        rig.pass(seconds(60));
        rig.exec(&shell());
        assert_eq!(asked(&questions), [id]);
        (rig, questions, id)
    };
    let reported = |rig: &mut Rig| {
        let alert = rig.only();
        (alert.severity, evidence(&alert, "unanswered_for").cloned())
    };
    // Data were sent after the last that came: the output is on its way already.
    let (mut rig, _questions, id) = begin();
    let (came, went) = (BootNs(rig.now.0 - 1_000_000), rig.now);
    rig.sampled(id, Some(counters(&rig, came, went, 5)));
    assert_eq!(reported(&mut rig), (Severity::Medium, None));

    // It is sent later, and more came meanwhile.
    let request = |rig: &Rig| counters(rig, BootNs(rig.now.0 - SECOND), BootNs(rig.now.0 - 2 * SECOND), 5);
    let (mut rig, questions, id) = begin();
    let first = request(&rig);
    rig.sampled(id, Some(first));
    rig.pass(seconds(1));
    assert_eq!(asked(&questions), [id, id]);
    rig.sampled(id, Some(Counters { asked: rig.now, ..first }));
    assert!(rig.reported().is_empty());
    rig.pass(seconds(2));
    assert_eq!(asked(&questions), [id]);
    rig.sampled(id, Some(Counters { bytes_out: 6, received: rig.now, ..first }));
    assert_eq!(reported(&mut rig), (Severity::Medium, None));
    assert_eq!((rig.timers(), rig.waiting()), (0, 0));

    // Never.
    let (mut rig, questions, id) = begin();
    let first = request(&rig);
    rig.sampled(id, Some(first));
    for _ in 0..10 {
        rig.pass(seconds(1));
        for _ in asked(&questions) {
            rig.sampled(id, Some(Counters { asked: rig.now, ..first }));
        }
        assert!(rig.reported().is_empty());
    }
    rig.pass(seconds(1));
    assert_eq!(reported(&mut rig), (Severity::Low, Some(Value::Duration(seconds(11)))));
    assert_eq!((rig.timers(), rig.waiting()), (0, 0));

    // It ends, without a further byte or with some.
    for (bytes_out, severity) in [(5, Severity::Low), (6, Severity::Medium)] {
        let (mut rig, _questions, id) = begin();
        let first = request(&rig);
        rig.sampled(id, Some(first));
        let traffic = Some(crate::flow::model::Traffic { bytes_out, ..Default::default() });
        rig.close(id, EndedHow::LocalFin, traffic);
        let reported = rig.reported();
        assert_eq!((reported[0].severity, reported[1].phase), (severity, Phase::Resolved));
        assert_eq!(rig.timers(), 0);
    }

    // It ends before it was sampled: at once, or late.
    for (after, severity) in [(seconds(0), Severity::Low), (seconds(1), Severity::Medium)] {
        let (mut rig, _questions, id) = begin();
        rig.pass(after);
        rig.close(id, EndedHow::LocalFin, None);
        assert_eq!(rig.reported()[0].severity, severity);
        assert_eq!(rig.timers(), 0);
    }

    // The kernel does not know it any more, and its end is read after that; or it cannot be found.
    for (ends, severity) in [(true, Severity::Low), (false, Severity::Medium)] {
        let (mut rig, _questions, id) = begin();
        rig.sampled(id, None);
        assert!(rig.reported().is_empty());
        if ends {
            rig.close(id, EndedHow::LocalFin, None);
        }
        rig.pass(seconds(1));
        assert_eq!(rig.reported()[0].severity, severity);
        assert_eq!((rig.timers(), rig.waiting()), (0, 0));
    }

    // No answer to the second question: nothing says that it is none.
    let (mut rig, _questions, id) = begin();
    let first = request(&rig);
    rig.sampled(id, Some(first));
    rig.pass(seconds(60));
    assert_eq!(reported(&mut rig).0, Severity::Low);
}
