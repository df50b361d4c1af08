//! Repairs after a loss of records.

use super::*;

#[test]
fn nothing_to_repair() {
    let mut rig = Rig::new(Backend::Fentry);
    open(&mut rig);
    let sockets = [snap_listener(), snap_client(), snap_child()];
    assert_eq!(repair(&mut rig, &sockets), (Merged::default(), Vec::new()));
    rig.closes(10, ESTABLISHED, client());
    assert_eq!(rig.reported().len(), 1, "it lives on");
}

#[test]
fn what_was_opened_in_the_gap() {
    let mut rig = Rig::new(Backend::Fentry);
    let waiting = SnapSocket { cookie: Some(7), ..snap_waiting() };
    let sockets = [snap_listener(), snap_client(), snap_child(), waiting];
    let (merged, reported) = repair(&mut rig, &sockets);
    assert_eq!(merged, Merged { added: 4, ..Merged::default() });
    assert_eq!(
        reported,
        [
            "listen 1 0.0.0.0:80 by 20(FdTable)",
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 resync by 10(FdTable)",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 resync by 20(FdTable) of 20(FdTable)",
        ]
    );
    assert_eq!(repair(&mut rig, &sockets), (Merged::default(), Vec::new()), "only once");
}

#[test]
fn what_ended_in_the_gap() {
    let mut rig = Rig::new(Backend::Fentry);
    open(&mut rig);
    let (merged, reported) = repair(&mut rig, &[snap_listener(), snap_child()]);
    assert_eq!(merged, Merged { ended: 1, ..Merged::default() });
    assert_eq!(reported, ["close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 Unseen closer ?(Unknown(Lost))"]);
    let (merged, reported) = repair(&mut rig, &[]);
    assert_eq!(merged.ended, 2);
    assert!(
        reported.iter().any(|line| line.starts_with("unlisten 1 0.0.0.0:80 by 20 closer ?(Unknown(Lost))"))
    );
    assert_eq!((rig.flows.stats().live, rig.flows.stats().listeners), (0, 0));
}

#[test]
fn what_completed_in_the_gap() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.listens(20, listener());
    rig.connects(10, client());
    rig.established(SYN_RECV, child());
    rig.reported();
    let (merged, reported) = repair(&mut rig, &[snap_listener(), snap_client(), snap_child()]);
    assert_eq!(merged.advanced, 2);
    assert_eq!(
        reported,
        [
            "established 2 Out 127.0.0.1:40000>127.0.0.1:80 resync by 10",
            "accept 3 In 127.0.0.1:80>127.0.0.1:40000 resync by 20(FdTable) of 20",
        ]
    );
}

/// The kernel shows the socket before the hook of its connect runs.
#[test]
fn a_connect_that_is_reported_after_the_snapshot_saw_it() {
    let attempt = SnapSocket { state: TcpState::SynSent, ..snap_client() };
    let mut rig = Rig::new(Backend::Fentry);
    let (merged, reported) = repair(&mut rig, std::slice::from_ref(&attempt));
    assert_eq!((merged.added, reported.len()), (1, 1));
    assert!(
        reported[0].starts_with("connect 1 Out 127.0.0.1:40000>127.0.0.1:80 resync by 10(FdTable)"),
        "{reported:?}"
    );
    rig.connects(10, client());
    assert_eq!(rig.reported(), [""; 0], "it is reported already");
    rig.established(SYN_SENT, client());
    assert_eq!(rig.reported(), ["established 1 Out 127.0.0.1:40000>127.0.0.1:80 resync by 10"]);
    rig.connects(10, client());
    assert_eq!(rig.reported().len(), 2, "now the socket begins another one");

    // At the start nothing was reported it.
    let mut rig = Rig::new(Backend::Fentry);
    start(&mut rig, &[attempt]);
    rig.now += 20 * MS;
    rig.connects(10, client());
    assert_eq!(rig.reported(), ["connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10"]);
}

/// The connect was lost, the establishment was not.
#[test]
fn whose_connect_alone_was_lost() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.established(SYN_SENT, client());
    let reported = rig.reported();
    assert!(reported[0].contains("by ?(Unknown(BeforeAttach))"), "{reported:?}");
    rig.now += 20 * MS;
    let (merged, reported) = repair(&mut rig, &[snap_client()]);
    assert_eq!((merged, reported), (Merged::default(), Vec::new()), "nothing happened");
    rig.closes(10, ESTABLISHED, client());
    let reported = rig.reported();
    assert!(reported[0].contains("by 10(FdTable)"), "{reported:?}");
}

/// What began after the snapshot did cannot be in it.
#[test]
fn what_is_younger_than_the_snapshot_stays() {
    let mut rig = Rig::new(Backend::Fentry);
    let taken = snapshot(&rig, &[]);
    open(&mut rig);
    let merged = rig.flows.merge_repair(&taken, &mut rig.procs, &mut || {}, &mut rig.out);
    assert_eq!((merged, rig.reported().len()), (Merged::default(), 0));
}

/// What must not wait for a long repair has its turn meanwhile.
#[test]
fn a_repair_pauses() {
    let mut rig = Rig::new(Backend::Fentry);
    let socket = |cookie: u64| {
        let local = format!("127.0.0.1:{}", 10_000 + cookie);
        SnapSocket { cookie: Some(100 + cookie), ..snap::socket(&local, SERVER) }
    };
    let sockets: Vec<_> = (0..10_000).map(socket).collect();
    let (taken, mut pauses) = (snapshot(&rig, &sockets), 0);
    rig.flows.merge_repair(&taken, &mut rig.procs, &mut || pauses += 1, &mut rig.out);
    assert_eq!(pauses, 2 + 10_000 / 1024);
}

/// An end that came while the snapshot was taken, which still had the socket.
#[test]
fn what_ended_since_stays_ended() {
    let mut rig = Rig::new(Backend::Fentry);
    open(&mut rig);
    rig.closes(10, ESTABLISHED, client());
    rig.reported();
    let sockets = [snap_listener(), snap_client(), snap_child()];
    assert_eq!(repair(&mut rig, &sockets), (Merged::default(), Vec::new()));
}

#[test]
fn a_namespace_that_was_not_seen_proves_nothing() {
    let mut rig = Rig::new(Backend::Fentry);
    open(&mut rig);
    rig.now += MS;
    let mut snapshot = snapshot(&rig, &[]);
    snapshot.notes.push(Note::NetNs { netns: NetNs(1), why: "no".into() });
    let merged = rig.flows.merge_repair(&snapshot, &mut rig.procs, &mut || {}, &mut rig.out);
    assert_eq!((merged, rig.reported().len()), (Merged::default(), 0));
}
