//! The reader of recordings, line after line: what it remembers is of earlier lines.

#![no_main]

use conn_user::event::read::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut reader = Reader::default();
    for line in text.lines() {
        let _ = reader.read(line);
        let _ = reader.take_news();
        let _ = reader.read_subject(line);
    }
});
