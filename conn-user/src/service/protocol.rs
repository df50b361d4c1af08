//! Lines of JSON: a request, then an answer and whatever it announces. Reference: `docs/socket.md`.
//!
//! Every line of the protocol itself begins with the key `conn`, which is its version; lines of events and lists have their own form.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::filter::error::lines;

/// Version of the protocol. It grows when a key changes its meaning or a request goes away; a new request or key does not change it.
pub const VERSION: u32 = 1;
/// Longest request, with its newline.
pub const REQUEST_MAX: usize = 64 << 10;
/// What each line of the protocol begins with.
pub const MARK: &str = "{\"conn\":";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Events as they happen, as lines of `conn tail --json`.
    Tail(TailRequest),
    /// The sockets, as the lines of `conn list --json`.
    List(ListRequest),
    /// How the agent is.
    Status,
    /// That the history commits what was reported so far.
    Sync,
    /// What the active rules were made from.
    Rules,
    /// The lines of an alert.
    Alert {
        /// `a7`, its id in full, or the number of one of its lines.
        id: String,
    },
}

impl Request {
    /// Its name, as it is written.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tail(_) => "tail",
            Self::List(_) => "list",
            Self::Status => "status",
            Self::Sync => "sync",
            Self::Rules => "rules",
            Self::Alert { .. } => "alert",
        }
    }
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TailRequest {
    /// A filter; its lists and zones are those of the agent's rules.
    pub filter: String,
    /// Kinds; without it all but exec and exit, which come if the filter asks for them. Gaps always come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// Write each process out once, and then refer to it by its id.
    pub compact: bool,
    /// Have the history commit what comes before: the answer has its folder.
    pub sync: bool,
}

/// Which sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListRequest {
    /// `connected`, `listening` or `all`.
    pub selection: String,
    /// A filter; its lists and zones are those of the agent's rules.
    pub filter: String,
    /// As `conn list --sort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// Wait for what takes long to find out, such as hashes.
    pub facts: bool,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of its conn.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// The run, as ids of connections and alerts begin: `752b100f-539cace2690`.
    pub run: String,
}

/// The answer to `tail`; events follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Who answers.
    pub agent: About,
    /// The number of the last event before those that follow.
    pub seq: u64,
    /// The history's folder: it has what was reported up to `seq`. Only where it was asked to commit.
    #[serde(default)]
    pub history: Option<String>,
}

/// The answer to `list`; the list follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Who answers.
    pub agent: About,
}

/// The answer to `sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// The history's folder; `None`: the agent has none.
    pub history: Option<String>,
}

/// The answer to `alert`; its lines follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertFound {
    /// How many lines follow: the steps of the alert that the agent remembers.
    pub lines: usize,
}

/// What rules were made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rules", rename_all = "snake_case")]
pub enum RuleSources {
    /// None.
    None,
    /// The built-in ones.
    #[default]
    Default,
    /// Files, in the order in which they were read.
    Files {
        /// The files.
        files: Vec<RuleFile>,
    },
}

/// A rule file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFile {
    /// Where it was read.
    pub path: String,
    /// What it said.
    pub text: String,
}

/// A line among events: nothing that happened on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// So many events that this client asked for were dropped here: it reads more slowly than they come.
    Dropped(u64),
    /// Nothing more comes, for this reason.
    End(String),
}

/// Why a line is not of the protocol.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// It is not of the form.
    #[error("not a line of the protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("version {0} of the protocol; this conn ({own}) has version {VERSION}: use one conn for agent and client", own = env!("CARGO_PKG_VERSION"))]
    Version(u32),
    /// The agent refuses.
    #[error("{}", lines(.0))]
    Refused(String),
}

#[derive(Serialize)]
struct Line<T> {
    conn: u32,
    #[serde(flatten)]
    what: T,
}

#[derive(Deserialize)]
struct Version {
    conn: u32,
}

fn write<T: Serialize>(what: T, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing to memory does not fail, and every key is text.
    if serde_json::to_writer(&mut *out, &Line { conn: VERSION, what }).is_err() {
        out.truncate(start);
    }
    out.push(b'\n');
}

fn check(line: &str) -> Result<(), ProtocolError> {
    match serde_json::from_str(line)? {
        Version { conn: VERSION } => Ok(()),
        Version { conn } => Err(ProtocolError::Version(conn)),
    }
}

/// Appends a request as a line.
pub fn write_request(request: &Request, out: &mut Vec<u8>) {
    write(request, out);
}

/// Reads a request.
///
/// # Errors
/// When it is none of this version.
pub fn read_request(line: &str) -> Result<Request, ProtocolError> {
    check(line)?;
    Ok(serde_json::from_str(line)?)
}

/// Appends an answer as a line.
pub fn write_ok(ok: &impl Serialize, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Ok<'a, T> {
        ok: &'a T,
    }
    write(Ok { ok }, out);
}

/// Appends, as a line, why there is no answer.
pub fn write_error(error: &str, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    write(Error { error }, out);
}

/// Appends a notice as a line.
pub fn write_notice(notice: &Notice, out: &mut Vec<u8>) {
    write(notice, out);
}

/// Reads an answer.
///
/// # Errors
/// When it is none, or the agent refuses.
pub fn read_answer<T: DeserializeOwned>(line: &str) -> Result<T, ProtocolError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, default)]
        ok: Option<&'a RawValue>,
        #[serde(borrow, default)]
        error: Option<Cow<'a, str>>,
    }
    check(line)?;
    let answer: Answer<'_> = serde_json::from_str(line)?;
    if let Some(error) = answer.error {
        return Err(ProtocolError::Refused(error.into_owned()));
    }
    Ok(serde_json::from_str(answer.ok.map_or("null", RawValue::get))?)
}

/// Reads a notice; `None`: the line is an event, or a notice of a later version.
pub fn read_notice(line: &str) -> Option<Notice> {
    #[derive(Deserialize)]
    struct Keys {
        #[serde(default)]
        dropped: Option<u64>,
        #[serde(default)]
        end: Option<String>,
    }
    let keys: Keys = line.starts_with(MARK).then(|| serde_json::from_str(line).ok()).flatten()?;
    keys.dropped.map(Notice::Dropped).or(keys.end.map(Notice::End))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn requests_are_lines_that_read_back() {
        let tail = TailRequest { filter: "dport:443".to_owned(), sync: true, ..TailRequest::default() };
        let line = text(|out| write_request(&Request::Tail(tail.clone()), out));
        assert_eq!(
            line,
            "{\"conn\":1,\"request\":\"tail\",\"filter\":\"dport:443\",\"compact\":false,\"sync\":true}\n"
        );
        assert!(line.starts_with(MARK));
        assert_eq!(read_request(&line).expect("a request"), Request::Tail(tail));
        let short = read_request("{\"conn\":1,\"request\":\"tail\"}").expect("keys may be left out");
        assert_eq!(short, Request::Tail(TailRequest::default()));
        for request in [
            Request::List(ListRequest { selection: "all".to_owned(), ..ListRequest::default() }),
            Request::Status,
            Request::Sync,
            Request::Rules,
            Request::Alert { id: "a7".to_owned() },
        ] {
            let line = text(|out| write_request(&request, out));
            assert!(line.contains(&format!("\"request\":\"{}\"", request.name())), "{line}");
            assert_eq!(read_request(&line).expect("a request"), request);
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let error = |line: &str| read_request(line).expect_err(line).to_string();
        assert!(error("{\"conn\":2,\"request\":\"status\"}").contains("version 2 of the protocol"));
        assert!(error("{\"conn\":1,\"request\":\"shutdown\"}").contains("unknown variant `shutdown`"));
        assert!(error("GET / HTTP/1.1").contains("not a line of the protocol"));
        assert!(error("{\"request\":\"status\"}").contains("missing field `conn`"));
        assert!(
            read_request("{\"conn\":1,\"request\":\"status\",\"later\":1}").is_ok(),
            "a key of a later conn"
        );
    }

    #[test]
    fn answers_are_what_was_asked_for_or_the_reason_why_not() {
        let synced = Synced { history: Some("/var/lib/conn".to_owned()) };
        let line = text(|out| write_ok(&synced, out));
        assert_eq!(line, "{\"conn\":1,\"ok\":{\"history\":\"/var/lib/conn\"}}\n");
        assert_eq!(read_answer::<Synced>(&line).expect("an answer"), synced);
        let refused = text(|out| write_error("too many clients", out));
        assert!(
            matches!(read_answer::<Synced>(&refused), Err(ProtocolError::Refused(why)) if why == "too many clients")
        );
        let files = vec![RuleFile { path: "/etc/conn/a.toml".to_owned(), text: "x".to_owned() }];
        for sources in [RuleSources::None, RuleSources::Default, RuleSources::Files { files }] {
            let line = text(|out| write_ok(&sources, out));
            assert_eq!(read_answer::<RuleSources>(&line).expect("an answer"), sources);
        }
    }

    #[test]
    fn notices_are_distinct_from_events() {
        let line = text(|out| write_notice(&Notice::Dropped(12), out));
        assert_eq!(line, "{\"conn\":1,\"dropped\":12}\n");
        assert_eq!(read_notice(&line), Some(Notice::Dropped(12)));
        let end = Notice::End("the agent ends".to_owned());
        assert_eq!(read_notice(&text(|out| write_notice(&end, out))), Some(end));
        assert_eq!(read_notice("{\"schema\":1,\"seq\":4,\"dropped\":12}"), None);
    }
}
