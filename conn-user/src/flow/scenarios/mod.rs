//! The scenarios of kernel.md section 4, as the records that each backend writes for them: by what they test.

mod accepts;
mod address_keys;
mod backups;
mod closes;
mod failures;
mod interfaces;
mod life_cycle;
mod limits;
mod ports;

use conn_common::record::Sock;

use crate::flow::how::state::{SYN_RECV, SYN_SENT};
use crate::flow::testing::{Backend, Rig, sock};

pub(in crate::flow) const SERVER: &str = "127.0.0.1:80";
pub(in crate::flow) const CLIENT: &str = "127.0.0.1:40000";

pub(in crate::flow) fn client() -> Sock {
    sock(1, CLIENT, SERVER)
}

pub(in crate::flow) fn child() -> Sock {
    sock(2, SERVER, CLIENT)
}

pub(in crate::flow) fn listener() -> Sock {
    sock(3, "0.0.0.0:80", "0.0.0.0:0")
}

/// Runs a scenario on both backends, which have to report the same.
pub(in crate::flow) fn both(scenario: impl Fn(&mut Rig), expected: &[&str]) {
    for backend in [Backend::Fentry, Backend::Tracepoint] {
        let mut rig = Rig::new(backend);
        scenario(&mut rig);
        assert_eq!(rig.reported(), expected, "{backend:?}");
        assert_eq!(rig.flows.next_deadline(), None, "{backend:?}: nothing waits");
    }
}

/// Process 20 listens, 10 connects, 20 accepts. The listener is number 1, the client 2, the child 3.
pub(in crate::flow) fn open(rig: &mut Rig) {
    rig.listens(20, listener());
    rig.connects(10, client());
    rig.established(SYN_RECV, child());
    rig.established(SYN_SENT, client());
    rig.accepts(20, child());
    rig.reported();
}
