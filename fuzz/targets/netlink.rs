//! A buffer of a dump of sockets.

#![no_main]

use conn_user::host::sockdiag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for mptcp in [false, true] {
        let _ = sockdiag::read_buffer(bytes, mptcp);
    }
});
