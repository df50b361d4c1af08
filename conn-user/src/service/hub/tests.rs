//! What clients get, and what they are answered.

use std::io::{BufRead as _, BufReader};

use super::*;
use crate::agent::{Pipeline, ResyncStats};
use crate::event::samples;
use crate::filter::Names;
use crate::flow::table::FlowTable;
use crate::process::ProcessTable;
use crate::service::protocol::read_notice;
use crate::units::BootNs;

struct Rig {
    hub: Hub,
    asker: Asker,
    pipeline: Pipeline,
}

impl Rig {
    fn new() -> Self {
        let (hub, asker) = Hub::new(&samples::identity(), Arc::default());
        let pipeline = Pipeline::new(BootNs(1), ProcessTable::default(), FlowTable::default());
        Self { hub, asker, pipeline }
    }

    fn look(&mut self) {
        self.hub.look(View { pipeline: &self.pipeline, repairs: ResyncStats::default() }, &[]);
    }

    /// A client that has its answer, and the number of the last event before what it gets.
    fn client(&mut self, id: u64, filter: &str, compact: bool) -> (BufReader<UnixStream>, u64) {
        let (own, stream) = UnixStream::pair().expect("a pair");
        let (release, answered) = sync_channel(1);
        let (answer, seq) = sync_channel(1);
        let filter = Filter::with_names(filter, Names::builtin()).expect("a filter");
        let kinds = KindSet::of_stream(false);
        let subscription = Subscription { id, filter, kinds, compact, stream, answered };
        self.asker.ask(Ask::Tail(Box::new(subscription), answer)).expect("the hub is there");
        self.look();
        let seq = seq.recv().expect("an answer").expect("a thread");
        release.send(()).expect("it waits");
        (BufReader::new(own), seq)
    }

    fn all(&mut self) {
        for event in &samples::all() {
            self.hub.on_event(event);
        }
        self.hub.flush();
    }
}

fn ask<T>(rig: &mut Rig, ask: impl FnOnce(SyncSender<T>) -> Ask) -> T {
    let (answer, answered) = sync_channel(1);
    rig.asker.ask(ask(answer)).expect("the hub is there");
    rig.look();
    answered.recv().expect("an answer")
}

fn lines(of: &mut BufReader<UnixStream>, count: usize) -> Vec<String> {
    of.lines().take(count).map(|line| line.expect("a line")).collect()
}

#[test]
fn each_client_gets_what_it_asked_for() {
    let mut rig = Rig::new();
    rig.all();
    let (mut all, seq) = rig.client(1, "", false);
    let (mut listens, _) = rig.client(2, "kind:listen", false);
    let (mut compact, _) = rig.client(3, "", true);
    let events = samples::all();
    assert_eq!(seq, events.last().expect("events").seq);
    rig.all();
    let shown: Vec<&Event> = events.iter().filter(|event| !event.body.kind().is_of_recording()).collect();
    let own = |encoder: &mut JsonEncoder, event: &Event| {
        let mut line = Vec::new();
        encoder.encode(event, &mut line);
        String::from_utf8(line).expect("UTF-8").trim_end().to_owned()
    };
    let mut encoder = JsonEncoder::new(&samples::identity());
    let expected: Vec<String> = shown.iter().map(|event| own(&mut encoder, event)).collect();
    assert_eq!(lines(&mut all, shown.len()), expected);
    let mut encoder = JsonEncoder::new(&samples::identity()).compact();
    let expected: Vec<String> = shown.iter().map(|event| own(&mut encoder, event)).collect();
    assert_eq!(lines(&mut compact, shown.len()), expected);
    // Gaps and the like come whatever is asked for.
    let listen =
        |event: &&&Event| event.body.kind() == EventKind::Listen || event.body.kind().is_always_shown();
    let count = shown.iter().filter(listen).count();
    assert!(
        count < shown.len() && lines(&mut listens, count).iter().all(|line| !line.contains("\"connect\""))
    );
    let counts = ask(&mut rig, Ask::Counts);
    assert_eq!((counts.tails, counts.client_dropped), (3, 0));
    assert_eq!(counts.events["alert"], 8);
}

#[test]
fn a_client_that_leaves_is_forgotten_and_its_connection_ends() {
    let mut rig = Rig::new();
    let (mut client, _) = rig.client(7, "", false);
    rig.asker.ask(Ask::Leave(7)).expect("the hub is there");
    rig.look();
    assert!(rig.hub.subscribers.is_empty());
    assert_eq!(lines(&mut client, 1), [""; 0], "the end of the stream");
}

/// What does not fit is reported to its client where it is missing.
#[test]
fn what_is_dropped_is_counted_and_reported() {
    let mut rig = Rig::new();
    let (mut client, _) = rig.client(1, "", false);
    let (mut given, event) = (0, samples::all().swap_remove(1));
    while rig.hub.lost().1 < 10 {
        rig.hub.on_event(&event);
        rig.hub.flush();
        given += 1;
    }
    let (mut got, mut reported) = (0, 0);
    let mut line = String::new();
    while got + reported < given {
        // Its reading makes room, and then it is reported: by the next flush.
        rig.hub.flush();
        line.clear();
        client.read_line(&mut line).expect("a line");
        match read_notice(&line) {
            Some(Notice::Dropped(count)) => reported += count,
            notice => {
                assert_eq!(notice, None);
                got += 1;
            }
        }
    }
    assert_eq!((reported, got + reported), (rig.hub.lost().1, given));
    // What it gets now it gets.
    rig.hub.on_event(&event);
    rig.hub.flush();
    line.clear();
    client.read_line(&mut line).expect("a line");
    assert_eq!(read_notice(&line), None, "{line}");
}

#[test]
fn alerts_are_remembered_by_each_of_their_names() {
    let mut rig = Rig::new();
    let find = |rig: &mut Rig, id: &str| {
        let which = Which::read(id).unwrap_or_else(|| panic!("{id} is no id"));
        ask(rig, |answer| Ask::Alert(which, answer)).len()
    };
    assert_eq!(find(&mut rig, "a7"), 0);
    rig.all();
    let seq =
        samples::all().iter().find(|event| event.body.kind() == EventKind::Alert).expect("an alert").seq;
    let steps = find(&mut rig, "a7");
    assert!(steps > 1);
    for id in ["3f2a9c1e-123456789a-a7".to_owned(), seq.to_string()] {
        assert_eq!(find(&mut rig, &id), steps, "{id}");
    }
    assert_eq!((find(&mut rig, "a8"), find(&mut rig, "00000000-1-a7")), (0, 0));
    for _ in 0..400 {
        rig.all();
    }
    assert!(rig.hub.alerts.len() <= ALERTS_MAX && rig.hub.alert_bytes <= ALERT_BYTES_MAX);
}
