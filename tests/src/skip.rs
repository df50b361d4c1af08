//! Tests that this kernel cannot do: shown and counted, not passed over.

use std::fmt::Display;
use std::io::Write as _;
use std::panic::Location;

/// Reports that the calling test skips itself because of what the kernel lacks: a line `SKIPPED file:line: reason` on
/// standard error, which `cargo xtask test` counts. The test must then return.
#[track_caller]
pub fn skip(reason: impl Display) {
    let line = format!("SKIPPED {}: {reason}\n", place(Location::caller()));
    // The stream itself and not `eprintln`: what that macro prints in a test that passes is captured and dropped.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn place(at: &Location<'_>) -> String {
    format!("{}:{}", at.file(), at.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_caller() {
        #[track_caller]
        fn like_skip() -> String {
            place(Location::caller())
        }
        assert_eq!(like_skip(), format!("{}:{}", file!(), line!()));
    }
}
