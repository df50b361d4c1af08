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
fn golden_at_80_columns() {
    samples::golden("events.80.txt", &format(TextOptions { width: Some(80), ..options() }, &samples::all()));
}

#[test]
fn golden_at_120_columns() {
    samples::golden(
        "events.120.txt",
        &format(TextOptions { width: Some(120), ..options() }, &samples::all()),
    );
}

/// A terminal may be narrower than the first column, and the last columns empty.
#[test]
fn no_width_is_too_small() {
    for event in &samples::all() {
        for width in 0..100 {
            let text = format(TextOptions { width: Some(width), ..options() }, std::slice::from_ref(event));
            assert!(text.ends_with('\n') && !text.contains("\n\n"), "{width}: {text:?}");
        }
    }
}

/// What is longer than a line goes on below, and nothing is lost by that.
#[test]
fn a_folded_line_has_all_words_of_the_whole_one() {
    let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for event in samples::all().iter().filter(|event| event.body.kind() != EventKind::Exec) {
        let whole = format(TextOptions { width: Some(1_000), ..options() }, std::slice::from_ref(event));
        let folded = format(TextOptions { width: Some(160), ..options() }, std::slice::from_ref(event));
        assert_eq!(words(&whole), words(&folded));
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
        Evidence::new("listens_on", Value::End(listener.local)),
        Evidence::number("port", listener.local.port().into()),
        Evidence::text("exe", &*exe),
        Evidence::number("port", 1),
        Evidence::text("exe", *b"/bin/other"),
        Evidence::new("before", Value::End(listener.local)),
    ];
    event
}

#[test]
fn an_alert_says_nothing_twice_and_its_suppression_can_be_copied() {
    let block = format(options(), &[about_a_listener()]);
    assert!(!block.contains("    socket "), "the first line has it: {block}");
    let at = block.find("    evidence").expect("evidence");
    let expected = "    evidence    port=1  exe=/bin/other  before=[::]:8080\n    \
                    coverage    since 03:43:41.123\n    \
                    suppress    exe:\"/opt/a b\" lport:8080\n";
    assert_eq!(&block[at..], expected);
}

/// In a log an alert is one line.
#[test]
fn without_a_head() {
    let (event, mut out) = (about_a_listener(), Vec::new());
    TextFormatter::headless(options()).format(&event, &mut out);
    let line = String::from_utf8(out).expect("UTF-8");
    assert!(line.starts_with("HIGH      a7  path.metadata  "), "{line}");
    let expected = "  [::]:8080  port=1  exe=/bin/other  before=[::]:8080  coverage: since 03:43:41.123  \
                    suppress: exe:\"/opt/a b\" lport:8080\n";
    assert!(line.ends_with(expected) && line.lines().count() == 1, "{line}");
}

/// The same alert about something that was there before, of such an age.
fn existing(source: Source, born: Option<Born>) -> String {
    let mut event = about_a_listener();
    let EventBody::Alert(alert) = &mut event.body else { panic!() };
    let Subject::Listener(listener) = &mut alert.subject else { panic!() };
    (listener.source, listener.born) = (source, born);
    alert.covered = Covered::All;
    let line = format(options(), &[event]);
    let Some((_, rest)) = line.split_once("socket      [::]:8080") else { return String::new() };
    rest.split_once("\n    evidence").expect("the evidence").0.to_owned()
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
fn columns_stay_put() {
    let shown = format(options(), &samples::all()[..6]);
    let end = |line: &str| line.find("127.0.0.1").or_else(|| line.find("[2001:db8::1]"));
    let columns: Vec<_> = shown.lines().skip(1).map(end).collect();
    assert!(columns.iter().all(|column| *column == columns[0]), "{shown}");
}

proptest! {
    #[test]
    fn an_event_is_one_line_and_harmless(event in samples::any_event(), width in any::<Option<u8>>()) {
        let width = width.map(usize::from);
        let text = format(TextOptions { width, ..options() }, std::slice::from_ref(&event));
        let text = text.strip_suffix('\n').expect("a newline at the end");
        let harmless = |line: &str| !line.chars().any(|c| c.is_control() || escape::is_hidden(c));
        prop_assert!(text.lines().all(harmless), "{text:?}");
        // What is below belongs to it.
        prop_assert!(text.lines().skip(1).all(|line| line.starts_with("    ")), "{text:?}");
        let is_alert = matches!(event.body, EventBody::Alert(_));
        prop_assert!(width.is_some() || is_alert || text.lines().count() == 1, "{text:?}");
    }

    #[test]
    fn a_cut_line_fits(process in samples::any_process(), width in 1..200_usize) {
        let event = samples::event(1, EventBody::Exec(ProcEvent::new(process)));
        let line = format(TextOptions { width: Some(width), ..options() }, std::slice::from_ref(&event));
        let columns: usize = line.trim_end_matches('\n').chars().filter_map(UnicodeWidthChar::width).sum();
        prop_assert!(columns <= width, "{columns} > {width}: {line:?}");
    }
}
