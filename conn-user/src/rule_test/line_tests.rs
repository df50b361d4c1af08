//! Lines of tests: what they mean, what is wrong with them, and that none makes the reader panic.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use super::model::*;
use super::script::{Script, VERBS};
use crate::event::alert::{Phase, Severity};
use crate::filter::FilterError;
use crate::flow::model::{EndedHow, Scope, Traffic};
use crate::host::interfaces::Device;
use crate::process::info::ExitStatus;
use crate::units::DurationNs;

fn script() -> Script {
    Script::new([("bash".to_owned(), TestProcess::default())].into())
}

fn acts(lines: &[&str]) -> Vec<Act> {
    let mut script = script();
    lines.iter().map(|line| script.line(line).unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn error(lines: &[&str]) -> FilterError {
    let mut script = script();
    let mut last = None;
    for line in lines {
        last = Some(script.line(line));
    }
    let last = last.expect("a line");
    last.expect_err("it is wrong")
}

fn end(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn lines_mean_what_they_say() {
    let bash = || Some("bash".to_owned());
    let connect = |flow, established| Act::Connect {
        flow,
        who: bash(),
        local: None,
        remote: end("203.0.113.9:443"),
        device: None,
        established,
    };
    assert_eq!(
        acts(&[
            "open bash -> 203.0.113.9:443",
            "c2:  connect bash -> 203.0.113.9:443 ",
            "+1h30m",
            "established c2",
            "close in 5K out 300",
            "close peer_reset",
        ]),
        [
            connect(0, true),
            connect(1, false),
            Act::Pass(DurationNs(5_400_000_000_000)),
            Act::Established(1),
            Act::Close {
                flow: 1,
                how: EndedHow::LocalFin,
                traffic: Traffic { bytes_in: 5_120, bytes_out: 300, ..Traffic::default() },
            },
            Act::Close { flow: 0, how: EndedHow::PeerReset, traffic: Traffic::default() },
        ]
    );
    assert_eq!(
        acts(&[
            "connect ? 10.0.0.1:5 -> [2001:db8::1]:443 on eth0",
            "failed ECONNREFUSED",
            "gap 7",
            "exit bash signal 9"
        ]),
        [
            Act::Connect {
                flow: 0,
                who: None,
                local: Some(end("10.0.0.1:5")),
                remote: end("[2001:db8::1]:443"),
                device: Some(Arc::new(Device::new("eth0"))),
                established: false,
            },
            Act::Failed(0, 111),
            Act::Gap(7),
            Act::Exit("bash".to_owned(), ExitStatus::Signal(9)),
        ]
    );
    assert_eq!(
        acts(&[
            "l: listen /usr/sbin/x *:80",
            "c: accept bash 10.0.0.1:80 <- 10.0.0.2:5 on eth1",
            "exec bash stdio c",
            "unlisten",
            "listen /usr/sbin/x [::]:80 on eth0 v6only",
        ]),
        [
            Act::Listen {
                flow: 0,
                who: Some("/usr/sbin/x".to_owned()),
                local: end("0.0.0.0:80"),
                scope: Scope::default()
            },
            Act::Accept {
                flow: 1,
                who: bash(),
                local: end("10.0.0.1:80"),
                remote: end("10.0.0.2:5"),
                device: Some(Arc::new(Device::new("eth1"))),
            },
            Act::Exec { who: "bash".to_owned(), stdio: Some(1), parent_stdio: None, peer: None },
            Act::Unlisten(0),
            Act::Listen {
                flow: 2,
                who: Some("/usr/sbin/x".to_owned()),
                local: end("[::]:80"),
                scope: Scope { device: Some(Arc::new(Device::new("eth0"))), v6only: true },
            },
        ]
    );
}

#[test]
fn what_is_wrong_is_marked() {
    let open = "c: open bash -> 203.0.113.9:443";
    for (lines, place, message, help) in [
        (&["opne bash -> 1.2.3.4:5"][..], "opne", "`opne` is no event", "did you mean `open`?"),
        (&["open basj -> 1.2.3.4:5"], "basj", "`basj` is no process of this test", "did you mean `bash`?"),
        (&["open zz -> 1.2.3.4:5"], "zz", "`zz` is no process", "process.NAME"),
        (&["open bash -> 1.2.3.4"], "1.2.3.4", "`1.2.3.4` is no address with a port", "203.0.113.9:443"),
        (&["open bash 1.2.3.4:5"], "", "`->` is missing here", "[LABEL:] open"),
        (&["open bash -> 1.2.3.4:5 now"], "now", "`now` is not expected here", "open WHO"),
        (&["+1"], "+1", "`+1` is no time", "+30s"),
        (&["close"], "", "nothing is open at this place", "close [LABEL]"),
        (&[open, "close d"], "d", "`d` is no label and no end", "local_fin"),
        (&[open, "close", "close c"], "c", "`c` is not open at this place", "close"),
        (&["in: open bash -> 1.2.3.4:5"], "in:", "`in:` is no label", "means nothing else"),
        (&["ECONNREFUSED: open bash -> 1.2.3.4:5"], "ECONNREFUSED:", "is no label", "means nothing else"),
        (&["timeout: open bash -> 1.2.3.4:5"], "timeout:", "`timeout:` is no label", "means nothing else"),
        (&[open, "c: open bash -> 1.2.3.4:5"], "c:", "`c:` is used twice", "another label"),
        (&[open, "x: close c"], "x:", "`x:` names nothing", "labels name what begins"),
        (&[open, "failed c ECONN"], "c", "`c` is not being opened", "failed"),
        (
            &["connect bash -> 1.2.3.4:5", "failed ECONN"],
            "ECONN",
            "`ECONN` is no error of Linux",
            "ECONNREFUSED",
        ),
        (&["exit bash code 256"], "256", "`256` is no such number", "exit WHO"),
        (&[""], "", "an event is missing here", "open bash"),
    ] {
        let found = error(lines);
        assert_eq!(found.place(), place, "{lines:?}: {found}");
        assert!(found.message.contains(message), "{lines:?}: {found}");
        assert!(found.help.as_ref().is_some_and(|text| text.contains(help)), "{lines:?}: {found}");
    }
}

#[test]
fn what_was_there_is_little() {
    let mut script = script();
    script.set_existing(true);
    assert!(script.line("open bash -> 1.2.3.4:5").is_ok());
    assert!(script.line("exec bash stdio").is_ok());
    assert!(script.line("exec bash peer bash").is_ok());
    for line in ["+1s", "close", "exit bash"] {
        assert!(script.line(line).is_err(), "{line}");
    }
    script.set_existing(false);
    assert!(script.line("exec bash").is_ok());
    assert!(script.line("exec bash peer bash").is_err(), "it is known of what was there before");
}

#[test]
fn expectations_mean_what_they_say() {
    let mut script = script();
    script.line("c1: open bash -> 1.2.3.4:5").expect("a line");
    let read = |line: &str| Expected::read(line, &script);
    let all = read("escalated a.b high at 1h on c1").expect("right");
    assert_eq!((all.phase, &*all.rule, all.severity), (Phase::Escalated, "a.b", Some(Severity::High)));
    assert_eq!((all.at, all.on), (Some(DurationNs(3_600_000_000_000)), Some(On::Flow(0))));
    assert_eq!(read("raised a on bash").expect("right").on, Some(On::Process("bash".to_owned())));
    let with = |line| read(line).expect("right").with;
    let piece = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(with("raised a with peers=101 high"), [piece("peers", "101")]);
    assert_eq!(
        with(r#"raised a with near="out port \"1" b=c=d with e="#),
        [piece("near", r#""out port \"1""#), piece("b", "c=d"), piece("e", "")]
    );
    for (line, place) in [
        ("raise a", "raise"),
        ("raised a with", ""),
        ("raised a with peers", "peers"),
        ("raised a with =1", "=1"),
        ("raised a peers=101", "peers=101"),
        ("raised", ""),
        ("raised a hihg", "hihg"),
        ("raised a at noon", "noon"),
        ("raised a on c2", "c2"),
        ("raised a on", ""),
    ] {
        assert_eq!(read(line).expect_err("wrong").place(), place, "{line}");
    }
}

fn word() -> impl Strategy<Value = String> {
    let known = VERBS.map(|(verb, _)| verb.to_owned());
    let others = [
        "bash",
        "c1",
        "c1:",
        "->",
        "<-",
        "+1h",
        "?",
        "*:80",
        "10.0.0.1:80",
        "[::1]:443",
        "/bin/x",
        "in",
        "out",
        "5K",
        "stdio",
        "parent-stdio",
        "code",
        "signal",
        "7",
        "ECONNREFUSED",
        "cancelled",
        "peer_fin",
    ];
    let others = others.map(str::to_owned);
    prop_oneof![3 => select(known.to_vec()), 6 => select(others.to_vec()), 1 => any::<String>()]
}

proptest! {
    /// Whatever stands there: an act, or an error with a place of the line and a remedy.
    #[test]
    fn no_line_makes_it_panic(lines in proptest::collection::vec(proptest::collection::vec(word(), 0..8), 0..8)) {
        let mut script = script();
        for line in lines {
            let line = line.join(" ");
            if let Err(error) = script.line(&line) {
                prop_assert!(line.get(error.span.clone()).is_some(), "{error:?}");
                prop_assert!(error.help.is_some_and(|help| !help.is_empty()));
            }
            let _ = Expected::read(&line, &script);
        }
    }

    #[test]
    fn no_text_makes_it_panic(line in any::<String>()) {
        let mut script = script();
        let _ = script.line(&line);
        let _ = Expected::read(&line, &script);
    }
}
