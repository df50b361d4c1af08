//! Rule files and their tests.

#![no_main]

use conn_user::rule_test;
use conn_user::rules::host::Host;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let suite = rule_test::check_text(text, &Host::default());
    if let Err(errors) = suite.checked.rules {
        let _ = errors.to_string();
    }
});
