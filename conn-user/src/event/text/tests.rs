//! The lines against golden files, and what no line may ever do.

use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use super::*;
use crate::event::alert::{Evidence, Phase, Subject, Value};
use crate::event::model::ProcEvent;
use crate::event::{escape, samples};
use crate::flow::born::{Born, BornBy};

fn options() -> TextOptions {
    TextOptions {
        color: false,
        width: None,
        netns: Some(NetNs(4_026_531_840)),
        zone: TimeZone::UTC,
        dated: false,
    }
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
    alert.suppress = Some("exe:\"/opt/a b\" lport:8080".into());
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
fn an_alert_says_nothing_twice_and_its_suppression_can_be_copied() {
    let line = format(options(), &[about_a_listener()]);
    let (_, evidence) = line.split_once("  [::]:8080").expect("the subject");
    let expected = "  port=1  exe=/bin/other  before=[::]:8080  coverage since 03:43:41.123  \
                    suppress: exe:\"/opt/a b\" lport:8080\n";
    assert_eq!(evidence, expected);
}

/// The same alert about something that was there before, of such an age.
fn existing(source: Source, born: Option<Born>) -> String {
    let mut event = about_a_listener();
    let EventBody::Alert(alert) = &mut event.body else { panic!() };
    let Subject::Listener(listener) = &mut alert.subject else { panic!() };
    (listener.source, listener.born) = (source, born);
    alert.covered = Covered::All;
    let line = format(options(), &[event]);
    let (_, rest) = line.split_once("  [::]:8080").expect("the subject");
    rest.split_once("  port=1").expect("the evidence").0.to_owned()
}

#[test]
fn an_alert_about_what_existed_says_so_and_how_old_it_may_be() {
    let at = about_a_listener().boot;
    let ago = |seconds: u64| BootNs(at.0 - seconds * 1_000_000_000);
    let born = |earliest: BootNs, latest| Born {
        earliest,
        latest,
        earliest_by: BornBy::OwnerStart,
        latest_by: BornBy::Snapshot,
    };
    assert_eq!(existing(Source::Snapshot, Some(born(ago(540), at))), "  existing, age ≤ 9m00s");
    assert_eq!(existing(Source::Snapshot, Some(born(ago(540), ago(60)))), "  existing, age 1m00s..9m00s");
    assert_eq!(existing(Source::Snapshot, Some(born(BootNs(0), ago(60)))), "  existing, age ≥ 1m00s");
    assert_eq!(existing(Source::Snapshot, None), "  existing, age unknown");
    assert_eq!(existing(Source::Resync, Some(born(ago(540), at))), "  resync, age ≤ 9m00s");
    assert_eq!(existing(Source::Late, None), "  late, age unknown");
    assert_eq!(existing(Source::Live, None), "");
}

/// Events of two days, and of the night in which clocks are set back.
#[test]
fn a_line_with_date_and_offset_stands_where_they_change() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a time zone");
    let of = |dated: bool, walls: &[u64]| {
        let mut formatter = TextFormatter::new(TextOptions { zone: zone.clone(), dated, ..options() });
        let (event, mut out) = (&samples::all()[1], Vec::new());
        for wall in walls {
            formatter.format(&Event { wall: WallNs(wall * 1_000_000_000), ..event.clone() }, &mut out);
        }
        let text = String::from_utf8(out).expect("UTF-8");
        text.lines().map(|line| line.split("  ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    // 2026-10-24 23:59:59 CEST, a second later, and at 03:00 CEST, which is 02:00 CET.
    let walls = [1_792_879_199, 1_792_879_200, 1_792_890_000];
    let (midnight, set_back) = ("--- 2026-10-25 UTC+02:00 ---", "--- 2026-10-25 UTC+01:00 ---");
    let expected = ["23:59:59.000", midnight, "00:00:00.000", set_back, "02:00:00.000"];
    assert_eq!(of(false, &walls), expected);
    assert_eq!(of(true, &walls)[0], "--- 2026-10-24 UTC+02:00 ---");
    assert_eq!(of(true, &walls)[1..], expected);
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
