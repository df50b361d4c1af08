//! Rule files and their tests.

#![no_main]

use conn_user::rules::file;
use conn_user::rules::host::Host;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let checked = file::check_text(text, &Host::default());
    if let Err(errors) = checked.rules {
        let _ = errors.to_string();
    }
});
