//! The files of the default rules and of their tests.

/// The files of the default rules, by name.
pub const FILES: [(&str, &str); 6] = [
    ("lists.toml", include_str!("lists.toml")),
    ("path.toml", include_str!("path.toml")),
    ("process.toml", include_str!("process.toml")),
    ("server.toml", include_str!("server.toml")),
    ("long.toml", include_str!("long.toml")),
    ("missing.toml", include_str!("missing.toml")),
];

/// The files of their tests, by name.
pub const TESTS: [(&str, &str); 4] = [
    ("tests/path.toml", include_str!("tests/path.toml")),
    ("tests/process.toml", include_str!("tests/process.toml")),
    ("tests/server.toml", include_str!("tests/server.toml")),
    ("tests/long.toml", include_str!("tests/long.toml")),
];
