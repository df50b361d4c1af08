//! Filters, of events and of sockets.

#![no_main]

use conn_user::filter::{Filter, Names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for filter in [Filter::new(text), Filter::for_sockets(text, Names::builtin())] {
        if let Err(error) = filter {
            let _ = error.to_string();
        }
    }
});
