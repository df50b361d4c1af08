//! Lists that were saved with `conn list --json`.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read as _};
use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;
use thiserror::Error;

use super::model::SCHEMA_VERSION;
use super::wire::{Connection, Holder, List, Listener, Note, Socket};
use crate::event::escape;
use crate::event::names::{self, Named};
use crate::flow::model::{Direction, Transport};
use crate::flow::snapshot::model::TcpState;

/// A longer line is none of ours: arguments are bounded, and so is what a socket's line holds of each process.
const LONGEST_LINE: u64 = 64 << 20;

/// A saved list.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// What its first line says.
    pub about: About,
    /// The sockets.
    pub sockets: Vec<SavedSocket>,
    /// What could not be seen.
    pub notes: Vec<String>,
}

/// What a list says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Time of the list, RFC 3339.
    pub ts: String,
    /// Host name.
    pub host: String,
    /// Id of the boot.
    pub boot_id: String,
    /// Which sockets were asked for.
    pub selection: String,
    /// The filter.
    pub filter: String,
    sockets: u64,
    notes: u64,
}

/// A socket of a saved list: what two lists are compared by, and the line itself.
#[derive(Clone, Debug)]
pub struct SavedSocket {
    /// The line, a JSON object.
    pub json: String,
    /// The socket's cookie, as it is written.
    pub cookie: Option<String>,
    /// TCP state.
    pub state: TcpState,
    /// Direction; `None`: a listener.
    pub direction: Option<Direction>,
    /// Transport.
    pub transport: Transport,
    /// Local end; port 0: none.
    pub local: SocketAddr,
    /// Remote end; of a listener unspecified.
    pub remote: SocketAddr,
    /// The interface that it is bound to.
    pub device: Option<String>,
    /// Network namespace.
    pub netns: u32,
    /// The holders, the oldest first.
    pub holders: Vec<SavedHolder>,
}

/// A holder of a socket in a saved list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SavedHolder {
    /// Process id.
    pub pid: u32,
    /// What names the process for good; `None`: it was gone.
    pub id: Option<String>,
    /// Its name.
    pub comm: Option<Vec<u8>>,
    /// Its executable.
    pub exe: Option<Vec<u8>>,
    /// The executable has no name any more.
    pub exe_deleted: bool,
    /// Real user id.
    pub uid: Option<u32>,
    /// Its name.
    pub user: Option<Vec<u8>>,
    /// Its systemd unit, as it is written in the list.
    pub unit: Option<String>,
    /// Its arguments, as they are written in the list.
    pub args: Vec<String>,
}

/// Why a file cannot be read as a list.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It cannot be read.
    #[error("line {line}: {error}")]
    Io {
        /// Where.
        line: usize,
        /// What went wrong.
        error: io::Error,
    },
    /// It is empty.
    #[error("the file is empty; save a list with `conn list --json > FILE`")]
    Empty,
    /// A line is not what it should be.
    #[error("line {line}: {what}; a list is what `conn list --json > FILE` writes")]
    Line {
        /// Where.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A line is missing.
    #[error(
        "the list is cut: its first line announces {announced} {what}, and {found} follow; save it again"
    )]
    Cut {
        /// Sockets or notes.
        what: &'static str,
        /// How many there should be.
        announced: u64,
        /// How many there are.
        found: u64,
    },
}

/// A line as it is written.
#[derive(Deserialize)]
struct Head {
    schema: u32,
    kind: String,
}

impl Saved {
    /// Reads a list.
    ///
    /// # Errors
    /// The first line that is not of a list, or that lines are missing.
    pub fn read(mut from: impl BufRead) -> Result<Self, SavedError> {
        let mut saved = Self::default();
        let mut kinds = BTreeSet::new();
        let (mut text, mut line) = (Vec::new(), 0);
        loop {
            line += 1;
            text.clear();
            let read = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
            if read.map_err(|error| SavedError::Io { line, error })? == 0 {
                break;
            }
            let text = text.trim_ascii_end();
            if text.len() as u64 + 1 >= LONGEST_LINE {
                return Err(SavedError::Line { line, what: "it is too long".to_owned() });
            }
            saved.line(text, line, &mut kinds).map_err(|what| SavedError::Line { line, what })?;
        }
        if !kinds.contains("list") {
            return Err(SavedError::Empty);
        }
        saved.whole()?;
        Ok(saved)
    }

    fn line(&mut self, text: &[u8], line: usize, kinds: &mut BTreeSet<String>) -> Result<(), String> {
        let text = str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
        let head: Head = parse(text)?;
        if head.schema != SCHEMA_VERSION {
            return Err(format!(
                "it is of version {} of the schema, and this conn reads version {SCHEMA_VERSION}",
                head.schema
            ));
        }
        if (head.kind == "list") != (line == 1) {
            return Err(if line == 1 {
                format!("its kind is {}, and a list begins with a line of the kind list", quoted(&head.kind))
            } else {
                "another list begins here".to_owned()
            });
        }
        match head.kind.as_str() {
            "list" => self.about = About::of(&parse(text)?),
            "note" => self.notes.push(parse::<Note<'_>>(text)?.text.to_string()),
            "connection" => {
                let connection: Connection<'_> = parse(text)?;
                let dir = named("dir", &connection.dir)?;
                let remote = SocketAddr::new(connection.raddr, connection.rport.unwrap_or(0));
                self.sockets.push(SavedSocket::of(text, &connection.socket, Some(dir), remote)?);
            }
            "listener" => {
                let listener: Listener<'_> = parse(text)?;
                let remote = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                self.sockets.push(SavedSocket::of(text, &listener.socket, None, remote)?);
            }
            // A later version may have other lines.
            _ => {}
        }
        kinds.insert(head.kind);
        Ok(())
    }

    fn whole(&self) -> Result<(), SavedError> {
        for (what, announced, found) in [
            ("sockets", self.about.sockets, self.sockets.len() as u64),
            ("notes", self.about.notes, self.notes.len() as u64),
        ] {
            if announced != found {
                return Err(SavedError::Cut { what, announced, found });
            }
        }
        Ok(())
    }
}

/// serde's own message ends with a place in this line's text, which is reported as line and column of the file.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        format!("column {}: {}", error.column(), escape::string(what.as_bytes()))
    })
}

fn quoted(text: &str) -> String {
    format!("`{}`", escape::string(text.chars().take(40).collect::<String>().as_bytes()))
}

fn named<T: Named>(key: &str, value: &str) -> Result<T, String> {
    names::from_name(value).ok_or_else(|| format!("{} is not a value of `{key}`", quoted(value)))
}

impl About {
    fn of(list: &List<'_>) -> Self {
        Self {
            ts: list.head.ts.to_string(),
            host: list.head.host.to_string(),
            boot_id: list.head.boot_id.to_string(),
            selection: list.selection.to_string(),
            filter: list.filter.to_string(),
            sockets: list.sockets,
            notes: list.notes,
        }
    }
}

impl SavedSocket {
    fn of(
        json: &str,
        socket: &Socket<'_>,
        direction: Option<Direction>,
        remote: SocketAddr,
    ) -> Result<Self, String> {
        Ok(Self {
            json: json.to_owned(),
            state: named("state", &socket.state)?,
            direction,
            transport: named("proto", &socket.proto)?,
            local: SocketAddr::new(socket.laddr, socket.lport.unwrap_or(0)),
            remote,
            device: socket.device.as_ref().map(ToString::to_string),
            netns: socket.netns,
            cookie: socket.cookie.as_ref().map(ToString::to_string),
            holders: socket.holders.iter().map(SavedHolder::of).collect(),
        })
    }
}

impl SavedHolder {
    fn of(holder: &Holder<'_>) -> Self {
        let bytes = |text: &str, escaped| if escaped { escape::undo(text) } else { text.as_bytes().to_vec() };
        let process = holder.process.as_ref();
        Self {
            pid: holder.pid,
            comm: process.map(|process| bytes(&process.comm, process.comm_escaped)),
            exe: process
                .and_then(|process| process.exe.as_deref().map(|exe| bytes(exe, process.exe_escaped))),
            exe_deleted: process.is_some_and(|process| process.exe_deleted),
            user: process
                .and_then(|process| process.user.as_deref().map(|user| bytes(user, process.user_escaped))),
            uid: process.map(|process| process.uid),
            unit: process.and_then(|process| process.unit.as_ref()?.as_deref().map(str::to_owned)),
            args: process.iter().flat_map(|process| &process.args).map(ToString::to_string).collect(),
            id: process.map(|process| process.id.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sockets::samples;

    fn error(text: &str) -> String {
        Saved::read(text.as_bytes()).expect_err("no list").to_string()
    }

    #[test]
    fn a_list_reads_back() {
        let (listing, saved) = (samples::listing(), Saved::read(samples::json().as_bytes()).expect("a list"));
        assert_eq!(saved.about.selection, "all");
        assert_eq!(saved.notes.len(), listing.notes.len());
        for (saved, listed) in saved.sockets.iter().zip(&listing.sockets) {
            let socket = &listed.socket;
            assert_eq!((saved.local, saved.state), (socket.local, socket.state));
            assert_eq!(saved.direction, socket.direction);
            assert_eq!(saved.cookie, socket.cookie.map(|cookie| format!("{cookie:x}")));
            let pids: Vec<u32> = listed.holders.iter().map(|holder| holder.pid.0).collect();
            assert_eq!(saved.holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), pids);
        }
        let hostile = &saved.sockets[7].holders[0];
        assert_eq!(hostile.comm.as_deref(), Some(&b"\x1b[2J\n\xff\\"[..]));
        assert_eq!(saved.sockets[7].holders[1].comm, None);
    }

    #[test]
    fn errors_name_line_and_remedy() {
        let good = samples::json();
        let mut lines: Vec<&str> = good.lines().collect();
        assert!(error("").contains("conn list --json"));
        assert!(error("LISTEN 0 128\n").starts_with("line 1: column 1: expected value"));
        let event = r#"{"schema":1,"kind":"connect"}"#;
        assert!(error(event).contains("its kind is `connect`"), "{}", error(event));
        assert!(error(&good.replacen("\"schema\":1", "\"schema\":2", 1)).contains("version 2"));
        assert!(
            error(&good.replace("close_wait", "half\\u001b")).contains("line 10: `half\\x1b` is not a value")
        );
        assert!(error(&(good.clone() + &good)).contains("line 12: another list begins here"));
        lines.pop();
        assert!(error(&lines.join("\n")).contains("announces 9 sockets, and 8 follow"));
        let cut = &good[..good.len() - 40];
        assert!(error(cut).starts_with("line 11: column"), "{}", error(cut));
    }

    #[test]
    fn lines_of_a_later_version_are_passed_over() {
        let later = samples::json() + "{\"schema\":1,\"kind\":\"invented\"}\n";
        assert!(Saved::read(later.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(at in 0..5_000_usize, byte in any::<u8>()) {
            let mut bytes = samples::json().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Saved::read(&bytes[..]);
            let _ = Saved::read(&bytes[..at]);
        }
    }
}
