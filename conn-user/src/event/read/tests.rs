//! What was written is read back: written again it is the same.

use proptest::prelude::*;

use super::*;
use crate::event::json::JsonEncoder;
use crate::event::samples;
use crate::event::text::{TextFormatter, TextOptions};
use crate::process::identity::{ExeFile, Identity};
use crate::process::info::MountNs;
use crate::units::MntNs;

fn written(event: &Event) -> String {
    let mut out = Vec::new();
    JsonEncoder::new(&samples::identity()).encode(event, &mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// Written again after it was read, the second time by what the first one left.
fn again(line: &str) -> Option<String> {
    let mut reader = Reader::default();
    let _ = reader.read(line);
    match reader.read(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
        Recorded::Event(event) => Some(written(&event)),
        Recorded::Alert(_) | Recorded::Time(_) | Recorded::Facts(..) | Recorded::Sample(..) => None,
    }
}

#[test]
fn the_samples_are_the_same() {
    for event in samples::all() {
        let line = written(&event);
        if let Some(again) = again(&line) {
            assert_eq!(resolved(&again), resolved(&line));
        }
    }
}

/// A line with the closer written out: one that was read is the owner itself if it has the same text.
fn resolved(line: &str) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    if value["closer"]["process"].is_string() {
        value["closer"]["process"] = value["process"].clone();
    }
    value
}

/// Without spans of time: an arbitrary event has some that its own time contradicts.
fn without_spans(line: &str) -> serde_json::Value {
    let mut value = resolved(line);
    let keys = value.as_object_mut().expect("an object");
    for key in ["age", "connect_ns", "queued_ns"] {
        keys.remove(key);
    }
    value
}

proptest! {
    #[test]
    fn any_event_is_the_same(event in samples::any_event()) {
        let line = written(&event);
        let read = again(&line).expect("no alert");
        prop_assert_eq!(without_spans(&read), without_spans(&line));
        prop_assert_eq!(&again(&read).expect("no alert"), &read);
    }

    #[test]
    fn any_text_is_an_event_or_an_error(text in ".{0,200}", at in any::<prop::sample::Index>()) {
        let _ = Reader::default().read(&text);
        // A line with a hole or something else in it.
        let mut line = written(&samples::all()[at.index(samples::all().len())]);
        let place = (0..line.len()).nth(at.index(line.len())).filter(|place| line.is_char_boundary(*place));
        if let Some(place) = place {
            line.insert_str(place, &text);
            let _ = Reader::default().read(&line);
            line.truncate(place);
            let _ = Reader::default().read(&line);
        }
    }
}

#[test]
fn a_process_is_read_once() {
    let mut reader = Reader::default();
    let mut read = || match reader.read(&written(&samples::all()[1])).expect("an event") {
        Recorded::Event(Event { body: EventBody::Flow(Change::Connect(conn)), .. }) => conn.owner.process,
        other => panic!("{other:?}"),
    };
    let (one, other) = (read().expect("a process"), read().expect("a process"));
    assert!(Arc::ptr_eq(&one, &other));
}

#[test]
fn errors_say_what_is_wrong() {
    let good = written(&samples::all()[1]);
    for (line, expected) in [
        ("{}".to_owned(), "not an event: missing field `schema`"),
        (good.replace("\"schema\":1", "\"schema\":9"), "schema version 9; this conn reads version 1"),
        (
            good.replace("\"kind\":\"connect\"", "\"kind\":\"shout\""),
            "`kind` is not \"shout\": it is one of connect, ",
        ),
        (good.replace("\"dir\":\"out\"", "\"dir\":null"), "a connect without `dir`"),
        (good.replace("\"conn_id\":\"", "\"conn_id\":\"x\",\"was\":\""), "`conn_id` is no id: \"x\""),
    ] {
        let error = Reader::default().read(&line).expect_err("an error").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// What is found out of a process after its first event is reported with whose it is, and from when on it may be known.
#[test]
fn late_facts_find_their_process() {
    let (mut reader, known) = (Reader::default(), samples::curl());
    let unknown = Arc::new(ProcessInfo { identity: Identity::default(), ..ProcessInfo::clone(&known) });
    let exec = |process: &Arc<ProcessInfo>, at| Event {
        boot: BootNs(at),
        ..samples::event(at, EventBody::Exec(ProcEvent::new(Arc::clone(process))))
    };
    let mut read = |process, at| match reader.read(&written(&exec(process, at))).expect("an event") {
        Recorded::Event(Event { body: EventBody::Exec(exec), .. }) => {
            (exec.process.identity.clone(), reader.take_news())
        }
        other => panic!("{other:?}"),
    };
    let (old, news) = read(&unknown, 10);
    assert!(news.is_empty() && old.version() == 0);
    assert!(read(&unknown, 20).1.is_empty());
    let (new, news) = read(&known, 30);
    let [news] = &news[..] else { panic!("{news:?}") };
    assert_eq!((news.first, news.last, news.since), (BootNs(10), BootNs(20), BootNs(30)));
    assert_eq!((&news.of, &news.known), (&old, &new));
    old.learn(&news.known);
    assert_eq!((old.version(), old.sha256()), (new.version(), known.identity.sha256()));
    assert!(read(&known, 40).1.is_empty());
}

/// One fact was known before the other: until then nobody had that one, whatever text it stood in.
#[test]
fn what_an_event_between_does_not_have_was_not_known() {
    let mut reader = Reader::default();
    let image = |identity| {
        Arc::new(ProcessInfo { identity, ..ProcessInfo::clone(&samples::process(9, b"x", "/tmp/x", &["x"])) })
    };
    let [nothing, place, hash] = [(); 3].map(|()| image(Identity::default()));
    for of in [&place, &hash] {
        of.identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
    }
    hash.identity.set_sha256(Some([7; 32]));
    let mut lasts = Vec::new();
    for (process, at) in [(&nothing, 10), (&place, 20), (&place, 900), (&hash, 1000)] {
        let event = Event {
            boot: BootNs(at),
            ..samples::event(1, EventBody::Exec(ProcEvent::new(Arc::clone(process))))
        };
        assert!(matches!(reader.read(&written(&event)), Ok(Recorded::Event(_))));
        lasts.push(reader.take_news().iter().map(|news| news.last.0).collect::<Vec<_>>());
    }
    assert_eq!(lasts, [vec![], vec![10], vec![], vec![900, 900]]);
}

/// Whoever made a recording may have as many texts of one image as lines: each gets a fact once. Before, each new text reported it of
/// all before, which took 8.8 GB for 40,000 lines.
#[test]
fn many_texts_of_one_image_are_reported_each_fact_once() {
    const TEXTS: usize = 3_000;
    let (mut reader, mut reported) = (Reader::default(), 0);
    for text in 0..TEXTS {
        let identity = Identity::default();
        if text % 2 == 0 {
            identity.set_sha256(Some([7; 32]));
        } else {
            identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
        }
        let process = samples::process(9, b"x", "/tmp/x", &["x"]);
        // Another group makes another text, not another image.
        let process = ProcessInfo { identity, gid: text as u32, ..ProcessInfo::clone(&process) };
        let event = samples::event(1, EventBody::Exec(ProcEvent::new(process.into())));
        assert!(matches!(reader.read(&written(&event)), Ok(Recorded::Event(_))));
        reported += reader.take_news().len();
    }
    assert!((TEXTS - 2..=2 * TEXTS).contains(&reported), "{reported} for {TEXTS} texts");
}

/// Issue 13: that an older conn did not look whose file it is does not make it somebody else's.
#[test]
fn without_exe_host_the_path_counts() {
    let is_host = |line: &str| match Reader::default().read(line).expect("an event") {
        Recorded::Event(Event { body: EventBody::Exec(exec), .. }) => {
            let parent = exec.process.ancestors.first().and_then(|parent| parent.exe_is_host);
            (exec.process.identity.exe_is_host(), parent)
        }
        other => panic!("{other:?}"),
    };
    let line =
        |process: ProcessInfo| written(&samples::event(1, EventBody::Exec(ProcEvent::new(process.into()))));
    let own = |exe: &str| {
        let parent = ProcessInfo::clone(&samples::process(8, b"p", "/usr/sbin/inetd", &["p"]));
        let process = ProcessInfo::clone(&samples::process(9, b"x", exe, &["x"]));
        ProcessInfo { ancestors: crate::process::lineage::below(&parent), ..process }
    };
    let without = |line: &str| {
        let text = line.replace(",\"exe_host\":null", "").replace(",\"exe_host\":false", "");
        assert!(!text.contains("exe_host"), "{text}");
        text
    };
    let new = line(own("/usr/bin/x"));
    assert_eq!(is_host(&new), (None, None), "it is not known");
    assert_eq!(is_host(&without(&new)), (Some(true), Some(true)));
    assert_eq!(is_host(&without(&line(own("/memfd:x")))).0, Some(false));
    let elsewhere =
        ProcessInfo { mount_ns: Some(MountNs { id: MntNs(7), is_host: false }), ..own("/usr/bin/x") };
    assert_eq!(is_host(&without(&line(elsewhere))).0, Some(false));
}

/// A number where a process should be is none, whatever number known ones have.
#[test]
fn numbers_are_no_processes() {
    let line = written(&samples::all()[1]);
    let mut reader = Reader::default();
    assert!(reader.read(&line).is_ok() && reader.read(&line).is_ok());
    let (before, after) = line.split_once("\"process\":{").expect("a process");
    let (_, after) = after.split_once("},\"tid\"").expect("its end");
    let error =
        reader.read(&format!("{before}\"process\":0,\"tid\"{after}")).expect_err("a number").to_string();
    assert!(error.contains("not an event"), "{error}");
    // A name that looks like a process.
    let tricky = samples::process(5, b"\"process\":{", "/x", &["\"process\":{}"]);
    let event = samples::event(3, EventBody::Exec(ProcEvent::new(tricky)));
    let line = written(&event);
    for _ in 0..2 {
        let Recorded::Event(event) = reader.read(&line).expect("an event") else { panic!("an alert") };
        assert_eq!(written(&event), line);
    }
}

fn compact(events: &[Event]) -> String {
    let (mut encoder, mut out) = (JsonEncoder::new(&samples::identity()).compact(), Vec::new());
    for event in events {
        encoder.encode(event, &mut out);
    }
    String::from_utf8(out).expect("UTF-8")
}

fn read_all(lines: &str) -> Vec<Event> {
    let mut reader = Reader::default();
    let events =
        lines.lines().map(|line| match reader.read(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
            Recorded::Event(event) => Some(event),
            _ => None,
        });
    events.flatten().collect()
}

/// A compact stream is the same events; each process is in it once, as it was known then.
#[test]
fn a_compact_stream_is_the_same() {
    let twice: Vec<Event> = samples::all().into_iter().flat_map(|event| [event.clone(), event]).collect();
    let whole: String = twice.iter().map(written).collect();
    let lines = compact(&twice);
    assert!(lines.len() < whole.len() * 4 / 5, "{} of {}", lines.len(), whole.len());
    // Only the copies of those that name one process: another one with its id is written out anew.
    let names_one = |line: &&str| !["\"closer\"", "\"listener\""].iter().any(|key| line.contains(key));
    let second = lines.lines().skip(1).step_by(2).filter(names_one);
    assert_eq!(second.filter(|line| line.contains("\"process\":{")).count(), 0);
    let again = |events: Vec<Event>| events.iter().map(written).collect::<String>();
    assert_eq!(again(read_all(&lines)), again(read_all(&whole)));
}

/// What becomes known of a process writes it out again. A reader forgets texts, but none to which a line may refer.
#[test]
fn references_outlive_what_a_reader_forgets() {
    let exec =
        |process: &Arc<ProcessInfo>| samples::event(1, EventBody::Exec(ProcEvent::new(Arc::clone(process))));
    let (mut encoder, mut reader) = (JsonEncoder::new(&samples::identity()).compact(), Reader::default());
    let mut give = |process: &Arc<ProcessInfo>| {
        let mut line = Vec::new();
        encoder.encode(&exec(process), &mut line);
        let line = String::from_utf8(line).expect("UTF-8");
        match reader.read(&line).unwrap_or_else(|error| panic!("{error}: {line}")) {
            Recorded::Event(Event { body: EventBody::Exec(exec), .. }) => {
                assert_eq!(exec.process.comm, process.comm);
                assert_eq!(exec.process.identity.sha256(), process.identity.sha256());
            }
            other => panic!("{other:?}"),
        }
        line.contains("\"process\":\"")
    };
    let old = samples::process(7, b"old", "/bin/old", &[]);
    assert_eq!([give(&old), give(&old)], [false, true]);
    old.identity.set_sha256(Some([7; 32]));
    assert_eq!([give(&old), give(&old)], [false, true]);
    // More than a reader keeps; all along there are references to those of a while ago.
    let many: Vec<_> = (0..70_000_u32).map(|pid| samples::process(pid + 10, b"x", "/bin/x", &[])).collect();
    let mut references = 0;
    for (at, process) in many.iter().enumerate() {
        give(process);
        references += usize::from(at >= 20_000 && give(&many[at - 20_000]));
    }
    assert!(references > 10_000, "{references}");
    assert!(!give(&old), "it is written out anew");
}

/// A stream whose beginning is missing says so.
#[test]
fn a_reference_to_nothing_is_an_error() {
    let process = samples::curl();
    let exec = samples::event(1, EventBody::Exec(ProcEvent::new(process)));
    let lines = compact(&[exec.clone(), exec]);
    let error = Reader::default().read(lines.lines().nth(1).expect("a line")).expect_err("an error");
    assert_eq!(
        error.to_string(),
        "process 3f2a9c1e-4242-424 is not in an earlier line: is the beginning of the recording missing?"
    );
}

/// A process that cannot be read is none to which a later line may refer.
#[test]
fn nothing_refers_to_what_was_not_read() {
    let exec = samples::event(1, EventBody::Exec(ProcEvent::new(samples::curl())));
    let lines = compact(&[exec.clone(), exec]);
    let (first, second) = lines.split_once('\n').expect("two lines");
    let mut reader = Reader::default();
    let broken = first.replace("\"source\":\"exec\"", "\"source\":\"dream\"");
    assert!(broken != first && reader.read(&broken).is_err());
    assert!(matches!(reader.read(second), Err(ReadError::Reference(id)) if id == "3f2a9c1e-4242-424"));
}

/// Every sample that is an alert, written and read whole: from lines that write each process out, and from compact ones.
fn alerts_again() -> Vec<(Event, Event)> {
    let twice: Vec<Event> = samples::all().into_iter().flat_map(|event| [event.clone(), event]).collect();
    let whole: String = twice.iter().map(written).collect();
    let mut pairs = Vec::new();
    for lines in [whole, compact(&twice)] {
        let mut reader = Reader::default().with_alerts();
        for (line, event) in lines.lines().zip(&twice) {
            let read = reader.read(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event.body.kind() == EventKind::Alert {
                let Recorded::Event(read) = read else { panic!("{read:?}") };
                pairs.push((event.clone(), read));
            }
        }
    }
    assert!(pairs.len() >= 16, "{}", pairs.len());
    pairs
}

#[test]
fn alerts_read_whole_are_the_same_json() {
    for (event, read) in alerts_again() {
        assert_eq!(written(&read), written(&event));
    }
}

/// People see of an alert that was read back what they saw of the alert itself: on a terminal, and in a log.
#[test]
fn alerts_read_whole_are_the_same_text() {
    for (event, read) in alerts_again() {
        for width in [None, Some(100)] {
            let text = |event: &Event| {
                let (netns, zone) = (Some(NetNs(4_026_531_840)), jiff::tz::TimeZone::UTC);
                let options = TextOptions { color: false, width, netns, zone, dated: false };
                let mut out = Vec::new();
                TextFormatter::new(options.clone()).format(event, &mut out);
                TextFormatter::headless(options).format(event, &mut out);
                String::from_utf8(out).expect("UTF-8")
            };
            assert_eq!(text(&read), text(&event));
        }
    }
}

/// Each type of evidence comes back as what it was.
#[test]
fn evidence_keeps_its_types() {
    let (all, compact): (Vec<_>, Vec<_>) = {
        let all = alerts_again();
        let half = all.len() / 2;
        (all[..half].to_vec(), all[half..].to_vec())
    };
    let mut seen = std::collections::BTreeSet::new();
    for (event, read) in all.iter().chain(&compact) {
        let (EventBody::Alert(alert), EventBody::Alert(read)) = (&event.body, &read.body) else {
            panic!("no alerts");
        };
        for (one, other) in alert.evidence.iter().zip(&read.evidence) {
            assert_eq!(one.name, other.name);
            assert_eq!(std::mem::discriminant(&one.value), std::mem::discriminant(&other.value), "{one:?}");
            seen.insert(format!("{:?}", one.value).split('(').next().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["Duration", "End", "List", "Number", "Score", "Text"]);
}

#[test]
fn an_alert_that_is_none_is_an_error() {
    let alert = samples::all().into_iter().find(|event| event.body.kind() == EventKind::Alert);
    let good = written(&alert.expect("an alert"));
    let read =
        |line: &str| Reader::default().with_alerts().read(line).map(drop).map_err(|error| error.to_string());
    read(&good).expect("an alert");
    for (from, to, expected) in [
        ("\"seen\":\"all\"", "\"seen\":\"some\"", "`seen` is not \"some\""),
        ("\"seen\":\"all\"", "\"seen\":\"since\"", "without `coverage`"),
        ("\"bytes_out\":42", "\"bytes_out\":null", "not an event"),
        ("\"bytes_out\":42", "\"bytes_out\":[[[[[[1]]]]]]", "not an event"),
        ("-a7\"", "-b7\"", "`id` is no id"),
    ] {
        let line = good.replace(from, to);
        assert_ne!(line, good, "{from}");
        let error = read(&line).expect_err(to);
        assert!(error.contains(expected), "{error}");
    }
}
