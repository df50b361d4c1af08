//! Units of a text, for tests.

use std::path::Path;
use std::sync::Arc;

use crate::process::unit_files::{Unit, syntax};

/// A unit whose `[Service]` has these lines; they may begin another section.
pub(super) fn unit(name: &str, text: &str) -> Unit {
    let path: Arc<Path> = Path::new("/lib/systemd/system").join(name).into();
    let settings = syntax::settings(&format!("[Service]\n{text}\n"));
    let settings = settings.into_iter().map(|one| (Arc::clone(&path), one)).collect();
    Unit { name: name.to_owned(), settings, unread: Vec::new() }
}
