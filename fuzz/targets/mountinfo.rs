//! `/proc/PID/mountinfo`.

#![no_main]

use conn_user::host::mounts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = mounts::all(bytes).count();
});
