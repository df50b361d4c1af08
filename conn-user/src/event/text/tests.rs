//! The lines against golden files, and what no line may ever do.

use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use super::*;
use crate::event::alert::{Evidence, Phase, Subject, Value};
use crate::event::model::ProcEvent;
use crate::event::{escape, samples};

fn options() -> TextOptions {
    TextOptions { color: false, width: None, netns: Some(NetNs(4_026_531_840)), zone: TimeZone::UTC }
}

fn format(options: TextOptions, events: &[Event]) -> String {
    let (mut formatter, mut out) = (TextFormatter::new(options), Vec::new());
    for event in events {
        formatter.format(event, &mut out);
    }
    String::from_utf8(out).expect("text is UTF-8")
}

#[test]
fn golden_plain() {
    samples::golden("events.txt", &format(options(), &samples::all()));
}

#[test]
fn golden_color() {
    let shown = format(TextOptions { color: true, ..options() }, &samples::all());
    samples::golden("events.color.txt", &shown.replace('\x1b', "^["));
}

#[test]
fn only_the_arguments_of_an_exec_are_cut() {
    let shown = format(TextOptions { width: Some(80), ..options() }, &samples::all());
    for (whole, cut) in format(options(), &samples::all()).lines().zip(shown.lines()) {
        let exec = whole.contains("  EXEC ");
        assert_eq!(whole == cut, !exec, "{cut}");
        assert!(!exec || cut.chars().count() == 80, "{cut}");
    }
}

#[test]
fn another_namespace_is_named() {
    let line = format(TextOptions { netns: Some(NetNs(1)), ..options() }, &samples::all()[1..2]);
    assert!(line.contains("  netns=4026531840"), "{line}");
}

/// An alert about a listener, with evidence that its line says already, and with such that it does not.
fn about_a_listener() -> Event {
    let mut event = samples::all()
        .into_iter()
        .find(|event| {
            matches!(&event.body, EventBody::Alert(alert) if matches!(alert.subject, Subject::Listener(_)))
        })
        .expect("a sample");
    let EventBody::Alert(alert) = &mut event.body else { panic!() };
    let Subject::Listener(listener) = alert.subject.clone() else { panic!() };
    let exe = listener.owner.process.as_ref().and_then(|process| process.exe.clone()).expect("known");
    alert.phase = Phase::Raised;
    alert.silence = Some("exe:\"/opt/a b\" lport:8080".into());
    alert.evidence = vec![
        Evidence { name: "listens_on", value: Value::End(listener.local) },
        Evidence::number("port", listener.local.port().into()),
        Evidence::text("exe", &*exe),
        Evidence::number("port", 1),
        Evidence::text("exe", *b"/bin/other"),
        Evidence { name: "before", value: Value::End(listener.local) },
    ];
    event
}

#[test]
fn an_alert_says_nothing_twice_and_its_silence_can_be_copied() {
    let line = format(options(), &[about_a_listener()]);
    let (_, evidence) = line.split_once("  [::]:8080").expect("the subject");
    let expected = "  port=1  exe=/bin/other  before=[::]:8080  (not watched before the agent began)  \
                    silence: exe:\"/opt/a b\" lport:8080\n";
    assert_eq!(evidence, expected);
}

#[test]
fn without_a_head() {
    let (event, mut out) = (about_a_listener(), Vec::new());
    TextFormatter::headless(options()).format(&event, &mut out);
    let whole = format(options(), &[event]);
    let (_, rest) = whole.split_once("ALERT        ").expect("an alert");
    assert_eq!(String::from_utf8(out).expect("UTF-8"), rest);
}

#[test]
fn columns_stay_put() {
    let shown = format(options(), &samples::all()[..6]);
    let columns: Vec<_> = shown.lines().skip(1).map(|line| line.find("uid=")).collect();
    assert!(columns.iter().all(|column| *column == columns[0]), "{shown}");
}

proptest! {
    #[test]
    fn a_line_is_one_line_and_harmless(event in samples::any_event()) {
        let line = format(options(), std::slice::from_ref(&event));
        let line = line.strip_suffix('\n').expect("a newline at the end");
        prop_assert!(!line.chars().any(|c| c.is_control() || escape::is_hidden(c)), "{line:?}");
    }

    #[test]
    fn a_cut_line_fits(process in samples::any_process(), width in 1..200_usize) {
        let event = samples::event(1, EventBody::Exec(ProcEvent::new(process)));
        let line = format(TextOptions { width: Some(width), ..options() }, std::slice::from_ref(&event));
        let columns: usize = line.trim_end_matches('\n').chars().filter_map(UnicodeWidthChar::width).sum();
        prop_assert!(columns <= width, "{columns} > {width}: {line:?}");
    }
}
