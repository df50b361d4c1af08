//! The decoder of the ring's records.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = conn_common::decode::header(bytes);
    let _ = conn_common::decode::record(bytes);
});
