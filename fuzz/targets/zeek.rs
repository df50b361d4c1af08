//! Files to be replayed: logs of Zeek in both forms, and recordings.

#![no_main]

use conn_user::event::read::Reader;
use conn_user::replay::file::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(input) = Input::of_text("text".to_owned(), bytes.to_vec()) else { return };
    match input {
        Input::Zeek(mut log) => while let Ok(Some(_)) = log.read() {},
        Input::Events(mut recording) => {
            let mut reader = Reader::default();
            while let Ok(Some(_)) = recording.next(&mut reader) {}
        }
    }
});
