//! What backup programs report, and repeat.

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::{Counters, EstablishedRecord, Sock, SockEndRecord};

use super::{child, client, listener};
use crate::flow::how::state::{CLOSE, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT};
use crate::flow::testing::{Backend, Rig, who};

#[test]
fn a_backup_program_reports_what_was_missed_and_repeats_nothing() {
    for repeated in [false, true] {
        let mut rig = Rig::new(Backend::Fentry);
        rig.listens(20, listener());
        if repeated {
            rig.connects(10, client());
        }
        let again = rig.sock_record(HookId::FentryTcpConnectBackup, who(10), client());
        rig.feed(&Record::Connect(again));
        rig.established(SYN_RECV, child());
        rig.established(SYN_SENT, client());
        if repeated {
            rig.accepts(20, child());
        }
        let again = rig.sock_record(HookId::FentryInetAcceptBackup, who(20), child());
        rig.feed(&Record::Accept(again));
        for repetition in 0..=u8::from(repeated) {
            let hook = [HookId::FentryTcpCloseBackup, HookId::FentryTcpClose][usize::from(repetition)];
            let header = rig.header(hook);
            let sock = Sock { old_state: ESTABLISHED, new_state: ESTABLISHED, ..client() };
            let record = SockEndRecord { header, task: who(10), sock, counters: Counters::default() };
            rig.feed(&Record::Close(record));
        }
        let reported = rig.reported();
        assert_eq!(
            reported,
            [
                "listen 1 0.0.0.0:80 by 20",
                "connect 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "established 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10",
                "accept 3 In 127.0.0.1:80>127.0.0.1:40000 by 20 of 20",
                "close 2 Out 127.0.0.1:40000>127.0.0.1:80 by 10 LocalFin closer 10",
            ],
            "repeated: {repeated}"
        );
    }
}

#[test]
fn a_handshake_that_is_repeated_after_the_end_begins_nothing() {
    let mut rig = Rig::new(Backend::Fentry);
    rig.listens(20, listener());
    rig.established(SYN_RECV, child());
    rig.accepts(20, child());
    rig.reported();
    let repeat = |rig: &mut Rig| {
        let header = rig.header(HookId::StateBackup);
        let sock = Sock { old_state: SYN_RECV, new_state: ESTABLISHED, ..child() };
        rig.feed(&Record::Established(EstablishedRecord { header, sock }));
    };
    repeat(&mut rig);
    assert!(rig.reported().is_empty(), "it is established");
    rig.closes(20, ESTABLISHED, child());
    assert_eq!(rig.reported().len(), 1);
    repeat(&mut rig);
    rig.closes(20, ESTABLISHED, child());
    assert!(rig.reported().is_empty(), "it is over");
}

#[test]
fn a_backup_program_ends_a_listener_once_known_or_not() {
    for known in [false, true] {
        for repeated in [false, true] {
            let mut rig = Rig::new(Backend::Fentry);
            if known {
                rig.listens(20, listener());
                rig.reported();
            }
            if repeated {
                rig.unlistens(20, listener());
            }
            let sock = Sock { old_state: LISTEN, new_state: CLOSE, ..listener() };
            let again = rig.sock_record(HookId::StateBackup, who(20), sock);
            rig.feed(&Record::Unlisten(again));
            assert_eq!(rig.reported().len(), 1, "known: {known}, repeated: {repeated}");
        }
    }
}
