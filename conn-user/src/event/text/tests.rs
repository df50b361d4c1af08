//! The lines against golden files, and what no line may ever do.

use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use super::*;
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
        let event = samples::event(1, EventBody::Exec(ProcEvent { process, stdio: None }));
        let line = format(TextOptions { width: Some(width), ..options() }, std::slice::from_ref(&event));
        let columns: usize = line.trim_end_matches('\n').chars().filter_map(UnicodeWidthChar::width).sum();
        prop_assert!(columns <= width, "{columns} > {width}: {line:?}");
    }
}
