//! A naive evaluator of filters: what the words of an event are, by its JSON and its processes, and by no code of the
//! filter.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::{Form, Value, Word};
use super::key::Key;
use super::{glob, properties};
use crate::event::json::JsonEncoder;
use crate::event::model::{Event, EventBody};
use crate::event::samples;
use crate::flow::model::Change;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::process::{applet, script};

/// An event, to be asked naively.
pub(super) struct Naive {
    json: Json,
    /// Owner and closer.
    processes: Vec<ProcessInfo>,
    closer: Option<Arc<ProcessInfo>>,
    listener: Option<Arc<ProcessInfo>>,
}

impl Naive {
    pub(super) fn of(event: &Event) -> Self {
        let mut line = Vec::new();
        JsonEncoder::new(&samples::identity()).encode(event, &mut line);
        let (owner, closer, listener) = match &event.body {
            EventBody::Flow(Change::Close(conn, ending)) => {
                (conn.owner.process.clone(), ending.closer.process.clone(), None)
            }
            EventBody::Flow(Change::Unlisten(listener, end)) => {
                (listener.owner.process.clone(), end.closer.process.clone(), None)
            }
            EventBody::Flow(Change::Accept(conn)) => {
                let listener = conn.listener.as_ref().and_then(|listener| listener.process.clone());
                (conn.owner.process.clone(), None, listener)
            }
            EventBody::Flow(Change::Connect(conn) | Change::Established(conn) | Change::Failed(conn, _)) => {
                (conn.owner.process.clone(), None, None)
            }
            EventBody::Flow(Change::Listen(listener)) => (listener.owner.process.clone(), None, None),
            EventBody::Exec(of) | EventBody::Exit(of, _) => (Some(of.process.clone()), None, None),
            EventBody::Facts(of) => (Some(of.process.clone()), None, None),
            EventBody::Gap(_)
            | EventBody::Repair(_)
            | EventBody::Degraded(_)
            | EventBody::Heartbeat(_)
            | EventBody::Alert(_)
            | EventBody::Start(_)
            | EventBody::Sample(_)
            | EventBody::Clock => (None, None, None),
        };
        let processes =
            [&owner, &closer].into_iter().flatten().map(|process| ProcessInfo::clone(process)).collect();
        Self { json: serde_json::from_slice(&line).expect("JSON"), processes, closer, listener }
    }

    fn field(&self, key: &str) -> Vec<String> {
        texts_of(&self.json[key])
    }

    /// Local, or remote, end.
    fn side(&self, local: bool, what: &str) -> Vec<String> {
        self.field(&format!("{}{what}", if local { 'l' } else { 'r' }))
    }

    fn by_direction(&self, initiator: bool, what: &str) -> Vec<String> {
        match self.json.get("dir").and_then(Json::as_str) {
            Some("out") => self.side(initiator, what),
            Some("in") => self.side(!initiator, what),
            None if !initiator => self.side(true, what),
            _ => Vec::new(),
        }
    }

    /// Owner and closer as the JSON shows them.
    fn of_json(&self) -> impl Iterator<Item = &Json> {
        [self.json.get("process"), self.json.get("closer").map(|closer| &closer["process"])]
            .into_iter()
            .flatten()
    }

    fn places(&self) -> impl Iterator<Item = &Placement> {
        self.processes.iter().filter_map(|process| process.placement.as_deref())
    }

    pub(super) fn holds(&self, word: &Word) -> bool {
        let values: Vec<Value> = word.values.iter().flat_map(expanded).collect();
        let fits = match word.key {
            Key::Age => self.is_so_old(&values),
            key => values.iter().any(|value| self.fits(key, value)),
        };
        fits != word.negated
    }

    /// Whether every age that it may have fits a value: both bounds, and what lies between them where something changes.
    fn is_so_old(&self, values: &[Value]) -> bool {
        let Some(least) = self.at("age", "at_least_ns").first().map(|least| number(least)) else {
            return false;
        };
        let most = self.at("age", "at_most_ns").first().map_or(u64::MAX.into(), |most| number(most));
        let changes = values.iter().flat_map(|value| value.text.split('-')).map(number);
        let between = changes.flat_map(|at| [at.saturating_sub(1), at, at + 1]).chain([least, most]);
        between
            .filter(|age| (least.min(most)..=least.max(most)).contains(age))
            .all(|age| values.iter().any(|value| number_fits(value, &age.to_string())))
    }

    /// Texts in an object at a path below the event, or below the processes.
    fn at(&self, object: &str, key: &str) -> Vec<String> {
        texts_of(&self.json[object][key])
    }

    fn of_processes(&self, key: &str) -> Vec<String> {
        self.of_json().flat_map(|process| texts_of(&process[key])).collect()
    }

    fn fits(&self, key: Key, value: &Value) -> bool {
        let numbers = |found: Vec<String>| found.iter().any(|found| number_fits(value, found));
        let addresses = |found: Vec<String>| {
            let (net, device) = value.text.split_once('%').unwrap_or((&value.text, ""));
            let (device, prefix) = device.split_once('/').unwrap_or((device, ""));
            let net = if prefix.is_empty() { net.to_owned() } else { format!("{net}/{prefix}") };
            let net = Value { text: net, ..value.clone() };
            (device.is_empty() || self.field("device") == [device])
                && found.iter().any(|found| address_fits(&net, found))
        };
        let texts = |found: Vec<String>| found.iter().any(|found| text_fits(value, found.as_bytes()));
        let equal = |found: Vec<String>| found.contains(&value.text);
        let of_process = |read: &dyn Fn(&ProcessInfo) -> Option<u32>| {
            self.processes.iter().filter_map(read).any(|number| number_fits(value, &number.to_string()))
        };
        let both = |what: &str| [self.side(true, what), self.side(false, what)].concat();
        match key {
            Key::Pid => of_process(&|process| Some(process.pid.0)),
            Key::Ppid => of_process(&|process| process.ppid.map(|pid| pid.0)),
            Key::Uid => of_process(&|process| Some(process.uid)),
            Key::Gid => of_process(&|process| Some(process.gid)),
            Key::Proc => self.processes.iter().any(|process| {
                let exe = process.exe.as_deref().unwrap_or(&process.comm);
                let slash = exe.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
                let copy_of = process.identity.copy_of().unwrap_or_default();
                text_fits(value, &process.comm)
                    || text_fits(value, &exe[slash..])
                    || (!copy_of.is_empty() && text_fits(value, copy_of.as_bytes()))
                    || applet::name(process).is_some_and(|name| text_fits(value, name))
            }),
            Key::Exe => self
                .processes
                .iter()
                .any(|process| process.exe.as_ref().is_some_and(|exe| text_fits(value, exe))),
            Key::Arg => {
                self.processes.iter().any(|process| process.args.iter().any(|arg| text_fits(value, arg)))
            }
            Key::Script => self
                .processes
                .iter()
                .any(|process| script::path(process).is_some_and(|path| text_fits(value, &path))),
            Key::InlineCode => self
                .processes
                .iter()
                .any(|process| script::code(process).is_some_and(|code| text_fits(value, code))),
            Key::ExeFlag => self.of_json().any(|process| match value.text.as_str() {
                "deleted" => process["exe_deleted"] == true,
                "memfd" => process["exe_memfd"] == true,
                "host" => process["exe_host"] == true,
                "foreign" => process["exe_host"] == false,
                "conn" => process["exe_conn"] == true,
                "user_writable" => process["exe_user_writable"] == true,
                _ => process["exe_writable"] == true,
            }),
            Key::ExeSha256 | Key::Tty => self.of_json().any(|process| {
                process[key.name()].as_str().is_some_and(|found| text_fits(value, found.as_bytes()))
            }),
            Key::Cwd => self.processes.iter().any(|process| {
                let cwd = process.identity.state().and_then(|state| state.cwd.clone());
                cwd.is_some_and(|cwd| text_fits(value, &cwd))
            }),
            Key::User => {
                self.processes.iter().any(|process| process.user.iter().any(|user| text_fits(value, user)))
            }
            Key::Parent => self.processes.iter().any(|process| above(value, process, 1)),
            Key::Ancestor => self.processes.iter().any(|process| above(value, process, usize::MAX)),
            Key::Unit => {
                self.field("socket_unit").iter().any(|unit| text_fits(value, unit.as_bytes()))
                    || self.places().any(|place| {
                        [&place.unit, &place.user_unit]
                            .into_iter()
                            .flatten()
                            .any(|unit| text_fits(value, unit))
                    })
            }
            Key::Container => self.places().any(|place| {
                place.container.as_ref().is_some_and(|container| {
                    let short = value.form == Form::Quoted || !value.text.contains(['*', '?', '[']);
                    text_fits(value, &container.id)
                        || (short
                            && value.text == "0f7d84f32c4d"
                            && container.id.starts_with(b"0f7d84f32c4d"))
                })
            }),
            Key::Runtime => {
                self.of_json().any(|process| process["container"]["runtime"] == value.text.as_str())
            }
            Key::Pod => self.places().any(|place| {
                let pod = place.container.as_ref().and_then(|container| container.pod.as_deref());
                pod.is_some_and(|pod| text_fits(value, pod))
            }),
            Key::Port => numbers(both("port")),
            Key::Lport => numbers(self.side(true, "port")),
            Key::Rport => numbers(self.side(false, "port")),
            Key::Sport => numbers(self.by_direction(true, "port")),
            Key::Dport => numbers(self.by_direction(false, "port")),
            Key::Ip => addresses(both("addr")),
            Key::Laddr => addresses(self.side(true, "addr")),
            Key::Raddr => addresses(self.side(false, "addr")),
            Key::Src => addresses(self.by_direction(true, "addr")),
            Key::Dst => addresses(self.by_direction(false, "addr")),
            Key::Comm => self.processes.iter().any(|process| text_fits(value, &process.comm)),
            Key::ParentHost => {
                let of_parent = |process: &serde_json::Value| texts_of(&process["ancestors"][0]["exe_host"]);
                equal(self.of_json().flat_map(of_parent).collect())
            }
            Key::ArgsTruncated | Key::Kernel | Key::MntNsHost => equal(self.of_processes(key.name())),
            Key::ExeFs | Key::ExeMount => self.processes.iter().any(|process| {
                let file = process.identity.exe().cloned().unwrap_or_default();
                let found = if key == Key::ExeFs { file.fs } else { file.mount };
                found.is_some_and(|found| text_fits(value, &found))
            }),
            Key::LoginUid => numbers(self.of_processes("login_uid")),
            Key::ProcessNetns => numbers(self.of_processes("netns")),
            Key::MntNs => numbers(self.of_processes("mnt_ns")),
            Key::ProcessSource => equal(self.of_processes("source")),
            Key::AncestorPid => self.of_json().any(|process| {
                process["ancestors"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|ancestor| number_fits(value, &ancestor["pid"].to_string()))
            }),
            Key::UserUnit | Key::Slice | Key::Cgroup => self.places().any(|place| {
                let found = match key {
                    Key::UserUnit => place.user_unit.clone(),
                    Key::Slice => place.slice.clone(),
                    _ => Some(place.cgroup.clone()),
                };
                found.is_some_and(|found| text_fits(value, &found))
            }),
            Key::CgroupId => {
                numbers(self.of_processes("cgroup_id").into_iter().filter(|id| id != "0").collect())
            }
            Key::Closer | Key::Listener => {
                let role = if key == Key::Closer { &self.closer } else { &self.listener };
                role.as_ref().is_some_and(|process| {
                    let exe = process.exe.as_deref().unwrap_or(&process.comm);
                    let slash = exe.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
                    let comm = if process.comm.contains(&b'/') { exe } else { &process.comm };
                    [comm, exe, &exe[slash..]].iter().any(|name| text_fits(value, name))
                })
            }
            Key::CloserMethod => equal(self.at("closer", "method")),
            Key::CloserReason => equal(self.at("closer", "reason")),
            Key::ListenerMethod => equal(self.at("listener", "method")),
            Key::ListenerReason => equal(self.at("listener", "reason")),
            Key::Tid => numbers([self.field("tid"), self.at("closer", "tid")].concat()),
            Key::Hook => texts([self.field("hook"), self.at("closer", "hook")].concat()),
            Key::Mapped | Key::V6only | Key::Reason | Key::Cause => equal(self.field(key.name())),
            Key::KernelSocket => {
                let is_socket = self.json.get("laddr").is_some();
                let absent = is_socket && self.json.get("kernel_socket").is_none();
                equal(self.field("kernel_socket")) || (absent && value.text == "false")
            }
            Key::CommunityId | Key::SocketUnit | Key::Device => texts(self.field(key.name())),
            Key::Age => panic!("ages are intervals"),
            Key::Duration => numbers(self.field("duration_ns")),
            Key::ConnectTime => numbers(self.field("connect_ns")),
            Key::After => numbers(self.field("after_ns")),
            Key::BytesIn | Key::BytesOut | Key::Retransmits | Key::Code | Key::Signal => {
                numbers(self.field(key.name()))
            }
            Key::Cpu | Key::Lost => numbers(self.field(key.name())),
            Key::Srtt => {
                let micros = self.field("srtt_us").into_iter().filter(|micros| micros != "0");
                numbers(micros.map(|micros| micros + "000").collect())
            }
            // No event has a state.
            Key::State => false,
            Key::Netns => numbers(self.field("netns")),
            Key::Errno => {
                let name = if value.text == "cancelled" { "cancelled" } else { &value.text };
                self.field("error").iter().any(|error| error == name) || numbers(self.field("errno"))
            }
            Key::Dir | Key::Kind | Key::Proto | Key::Family | Key::End | Key::Source | Key::Method => {
                self.field(key.name()).contains(&value.text)
            }
        }
    }
}

fn above(value: &Value, process: &ProcessInfo, levels: usize) -> bool {
    process.ancestors.iter().take(levels).any(|ancestor| {
        let exe = ancestor.exe.as_deref().unwrap_or(&ancestor.comm);
        let slash = exe.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let comm = if ancestor.comm.contains(&b'/') { exe } else { &ancestor.comm };
        [comm, exe, &exe[slash..]].iter().any(|name| text_fits(value, name))
    })
}

/// A number with its units, as the generator writes them: no fractions.
fn number(text: &str) -> u128 {
    let parts = regex::Regex::new("([0-9]+)([a-zA-Z]*)").expect("a regex");
    let of = |part: regex::Captures<'_>| {
        let scale = match &part[2] {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "K" => 1_024,
            "M" => 1_024 * 1_024,
            "G" => 1_024 * 1_024 * 1_024,
            "E" => 1_u128 << 60,
            _ => 1,
        };
        part[1].parse::<u128>().expect("a number") * scale
    };
    parts.captures_iter(text).map(of).sum()
}

fn number_fits(value: &Value, found: &str) -> bool {
    let found = number(found);
    let text = value.text.as_str();
    if !text.contains(|c: char| c.is_ascii_digit()) {
        return false;
    }
    match (text.strip_prefix(['>', '<']), text.split_once('-')) {
        (Some(rest), _) => {
            let bound = number(rest);
            (rest.starts_with('=') && found == bound)
                || if text.starts_with('>') { found > bound } else { found < bound }
        }
        (None, Some((low, high))) => number(low) <= found && found <= number(high),
        (None, None) => found == number(text),
    }
}

/// What the zones of the tests are, reported once more.
const ZONES: &[(&str, &[&str])] = &[
    ("loopback", &["127.0.0.0/8", "::1"]),
    ("rfc1918", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
    (
        "internal",
        &[
            "127.0.0.0/8",
            "::1",
            "169.254.0.0/16",
            "fe80::/10",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
            "100.64.0.0/10",
        ],
    ),
    (
        "external",
        &[
            "127.0.0.0/8",
            "::1",
            "169.254.0.0/16",
            "fe80::/10",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
            "100.64.0.0/10",
            "224.0.0.0/4",
            "ff00::/8",
            "0.0.0.0",
            "::",
        ],
    ),
    ("office", &["10.0.1.0/24"]),
    ("any", &["0.0.0.0/0", "::/0"]),
];

fn address_fits(value: &Value, found: &str) -> bool {
    match ZONES.iter().find(|(name, _)| *name == value.text) {
        Some((name, nets)) => nets.iter().any(|net| is_in(net, found)) != (*name == "external"),
        None => is_in(&value.text, found),
    }
}

fn is_in(net: &str, found: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let (address, prefix) = net.split_once('/').unwrap_or((net, ""));
    let (net, size) = bits(address.parse().expect("address"));
    let (found, found_size) = bits(found.parse().expect("address"));
    let prefix = if prefix.is_empty() { size } else { prefix.parse().expect("prefix") };
    size == found_size && (0..prefix).all(|bit| (net ^ found) >> (127 - bit) & 1 == 0)
}

/// The values that a value stands for: of a list, those of the list.
fn expanded(value: &Value) -> Vec<Value> {
    if value.form != Form::List {
        return vec![value.clone()];
    }
    let (_, values) = properties::LISTS.iter().find(|(name, _)| *name == value.text).expect("a list");
    values.iter().map(|text| as_in_a_list(text)).collect()
}

/// A value of a list of the tests: none has an escape.
fn as_in_a_list(text: &str) -> Value {
    let inside = |sign: char| text.strip_prefix(sign).and_then(|text| text.strip_suffix(sign));
    let (form, text) = match (inside('"'), inside('/')) {
        (Some(quoted), _) => (Form::Quoted, quoted),
        (_, Some(regex)) => (Form::Regex, regex),
        _ => (Form::Bare, text),
    };
    Value { form, text: text.to_owned(), span: 0..0 }
}

fn texts_of(json: &Json) -> Vec<String> {
    match json {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

fn text_fits(value: &Value, found: &[u8]) -> bool {
    match value.form {
        Form::Bare => glob::tests::naive(value.text.as_bytes(), found),
        Form::Quoted => value.text.as_bytes() == found,
        Form::Regex => regex::bytes::Regex::new(&value.text).expect("regex").is_match(found),
        Form::List => panic!("lists are expanded"),
    }
}
