//! Reads `process.NAME = { … }` of a test into a [`TestProcess`].

use std::collections::BTreeMap;

use super::{About, Reader, about};
use crate::event::names::{self, ExeFlag, Named};
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::process::identity::{Sha256, Tty};
use crate::rule_test::model::TestProcess;
use crate::rules::file::{Field, Node, Problem, Value, find};

/// Keys of a process.
pub(super) const PROCESS_KEYS: [About; 17] = [
    about("exe", "a path", "its executable; without it `/usr/bin/NAME`. `/memfd:NAME` is a memfd"),
    about("comm", "text", "its own name; without it the last part of `exe`"),
    about("args", "texts", "its arguments, the first is its name"),
    about("args_truncated", "true", "there are more arguments than are known"),
    about("user", "a name", "its user; without it `root`"),
    about("uid", "a number", "its user's id; without it 0 of `root`, 1000 of others"),
    about("login_uid", "a number", "the user id it logged in with, which sudo and su keep; without it none"),
    about("unit", "a unit", "its systemd unit, such as `nginx.service`"),
    about("container", "an id or a name", "its container"),
    about(
        "parent",
        "a process",
        "who started it: a process of this test, a path, or just a name; without it process 1",
    ),
    about("cwd", "a path", "its working directory"),
    about("tty", "a terminal", "such as `pts/3`; without it none"),
    about(
        "exe_flag",
        "flags",
        "`deleted`, `writable`, `user_writable`, `foreign`, `conn`: without it the file is the host's own, but for a memfd's and a container's",
    ),
    about(
        "copy_of",
        "a name",
        "the shell, interpreter or network tool of this host whose content its executable has",
    ),
    about("sha256", "64 digits", "the hash of its executable"),
    about(
        "replaced",
        "`no`, `other`, `upgraded` or `gone`",
        "what the path of its executable leads to; known soon after it used the network",
    ),
    about("exists", "true", "it was there before conn began; others start when a line first names them"),
];

impl Reader<'_> {
    pub(super) fn processes(&mut self, node: &Node) -> BTreeMap<String, TestProcess> {
        let mut processes = BTreeMap::new();
        let Value::Table(fields) = &node.value else {
            let takes = "a table for each: process.bash = { exe = \"/usr/bin/bash\" }";
            self.push(node.wrong("process", takes));
            return processes;
        };
        for field in fields {
            if field.name.is_empty() || field.name == "?" || field.name.contains(char::is_whitespace) {
                let help = "a name without blanks, by which lines name the process";
                let message = format!("{} is no name of a process", quoted(&field.name));
                self.push(Problem::new(&field.at, message, help));
            }
            if let Some(spec) = self.process(field) {
                processes.insert(field.name.clone(), spec);
            }
        }
        for field in fields {
            if is_own_ancestor(&field.name, &processes) {
                let message = format!("{} is its own ancestor", quoted(&field.name));
                self.push(Problem::new(&field.at, message, "change the `parent` of one of them"));
            }
        }
        processes
    }

    fn process(&mut self, field: &Field) -> Option<TestProcess> {
        let Value::Table(fields) = &field.node.value else {
            let takes = "a table: { exe = \"/usr/bin/bash\", user = \"www-data\" }";
            self.push(field.node.wrong(&field.name, takes));
            return None;
        };
        self.keys(fields, &PROCESS_KEYS, "a process");
        let mut text = |key: &str| {
            let field = find(fields, key)?;
            self.keep(field.node.text(key, "a text in quotes")).map(str::to_owned)
        };
        let exe = text("exe").or_else(|| Some(format!("/usr/bin/{}", field.name)));
        let (comm, user, unit, container) = (text("comm"), text("user"), text("unit"), text("container"));
        let copy_of = text("copy_of");
        let (parent, cwd, tty) = (text("parent"), text("cwd"), text("tty"));
        let replaced = find(fields, "replaced").and_then(|field| self.named(field, "replaced"));
        let sha256 = find(fields, "sha256").and_then(|field| self.sha256(&field.node));
        let uid = find(fields, "uid").and_then(|field| self.uid(&field.node));
        let login_uid = find(fields, "login_uid").and_then(|field| self.uid(&field.node));
        let args_truncated =
            find(fields, "args_truncated").and_then(|field| self.keep(field.node.bool("args_truncated")));
        let exists = find(fields, "exists").and_then(|field| self.keep(field.node.bool("exists")));
        let args = find(fields, "args").map(|field| {
            let takes = "an array of texts, e.g. [\"sh\", \"-i\"]";
            let nodes = self.keep(field.node.array("args", takes)).unwrap_or_default();
            nodes.iter().filter_map(|node| self.keep(node.text("args", takes)).map(str::to_owned)).collect()
        });
        let (mut deleted, mut writable, mut user_writable, mut conn, mut foreign) =
            (false, false, false, false, container.is_some());
        if let Some(field) = find(fields, "exe_flag") {
            for node in field.node.one_or_more() {
                let field = Field { node: node.clone(), ..field.clone() };
                match self.named(&field, "exe_flag") {
                    Some(ExeFlag::Deleted) => deleted = true,
                    Some(ExeFlag::Writable) => writable = true,
                    Some(ExeFlag::UserWritable) => user_writable = true,
                    Some(ExeFlag::Host) => foreign = false,
                    Some(ExeFlag::Foreign) => foreign = true,
                    Some(ExeFlag::Conn) => conn = true,
                    Some(ExeFlag::Memfd) => {
                        let help = "write exe = \"/memfd:NAME\"";
                        self.push(Problem::new(&node.at, "a memfd is one by its path", help));
                    }
                    None => {}
                }
            }
        }
        let is_memfd = exe.as_deref().is_some_and(|exe| exe.starts_with("/memfd:"));
        Some(TestProcess {
            comm,
            args,
            args_truncated: args_truncated.unwrap_or(false),
            user,
            uid,
            login_uid,
            unit,
            container,
            parent,
            cwd,
            tty: tty.map_or(Tty::None, |tty| Tty::Named(tty.into())),
            deleted: deleted || is_memfd,
            copy_of,
            writable,
            user_writable,
            foreign: foreign || is_memfd,
            conn,
            sha256,
            replaced,
            exists: exists.unwrap_or(false),
            exe,
        })
    }

    fn named<T: Named>(&mut self, field: &Field, key: &str) -> Option<T> {
        let known = names::all::<T>();
        let text = self.keep(field.node.text(key, &format!("one of {}", known.join(", "))))?;
        let found = names::from_name(text);
        if found.is_none() {
            let near = nearest(text, known.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            let help = format!("{near}`{key}` is one of {}", known.join(", "));
            self.push(Problem::new(&field.node.at, format!("unknown {}", quoted(text)), help));
        }
        found
    }

    fn uid(&mut self, node: &Node) -> Option<u32> {
        let uid = match node.value {
            Value::Integer(Some(uid)) => u32::try_from(uid).ok(),
            _ => None,
        };
        if uid.is_none() {
            self.push(Problem::new(&node.at, "this is no user id", "write a whole number from 0"));
        }
        uid
    }

    fn sha256(&mut self, node: &Node) -> Option<Sha256> {
        let text = self.keep(node.text("sha256", "64 hexadecimal digits in quotes"))?;
        let digit = |at: usize| char::from(*text.as_bytes().get(at)?).to_digit(16);
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            match (digit(2 * at), digit(2 * at + 1)) {
                (Some(high), Some(low)) if text.len() == 64 => *byte = (high << 4 | low) as u8,
                _ => {
                    let help = "write the 64 hexadecimal digits that sha256sum prints";
                    self.push(Problem::new(&node.at, "this is no SHA-256", help));
                    return None;
                }
            }
        }
        Some(hash)
    }
}

/// Whether following parents leads back to it.
fn is_own_ancestor(name: &str, processes: &BTreeMap<String, TestProcess>) -> bool {
    let parent = |name: &str| processes.get(name).and_then(|spec| spec.parent.as_deref());
    let mut above = parent(name);
    for _ in 0..processes.len() {
        match above {
            Some(found) if found == name => return true,
            Some(found) => above = parent(found),
            None => return false,
        }
    }
    false
}
