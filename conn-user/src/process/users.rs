//! Names of users, from this machine's `/etc/passwd`. Users of a directory service have none here.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// A longer file is read as far as this.
const LONGEST: usize = 8 << 20;

/// The users of a passwd(5) file, read again when it changed.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    read: Option<Stamp>,
    names: HashMap<u32, Arc<[u8]>>,
}

/// Reports one state of a file from another: tools replace the file, so its inode changes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Default for Users {
    fn default() -> Self {
        Self::at("/etc/passwd")
    }
}

impl Users {
    /// The users of this file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: None, names: HashMap::new() }
    }

    /// The name of a user id; of several the first. `None`: it has none, or the file cannot be read.
    pub fn name(&mut self, uid: u32) -> Option<Arc<[u8]>> {
        let stamp = fs::metadata(&self.path).ok().map(|meta| Stamp {
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
        });
        // A file that is gone for a moment, while it is replaced, takes no names away.
        if stamp.is_some() && stamp != self.read {
            self.read = stamp;
            if let Ok(text) = fs::read(&self.path) {
                self.names = parse(&text[..text.len().min(LONGEST)]);
            }
        }
        self.names.get(&uid).cloned()
    }
}

fn parse(text: &[u8]) -> HashMap<u32, Arc<[u8]>> {
    let mut names = HashMap::new();
    for line in text.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        let Some(uid) = str::from_utf8(uid).ok().and_then(|uid| uid.parse().ok()) else { continue };
        // `+` and `-` begin a line for NIS.
        if !name.is_empty() && !name.starts_with(b"#") && !name.starts_with(b"+") && !name.starts_with(b"-") {
            names.entry(uid).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd() {
        let names = parse(
            b"root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/root:\n#a:x:5:\n+::::::\nno line\n:x:7:\nx:x:-1:\n\
              last:x:4294967295:1",
        );
        let mut all: Vec<_> = names.iter().map(|(uid, name)| (*uid, &name[..])).collect();
        all.sort_unstable();
        assert_eq!(all, [(0, &b"root"[..]), (u32::MAX, b"last")]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("conn-users-{}", std::process::id()));
        let mut users = Users::at(&path);
        assert_eq!(users.name(7), None);
        fs::write(&path, "one:x:7:7::/:\n").expect("a file");
        assert_eq!(users.name(7).as_deref(), Some(&b"one"[..]));
        fs::write(&path, "another:x:7:7::/:\n").expect("a file");
        assert_eq!(users.name(7).as_deref(), Some(&b"another"[..]));
        fs::remove_file(&path).expect("removed");
        assert_eq!(users.name(7).as_deref(), Some(&b"another"[..]), "it may be gone for a moment");
    }
}
