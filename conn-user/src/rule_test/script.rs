//! The lines of a test: `open bash -> 203.0.113.9:4444`, `+1h`, `close`.
//!
//! ```text
//! line    = "+" time
//!         | [ label ":" ] ( "open" | "connect" ) who [ local ] "->" remote
//!         | [ label ":" ] "accept" who local "<-" remote
//!         | [ label ":" ] "listen" who local
//!         | "established" [ label ]
//!         | "failed" [ label ] errno
//!         | "close" [ label ] [ how ] [ "in" bytes ] [ "out" bytes ]
//!         | "data" [ label ] [ "in" bytes ] [ "out" bytes ]
//!         | "unlisten" [ label ]
//!         | "exec" who [ ( "stdio" | "parent-stdio" ) label | "peer" who ]
//!         | "exit" who [ "code" n | "signal" n ]
//!         | "gap" n
//! who     = name of a process | path of an executable | "?"
//! ```
//!
//! A line without a label refers to the latest connection or listener that it can apply to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::model::{Act, FlowNo, TestProcess, Who};
use super::words::{Word, Words};
use crate::event::errno;
use crate::event::names;
use crate::filter::suggest::nearest;
use crate::filter::{FilterError, amount};
use crate::flow::model::{EndedHow, Scope, Traffic};
use crate::host::interfaces::Device;
use crate::process::info::ExitStatus;

/// The words with which a line may start, each with its form.
pub(super) const VERBS: [(&str, &str); 12] = [
    ("open", "[LABEL:] open WHO [LOCAL] -> REMOTE [on DEVICE]"),
    ("connect", "[LABEL:] connect WHO [LOCAL] -> REMOTE [on DEVICE]"),
    ("established", "established [LABEL]"),
    ("failed", "failed [LABEL] ERRNO"),
    ("accept", "[LABEL:] accept WHO LOCAL <- REMOTE [on DEVICE]"),
    ("data", "data [LABEL] [in BYTES] [out BYTES]"),
    ("close", "close [LABEL] [HOW] [in BYTES] [out BYTES]"),
    ("listen", "[LABEL:] listen WHO LOCAL [on DEVICE] [v6only]"),
    ("unlisten", "unlisten [LABEL]"),
    ("exec", "exec WHO [stdio LABEL | parent-stdio LABEL | peer WHO]"),
    ("exit", "exit WHO [code N | signal N]"),
    ("gap", "gap N"),
];

/// Longest line, in bytes.
const LONGEST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Listening,
    Over,
}

#[derive(Clone, Debug)]
struct Flow {
    label: Option<String>,
    state: State,
}

/// Reads the lines of a test one after the other, and tracks its connections and listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    processes: BTreeMap<String, TestProcess>,
    flows: Vec<Flow>,
    is_existing: bool,
}

impl Script {
    /// Starts with these processes.
    pub(super) const fn new(processes: BTreeMap<String, TestProcess>) -> Self {
        Self { processes, flows: Vec::new(), is_existing: false }
    }

    /// Sets whether the next lines describe what existed when conn started.
    pub(super) const fn set_existing(&mut self, is_existing: bool) {
        self.is_existing = is_existing;
    }

    /// Returns the connection or listener with this label.
    pub(super) fn flow(&self, label: &str) -> Option<FlowNo> {
        self.flows.iter().rposition(|flow| flow.label.as_deref() == Some(label))
    }

    /// Returns whether there is a process with this name.
    pub(super) fn has_process(&self, name: &str) -> bool {
        self.processes.contains_key(name)
    }

    /// Returns the labels and the names of processes.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let labels = self.flows.iter().filter_map(|flow| flow.label.as_deref());
        labels.chain(self.processes.keys().map(String::as_str))
    }

    /// Returns the processes, including those that lines named by their paths.
    pub(super) fn into_processes(self) -> BTreeMap<String, TestProcess> {
        self.processes
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, where, and what to write instead.
    pub(super) fn line(&mut self, line: &str) -> Result<Act, FilterError> {
        if line.len() > LONGEST {
            return Err(FilterError::new(
                line,
                0..0,
                "this line is too long",
                format!("{LONGEST} bytes are enough"),
            ));
        }
        let mut words = Words::new(line);
        let first =
            words.need("an event", "such as \"open bash -> 203.0.113.9:4444\", or a time: \"+1h\"")?;
        if let Some(time) = first.text.strip_prefix('+') {
            let passed = amount::duration(time).ok_or_else(|| {
                words.wrong(&first, "is no time", "write a time such as +30s, +1h or +1h30m")
            })?;
            words.end("one line lets time pass or is an event")?;
            return if self.is_existing {
                Err(words.wrong(&first, "lets time pass before conn began", "time begins with `events`"))
            } else {
                Ok(Act::Pass(passed))
            };
        }
        let (label, verb) = match first.text.strip_suffix(':') {
            Some(label) => {
                if label.is_empty() || label.contains(['/', ':']) || means(label) || self.has_process(label) {
                    let help = "a label is a word before the event, such as c1:, that means nothing else";
                    return Err(words.wrong(&first, "is no label", help));
                }
                (
                    Some(label.to_owned()),
                    words.need("an event", "a label stands before an event: c1: open WHO -> REMOTE")?,
                )
            }
            None => (None, first.clone()),
        };
        let Some((_, form)) = VERBS.iter().find(|(name, _)| *name == verb.text) else {
            let known = VERBS.map(|(name, _)| name);
            let help = match nearest(verb.text, known) {
                Some(near) => format!("did you mean `{near}`? {}", form(near)),
                None => format!("an event is one of {}; time passes with +1h", known.join(", ")),
            };
            return Err(words.wrong(&verb, "is no event", help));
        };
        if self.is_existing && !matches!(verb.text, "open" | "accept" | "listen" | "exec") {
            let help = "what was there is described by open, accept, listen and exec; put it into `events`";
            return Err(words.wrong(&verb, "cannot have been there before", help));
        }
        if label.is_some() && !matches!(verb.text, "open" | "connect" | "accept" | "listen") {
            let help = format!("labels name what begins: open, connect, accept, listen; write {form}");
            return Err(words.wrong(&first, "names nothing that begins here", help));
        }
        if label.as_ref().is_some_and(|label| {
            self.flow(label)
                .and_then(|flow| self.flows.get(flow))
                .is_some_and(|flow| flow.state != State::Over)
        }) {
            return Err(words.wrong(
                &first,
                "is used twice",
                "close the first one before, or take another label",
            ));
        }
        let act = self.act(verb.text, label, &mut words, form)?;
        words.end(form)?;
        Ok(act)
    }

    fn act(
        &mut self,
        verb: &str,
        label: Option<String>,
        words: &mut Words<'_>,
        form: &str,
    ) -> Result<Act, FilterError> {
        Ok(match verb {
            "open" | "connect" => {
                let who = self.who(words, form)?;
                let word = words.need("`->` and where to", form)?;
                let local = if word.text == "->" {
                    None
                } else {
                    let local = address(words, &word)?;
                    arrow(words, "->", form)?;
                    Some(local)
                };
                let remote = words.need("an address", form)?;
                let remote = address(words, &remote)?;
                let established = verb == "open";
                let state = if established { State::Open } else { State::Connecting };
                let device = over(words, form)?;
                Act::Connect { flow: self.begin(label, state), who, local, remote, device, established }
            }
            "accept" => {
                let who = self.who(words, form)?;
                let local = words.need("the own address", form)?;
                let local = address(words, &local)?;
                arrow(words, "<-", form)?;
                let remote = words.need("an address", form)?;
                let remote = address(words, &remote)?;
                let device = over(words, form)?;
                Act::Accept { flow: self.begin(label, State::Open), who, local, remote, device }
            }
            "listen" => {
                let who = self.who(words, form)?;
                let local = words.need("an address", form)?;
                let local = address(words, &local)?;
                let mut scope = Scope::default();
                while let Some(word) = words.next() {
                    match word.text {
                        "on" => {
                            let name = words.need("an interface", form)?;
                            scope.device = Some(Arc::new(Device::new(name.text)));
                        }
                        "v6only" => scope.v6only = true,
                        _ => return Err(words.wrong(&word, "is not expected here", form)),
                    }
                }
                Act::Listen { flow: self.begin(label, State::Listening), who, local, scope }
            }
            "established" => {
                let flow = self.known(words, &[State::Connecting], "being opened", form)?;
                self.set(flow, State::Open);
                Act::Established(flow)
            }
            "failed" => {
                let flow = self.known(words, &[State::Connecting], "being opened", form)?;
                let word = words.need("the error", "such as ECONNREFUSED, ETIMEDOUT or cancelled")?;
                let errno = match word.text {
                    "cancelled" => Some(0),
                    name => errno::number(name),
                };
                let help = "such as ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH or cancelled";
                let errno = errno.ok_or_else(|| words.wrong(&word, "is no error of Linux", help))?;
                self.set(flow, State::Over);
                Act::Failed(flow, errno)
            }
            "close" => {
                let flow = self.known(words, &[State::Open, State::Connecting], "open", form)?;
                let close = close(flow, words)?;
                self.set(flow, State::Over);
                close
            }
            "data" => {
                let flow = self.known(words, &[State::Open], "open", form)?;
                let mut traffic = Traffic::default();
                while let Some(word) = words.next() {
                    let direction = direction(&mut traffic, &word)
                        .ok_or_else(|| words.wrong(&word, "is no label and no direction", form))?;
                    *direction = size(words)?;
                }
                Act::Data { flow, traffic }
            }
            "unlisten" => {
                let flow = self.known(words, &[State::Listening], "listening", form)?;
                self.set(flow, State::Over);
                Act::Unlisten(flow)
            }
            "exec" => {
                let who = self.somebody(words, form)?;
                let (mut stdio, mut parent_stdio, mut peer) = (None, None, None);
                if let Some(word) = words.next() {
                    let all = [State::Open, State::Connecting];
                    match word.text {
                        "stdio" => stdio = Some(self.known(words, &all, "open", form)?),
                        "parent-stdio" => parent_stdio = Some(self.known(words, &all, "open", form)?),
                        "peer" if self.is_existing => peer = Some(self.somebody(words, form)?),
                        "peer" => {
                            let help =
                                "write it in `existing`: of a program that is executed now nobody has looked";
                            return Err(words.wrong(&word, "is known only of what was there before", help));
                        }
                        _ => return Err(words.wrong(&word, "is not expected here", form)),
                    }
                }
                Act::Exec { who, stdio, parent_stdio, peer }
            }
            "exit" => {
                let who = self.somebody(words, form)?;
                let status = match words.next() {
                    None => ExitStatus::Code(0),
                    Some(word) if word.text == "code" => ExitStatus::Code(number(words, "a code", form)?),
                    Some(word) if word.text == "signal" => {
                        ExitStatus::Signal(number(words, "a signal", form)?)
                    }
                    Some(word) => return Err(words.wrong(&word, "is not expected here", form)),
                };
                Act::Exit(who, status)
            }
            _ => Act::Gap(number(words, "how many records are lost", form)?),
        })
    }

    fn begin(&mut self, label: Option<String>, state: State) -> FlowNo {
        self.flows.push(Flow { label, state });
        self.flows.len() - 1
    }

    fn set(&mut self, flow: FlowNo, state: State) {
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.state = state;
        }
    }

    /// Returns what the next word names, if it is a label; otherwise the latest that is in one of these
    /// states.
    fn known(
        &self,
        words: &mut Words<'_>,
        states: &[State],
        what: &str,
        form: &str,
    ) -> Result<FlowNo, FilterError> {
        if let Some(word) = words.peek()
            && let Some(flow) = self.flow(word.text)
        {
            words.next();
            let is_so = self.flows.get(flow).is_some_and(|flow| states.contains(&flow.state));
            return if is_so {
                Ok(flow)
            } else {
                Err(words.wrong(&word, &format!("is not {what} at this place"), form))
            };
        }
        let latest = self.flows.iter().rposition(|flow| states.contains(&flow.state));
        latest.ok_or_else(|| {
            let end = words.clone().next().map_or(0, |word| word.span.start);
            let word = Word { text: "it", span: end..end };
            let mut error = words.wrong(&word, "", form);
            error.message = format!("nothing is {what} at this place");
            error
        })
    }

    fn who(&mut self, words: &mut Words<'_>, form: &str) -> Result<Who, FilterError> {
        if words.peek().is_some_and(|word| word.text == "?") {
            words.next();
            return Ok(None);
        }
        self.somebody(words, form).map(Some)
    }

    fn somebody(&mut self, words: &mut Words<'_>, form: &str) -> Result<String, FilterError> {
        let word = words.need("a process", form)?;
        if self.processes.contains_key(word.text) {
            return Ok(word.text.to_owned());
        }
        if word.text.starts_with('/') {
            let spec = TestProcess { exe: Some(word.text.to_owned()), ..TestProcess::default() };
            self.processes.insert(word.text.to_owned(), spec);
            return Ok(word.text.to_owned());
        }
        let help = match nearest(word.text, self.processes.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name its executable (/usr/bin/NAME), or describe it: process.NAME = { exe = \"/usr/bin/NAME\", user = \"www-data\" }".to_owned(),
        };
        Err(words.wrong(&word, "is no process of this test", help))
    }
}

/// Reads the interface to which the socket of a connection is bound, if the line names one.
fn over(words: &mut Words<'_>, form: &str) -> Result<Option<Arc<Device>>, FilterError> {
    match words.next() {
        None => Ok(None),
        Some(word) if word.text == "on" => {
            Ok(Some(Arc::new(Device::new(words.need("an interface", form)?.text))))
        }
        Some(word) => Err(words.wrong(&word, "is not expected here", form)),
    }
}

/// Returns whether a word has a meaning of its own in a line, so that as a label it would be ambiguous.
fn means(word: &str) -> bool {
    const WORDS: [&str; 13] = [
        "->",
        "<-",
        "?",
        "in",
        "out",
        "stdio",
        "parent-stdio",
        "peer",
        "code",
        "signal",
        "cancelled",
        "on",
        "v6only",
    ];
    VERBS.iter().any(|(verb, _)| *verb == word)
        || WORDS.contains(&word)
        || names::from_name::<EndedHow>(word).is_some()
        || errno::number(word).is_some()
}

fn form(verb: &str) -> &'static str {
    VERBS.iter().find(|(name, _)| *name == verb).map_or("", |(_, form)| form)
}

fn arrow(words: &mut Words<'_>, arrow: &str, form: &str) -> Result<(), FilterError> {
    let word = words.need(&format!("`{arrow}`"), form)?;
    if word.text == arrow { Ok(()) } else { Err(words.wrong(&word, &format!("is no `{arrow}`"), form)) }
}

fn address(words: &Words<'_>, word: &Word<'_>) -> Result<SocketAddr, FilterError> {
    let any = || {
        let port = word.text.strip_prefix("*:")?.parse().ok()?;
        Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    };
    let help = "an address and a port: 203.0.113.9:443, [2001:db8::1]:443; *:443 listens at all";
    word.text.parse().ok().or_else(any).ok_or_else(|| words.wrong(word, "is no address with a port", help))
}

fn number<T: std::str::FromStr>(words: &mut Words<'_>, what: &str, form: &str) -> Result<T, FilterError> {
    let word = words.need(what, form)?;
    word.text.parse().map_err(|_| words.wrong(&word, "is no such number", form))
}

fn close(flow: FlowNo, words: &mut Words<'_>) -> Result<Act, FilterError> {
    let (mut how, mut traffic) = (EndedHow::LocalFin, Traffic::default());
    let known = names::all::<EndedHow>().join(", ");
    while let Some(word) = words.next() {
        if let Some(direction) = direction(&mut traffic, &word) {
            *direction = size(words)?;
        } else {
            let help = || format!("write in BYTES, out BYTES, a label, or how it ended: {known}");
            how = names::from_name(word.text)
                .ok_or_else(|| words.wrong(&word, "is no label and no end of a connection", help()))?;
        }
    }
    Ok(Act::Close { flow, how, traffic })
}

/// Returns the byte counter that a word names.
fn direction<'t>(traffic: &'t mut Traffic, word: &Word<'_>) -> Option<&'t mut u64> {
    match word.text {
        "in" => Some(&mut traffic.bytes_in),
        "out" => Some(&mut traffic.bytes_out),
        _ => None,
    }
}

fn size(words: &mut Words<'_>) -> Result<u64, FilterError> {
    let size = words.need("a number of bytes", "such as 300 or 5K")?;
    amount::bytes(size.text)
        .ok_or_else(|| words.wrong(&size, "is no number of bytes", "such as 300, 5K or 1.5M"))
}
