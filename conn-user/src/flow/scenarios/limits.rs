//! Limits, and records that nobody understands.

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::Sock;

use super::client;
use crate::flow::how::state::{FIN_WAIT1, SYN_SENT};
use crate::flow::limits::FlowLimits;
use crate::flow::testing::{Backend, Rig, who};

#[test]
fn full_table_drops_the_oldest() {
    let mut rig =
        Rig::with(Backend::Fentry, FlowLimits { connections: 3, ended: 2, ..FlowLimits::default() });
    for key in 1..=5 {
        rig.connects(10, Sock { key, ..client() });
        rig.established(SYN_SENT, Sock { key, ..client() });
    }
    let stats = rig.flows.stats();
    assert_eq!((stats.live, stats.evicted), (3, 2));
    rig.reported();
    for key in 1..=5 {
        rig.closes(10, FIN_WAIT1, Sock { key, ..client() });
    }
    let reported = rig.reported();
    assert_eq!(reported.len(), 5);
    assert_eq!(reported.iter().filter(|line| line.contains(" late ")).count(), 2);
    let stats = rig.flows.stats();
    assert_eq!((stats.live, stats.ended, rig.flows.connections.store.indexed()), (0, 2, 2));
}

#[test]
fn unknown_hook_is_counted() {
    let mut rig = Rig::new(Backend::Fentry);
    let mut record = rig.sock_record(HookId::FentryTcpConnect, who(10), client());
    record.header.hook = 999;
    rig.feed(&Record::Connect(record));
    assert!(rig.reported().is_empty());
    assert_eq!(rig.flows.stats().ignored, 1);
}
