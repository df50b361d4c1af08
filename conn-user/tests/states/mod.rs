//! Waiting until the kernel has a socket in a state: softirqs may run a FIN and its acknowledgement later, on a thread of
//! their own.

use std::fs::File;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use conn_user::host::tcp_file::lines;

/// How long anything may take before the test fails: far more than a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until this is true.
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `/proc/net/tcp` of the thread's network namespace shows the socket with these ends in this state, a
/// `TCP_*` number (include/net/tcp_states.h).
pub(crate) fn wait_for_state(local: SocketAddr, remote: SocketAddr, state: u8) {
    wait_until(&format!("{local} {remote} in state {state}"), || {
        let mut found = false;
        let file = File::open("/proc/thread-self/net/tcp").expect("open");
        lines(file, |line| {
            found |= (line.local, line.remote, line.state) == (local, remote, state);
            !found
        })
        .expect("read");
        found
    });
}
