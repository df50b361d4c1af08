//! The agent's events, read from `conn tail --json` as any user would.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// One line of the agent. Only what the tests look at; `raw` has everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Schema version.
    pub schema: u32,
    /// Number in the run.
    pub seq: u64,
    /// RFC 3339.
    pub ts: String,
    /// Boot clock.
    #[serde(deserialize_with = "digits")]
    pub boot_ns: u64,
    /// Kind.
    pub kind: String,
    /// Connection or listener.
    pub conn_id: Option<String>,
    /// Community ID.
    pub community_id: Option<String>,
    /// Direction.
    pub dir: Option<String>,
    /// Transport.
    pub proto: Option<String>,
    /// Family.
    pub family: Option<String>,
    /// IPv4-mapped.
    pub mapped: Option<bool>,
    /// The kernel's own socket.
    pub kernel_socket: bool,
    /// Local address.
    pub laddr: Option<IpAddr>,
    /// Local port.
    pub lport: Option<u16>,
    /// Remote address.
    pub raddr: Option<IpAddr>,
    /// Remote port.
    pub rport: Option<u16>,
    /// The interface that the socket is bound to.
    pub device: Option<String>,
    /// Network namespace.
    pub netns: Option<u64>,
    /// `live`, `late`, `snapshot` or `resync`.
    pub source: Option<String>,
    /// Owner.
    pub process: Option<Process>,
    /// Thread that acted.
    pub tid: Option<u32>,
    /// How the owner is known.
    pub method: Option<String>,
    /// Which hook named it.
    pub hook: Option<String>,
    /// Why it is unknown.
    pub reason: Option<String>,
    /// Owner of the listener, for an accept.
    pub listener: Option<Actor>,
    /// Who closed.
    pub closer: Option<Actor>,
    /// How it ended.
    pub end: Option<String>,
    /// Error number.
    pub errno: Option<i32>,
    /// Its name.
    pub error: Option<String>,
    /// Time to the handshake.
    pub connect_ns: Option<u64>,
    /// Time to the failure.
    pub after_ns: Option<u64>,
    /// Life of the connection or listener.
    pub duration_ns: Option<u64>,
    /// Payload received.
    pub bytes_in: Option<u64>,
    /// Payload sent.
    pub bytes_out: Option<u64>,
    /// Age of what was there before the agent.
    pub age: Option<Age>,
    /// Records lost, for a gap.
    pub lost: Option<u64>,
    /// Why, for a gap.
    pub cause: Option<String>,
    /// The alert, for an alert.
    pub alert: Option<Alert>,
    /// The line as it came.
    #[serde(skip)]
    pub raw: String,
    /// `CLOCK_BOOTTIME` when it had been read.
    #[serde(skip)]
    pub read_ns: u64,
}

/// What an alert says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Alert {
    /// Names it through all its steps.
    pub id: String,
    /// Which step.
    pub phase: String,
    /// How bad.
    pub severity: String,
    /// Of which rule.
    pub rule: String,
    /// Whether all was seen of what it judges.
    pub coverage: Coverage,
}

/// Whether all was seen.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// `all`, or what not.
    pub seen: String,
    /// `except`: how many records were lost.
    pub lost: u64,
}

/// Bounds of an age.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Age {
    /// It is no younger.
    pub at_least_ns: u64,
    /// It is no older, where that is known.
    pub at_most_ns: Option<u64>,
}

/// A process in an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Names the process for good.
    pub id: String,
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: Option<u32>,
    /// Start of the leader.
    #[serde(deserialize_with = "digits")]
    pub start_ns: u64,
    /// Name.
    pub comm: String,
    /// Executable.
    pub exe: Option<String>,
    /// It has no name any more.
    pub exe_deleted: bool,
    /// Arguments.
    pub args: Vec<String>,
    /// They are escaped, because one is not UTF-8.
    pub args_escaped: bool,
    /// They are incomplete.
    pub args_truncated: bool,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A kernel thread.
    pub kernel: bool,
    /// Whence the knowledge.
    pub source: String,
}

/// A process in a role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// The process. Of a closer that is the owner the line has its id alone, and this is the owner.
    #[serde(deserialize_with = "process_or_id")]
    pub process: Option<Process>,
    /// Its thread.
    pub tid: Option<u32>,
    /// How it is known.
    pub method: String,
    /// By which hook.
    pub hook: Option<String>,
    /// Why not.
    pub reason: Option<String>,
}

/// An instant: a string, so that no reader rounds it.
fn digits<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    String::deserialize(value)?.parse().map_err(de::Error::custom)
}

/// A process, or the id of one that the line has elsewhere.
fn process_or_id<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Process>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Id(String),
        Whole(Box<Process>),
    }
    Ok(Option::deserialize(value)?.map(|written| match written {
        Written::Id(id) => Process { id, ..Process::default() },
        Written::Whole(process) => *process,
    }))
}

impl Event {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is not a JSON object of this shape.
    pub fn parse(line: &str) -> serde_json::Result<Self> {
        let mut event: Self = serde_json::from_str(line)?;
        let closer = event.closer.as_mut().and_then(|closer| closer.process.as_mut());
        if let (Some(closer), Some(owner)) = (closer, &event.process)
            && closer.pid == 0
        {
            if closer.id != owner.id {
                return Err(de::Error::custom(format!(
                    "a reference to {}, which is not in the line",
                    closer.id
                )));
            }
            owner.clone_into(closer);
        }
        line.clone_into(&mut event.raw);
        event.read_ns = crate::clock::boot_now();
        Ok(event)
    }

    /// Nanoseconds since 1970 by the wall clock; `None`: `ts` is no time.
    pub fn wall_ns(&self) -> Option<i128> {
        self.ts.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond)
    }

    /// The local end, where its port is known.
    pub fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.laddr?, self.lport?))
    }

    /// The remote end, where its port is known.
    pub fn remote(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.raddr?, self.rport?))
    }

    /// One line for a report: without the process's details.
    pub fn brief(&self) -> String {
        let end = |ip: Option<IpAddr>, port: Option<u16>| match (ip, port) {
            (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
            (Some(ip), None) => format!("{ip}:?"),
            _ => "?".to_owned(),
        };
        let who = self.process.as_ref().map_or("?".to_owned(), |p| format!("{} {:?}", p.pid, p.comm));
        let mut text = format!(
            "#{} {} {} {} -> {} by {who} ({}{}) boot_ns={}",
            self.seq,
            self.kind,
            self.dir.as_deref().unwrap_or("-"),
            end(self.laddr, self.lport),
            end(self.raddr, self.rport),
            self.method.as_deref().unwrap_or("-"),
            self.hook.as_deref().or(self.reason.as_deref()).map(|h| format!(" {h}")).unwrap_or_default(),
            self.boot_ns,
        );
        if let Some(end) = &self.end {
            let _ = write!(text, " end={end}");
        }
        if let Some(errno) = self.errno {
            let _ = write!(text, " errno={errno}");
        }
        text
    }
}

/// The last line on the agent's standard error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Always `totals`.
    pub kind: String,
    /// Events by kind.
    pub events: std::collections::BTreeMap<String, u64>,
    /// Records by hook.
    pub records: std::collections::BTreeMap<String, Value>,
    /// Gaps reported.
    pub gaps: u64,
    /// Records lost.
    pub lost: u64,
    /// Records not understood.
    pub undecoded: u64,
    /// Repairs after a loss.
    pub repairs: u64,
    /// Times that a program was skipped because it ran on that CPU already, where the agent reports it.
    pub missed: Option<u64>,
    /// Hooks for which this kernel does not report it.
    pub uncounted: Vec<String>,
}

/// Bytes as the agent's JSON shows them: valid UTF-8 as it is; else each bad byte as `\xNN` and each backslash doubled.
/// Written here a second time on purpose.
pub fn shown(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| escaped(bytes), str::to_owned)
}

/// Arguments as the agent's JSON shows them. They are one field: one that is not UTF-8 escapes them all,
/// which the second result says.
pub fn shown_args(args: &[Vec<u8>]) -> (Vec<String>, bool) {
    let binary = args.iter().any(|a| std::str::from_utf8(a).is_err());
    (args.iter().map(|a| if binary { escaped(a) } else { shown(a) }).collect(), binary)
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_the_contract_says() {
        assert_eq!(shown(b"a\\b\n"), "a\\b\n");
        assert_eq!(shown(b"a\\b\xff"), "a\\\\b\\xff");
        let args = [b"a\\b".to_vec(), b"\xff".to_vec()];
        assert_eq!(shown_args(&args), (vec!["a\\\\b".into(), "\\xff".into()], true));
        assert_eq!(shown_args(&args[..1]), (vec!["a\\b".into()], false));
    }

    #[test]
    fn unknown_fields_and_nulls_are_read() {
        let event = Event::parse(r#"{"kind":"close","seq":3,"process":null,"lport":null,"new":1}"#).unwrap();
        assert_eq!((event.kind.as_str(), event.seq, event.lport), ("close", 3, None));
        assert!(event.process.is_none());
    }
}
