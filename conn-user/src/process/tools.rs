//! This host's own shells, interpreters and network tools: a copy of one under another name is known by its content.
//!
//! Only a file that has the size of one of them, and none of its names, is hashed; and of them only those of that size. So
//! nothing is read in the ordinary case.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::{FileState, SIZE_MAX};
use super::file_stat::FileStat;
use crate::clock::boot_now;
use crate::units::{BootNs, DurationNs};

/// Where they are.
const FOLDERS: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];
/// Programs that are many commands: their content does not say which.
const MULTI_CALL: [&[u8]; 4] = [b"busybox", b"toybox", b"coreutils", b"sbase-box"];
/// How often it is looked whether the directories changed.
const EVERY: DurationNs = DurationNs(1_000_000_000);

/// A program of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    /// The name that a copy of it gets.
    pub(super) name: Arc<str>,
    /// All names that lead to it.
    names: Vec<Box<[u8]>>,
    /// Its path, without links.
    pub(super) path: Box<[u8]>,
    pub(super) state: FileState,
}

/// The programs with the names that were asked for.
#[derive(Debug, Default)]
pub(super) struct Tools {
    names: Box<[Box<str>]>,
    folders: Box<[PathBuf]>,
    /// The directories' attributes when the programs were looked for.
    seen: Vec<Option<FileStat>>,
    checked: BootNs,
    all: Vec<Tool>,
}

impl Tools {
    /// Returns those of this host with these names.
    pub(super) fn of_host(names: &[&str]) -> Self {
        Self::of(FOLDERS.iter().map(PathBuf::from).collect(), names)
    }

    pub(super) fn of(folders: Box<[PathBuf]>, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).into()).collect();
        let mut tools = Self { names, folders, ..Self::default() };
        tools.refresh(boot_now());
        tools
    }

    /// Returns the tools that the file in this state, at this path, may be a copy of: they have its size and not its name.
    pub(super) fn candidates(&mut self, state: &FileState, path: &[u8]) -> Vec<Tool> {
        let now = boot_now();
        if !self.names.is_empty() && now.since(self.checked) >= EVERY {
            self.refresh(now);
        }
        let base = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let fits =
            |tool: &&Tool| tool.state.size == state.size && !tool.names.iter().any(|name| **name == *base);
        self.all.iter().filter(fits).cloned().collect()
    }

    /// Looks for the programs if a directory has changed, as an upgrade does.
    fn refresh(&mut self, now: BootNs) {
        self.checked = now;
        let seen: Vec<_> = self.folders.iter().map(|folder| FileStat::at_link(folder).ok()).collect();
        if seen != self.seen {
            self.seen = seen;
            self.all = find(&self.folders, &self.names);
        }
    }
}

fn find(folders: &[PathBuf], names: &[Box<str>]) -> Vec<Tool> {
    let mut all: Vec<Tool> = Vec::new();
    let paths = folders.iter().flat_map(|folder| names.iter().map(move |name| (folder.join(&**name), name)));
    for (path, name) in paths {
        let Ok(stat) = FileStat::at_link(&path) else { continue };
        let state = FileState::of(&stat);
        if !stat.is_file() || state.size == 0 || state.size > SIZE_MAX {
            continue;
        }
        if let Some(tool) = all.iter_mut().find(|tool| tool.state == state) {
            tool.names.push(name.as_bytes().into());
            continue;
        }
        let Ok(real) = fs::canonicalize(&path) else { continue };
        let base = base_name(&real);
        if MULTI_CALL.contains(&&*base) {
            continue;
        }
        let link: Box<[u8]> = name.as_bytes().into();
        let known = names.iter().find(|name| *name.as_bytes() == *base).unwrap_or(name);
        let name: Arc<str> = (**known).into();
        let own = [link, base].into();
        all.push(Tool { name, names: own, path: real.as_os_str().as_bytes().into(), state });
    }
    all
}

fn base_name(path: &Path) -> Box<[u8]> {
    path.file_name().unwrap_or_default().as_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_copy_is_known_by_its_size_and_the_original_by_its_names() {
        let root = std::env::temp_dir().join(format!("conn-tools-{}", std::process::id()));
        let bin = root.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        fs::write(bin.join("dash"), "dash").expect("a file");
        symlink("dash", bin.join("sh")).expect("a link");
        fs::write(bin.join("socat1"), "socat!").expect("a file");
        symlink("socat1", bin.join("socat")).expect("a link");
        fs::write(bin.join("busybox"), "busybox").expect("a file");
        symlink("busybox", bin.join("ash")).expect("a link");
        let mut tools = Tools::of([bin.clone()].into(), &["sh", "dash", "ash", "socat", "zsh"]);
        let mut of = |content: &str, path: &str| {
            let file = root.join("file");
            fs::write(&file, content).expect("a file");
            let state = FileState::of(&FileStat::at_link(&file).expect("stat"));
            let names = tools.candidates(&state, path.as_bytes());
            names.iter().map(|tool| tool.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("DASH", "/tmp/x"), ["dash"]);
        assert_eq!(of("dash", "/tmp/sh"), [""; 0], "its name says it");
        assert_eq!(of("socat?", "/opt/agent"), ["socat"]);
        assert_eq!(of("socat!", "/usr/bin/socat1"), [""; 0]);
        assert_eq!(of("busybox", "/tmp/x"), [""; 0], "a program of many commands");
        assert_eq!(of("other size", "/tmp/x"), [""; 0]);
        fs::write(bin.join("zsh"), "other size").expect("a file");
        tools.refresh(BootNs(0));
        let file = FileState::of(&FileStat::at_link(&root.join("file")).expect("stat"));
        assert_eq!(tools.candidates(&file, b"/tmp/x").len(), 1, "installed later");
        fs::remove_dir_all(root).expect("removed");
    }
}
