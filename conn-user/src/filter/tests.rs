//! The language: examples, errors as people see them, a naive evaluator, and the page of the documentation.

use std::fmt::Write;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value as Json;

use super::ast::{Expr, Form, Value, Word};
use super::key::{Key, Takes};
use super::*;
use crate::event::json::JsonEncoder;
use crate::event::model::EventBody;
use crate::event::names;
use crate::event::samples;
use crate::flow::model::{Change, Direction, EndedHow, Source, Transport};
use crate::flow::snapshot::model::TcpState;
use crate::process::info::ProcessInfo;
use crate::process::placement::{Placement, Runtime};

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers of the samples that match.
fn matching(text: &str) -> Vec<u64> {
    let filter = filter(text);
    samples::all().iter().filter(|event| filter.matches(event)).map(|event| event.seq).collect()
}

#[test]
fn examples() {
    assert_eq!(matching("").len(), samples::all().len());
    assert_eq!(matching("pid:4242 kind:connect"), [2, 9]);
    assert_eq!(matching("kind:connect,failed errno:ECONNREFUSED"), [8]);
    assert_eq!(matching("errno:cancelled"), [10]);
    assert_eq!(matching("proto:mptcp"), [7, 8]);
    assert_eq!(matching("dst:2001:db8::/32 rport:440-450"), [7, 8]);
    assert_eq!(matching("kind:exit -proc:nginx"), [19]);
    assert_eq!(matching("proc:/^ngin/ kind:exit"), [20]);
    assert_eq!(matching("exe:/usr/bin/* kind:exec"), [18]);
    assert_eq!(matching("arg:\"nginx: worker process\" kind:exit"), [20]);
    assert_eq!(matching("end:peer_reset,timeout"), [12, 14]);
    assert_eq!(matching("kind:listen dport:8080"), [1]);
    assert_eq!(matching("method:unknown"), [12, 22]);
    assert_eq!(matching("source:late dir:unknown"), [12]);
    assert_eq!(matching("source:snapshot,resync"), [21, 22, 23]);
    assert_eq!(matching("method:fd_table kind:unlisten"), [23]);
    assert_eq!(matching("kind:exec,exit user:ann"), [18, 19]);
    assert_eq!(matching("kind:exec,exit parent:bash"), [18, 19]);
    assert_eq!(matching("kind:exec,exit ancestor:/usr/sbin/sshd -ancestor:cron"), [18, 19]);
    assert_eq!(matching("kind:exec unit:session-*.scope cwd:/home/* tty:pts/3"), [18]);
    assert_eq!(matching("unit:/x\\.service$/ kind:exec"), [17]);
    assert_eq!(matching("kind:exit runtime:containerd container:0f7d84f32c4d pod:/^2c48/"), [20]);
    assert_eq!(matching("kind:exit container:0f7d84f32c4"), Vec::<u64>::new(), "too short");
    assert_eq!(matching("exe_flag:writable kind:exec"), [17]);
    assert_eq!(matching("exe_flag:memfd"), [24]);
    assert_eq!(matching("unit:ssh.socket"), [25]);
    assert_eq!(matching("kind:listen unit:init.scope"), [25, 26]);
    assert_eq!(matching("exe_sha256:00081018* kind:exec"), [18]);
}

#[test]
fn a_process_of_a_close_is_owner_or_closer() {
    assert_eq!(matching("kind:close pid:666"), [6]);
    assert_eq!(matching("kind:close pid:812"), [6, 14, 21]);
    assert_eq!(matching("kind:close -pid:666,812"), [5, 12]);
}

#[test]
fn directions_are_those_of_the_connection() {
    assert_eq!(matching("kind:accept sport:40000 dport:8080"), [3, 13]);
    assert_eq!(matching("kind:connect sport:40000 dport:8080"), [2]);
    assert_eq!(matching("kind:close dir:unknown dport:8080"), Vec::<u64>::new());
}

#[test]
fn an_unknown_port_is_no_port() {
    assert_eq!(matching("lport:0-65535 kind:connect"), [2, 7]);
}

#[test]
fn mapped_networks_are_ipv4() {
    assert_eq!(matching("kind:connect dst:::ffff:127.0.0.0/104"), [2, 9]);
    assert_eq!(matching("kind:connect dst:[::ffff:127.0.0.1]"), [2, 9]);
}

#[test]
fn gaps_pass_unless_named() {
    let gap = samples::all().pop().expect("the gap is last");
    assert!(!filter("port:80").matches(&gap) && filter("port:80").passes(&gap));
    assert!(filter("kind:connect").passes(&gap));
    assert!(!filter("-kind:gap").passes(&gap));
    assert!(filter("kind:exec").asks_for(EventKind::Exec) && !filter("-kind:exec").asks_for(EventKind::Exec));
}

#[test]
fn no_key_looks_like_a_short_flag() {
    // `conn tail -proc:x` reaches the filter because no flag is -p; -h and -V are flags.
    assert!(Key::names().all(|name| !name.starts_with(['h', 'V'])));
}

/// Errors as people see them; the file is read by people too.
#[test]
fn errors() {
    let mut shown = String::new();
    for text in [
        "nginx",
        "8080",
        "10.0.0.1 port:80",
        "/usr/bin/nginx",
        "tmux: server",
        "port=443",
        "prot:443",
        "colour:red",
        "2001:db8::1",
        "proc:nginx - port:1",
        "port:",
        "port:80,",
        "port:http",
        "port:8100-8000",
        "port:65536",
        "port:/80/",
        "pid:nginx",
        "uid:root",
        "dst:10.0.*",
        "dst:internl",
        "dst:example",
        "dst:@cdn",
        "proc:@",
        "dst:10.0.0.1:80",
        "dst:10.0.0.0/33",
        "kind:conect",
        "kind:banana",
        "dir:outgoing",
        "end:reset",
        "errno:ECONREFUSED",
        "errno:what",
        "family:4",
        "proc:\"tmux: server",
        "proc:\"a\"b",
        "proc:/(/",
        "proc:/(a{1,100}){1,100}{1,100}/",
        "proc:x 漢字:\u{1b}[2J \u{202e}",
        "漢字:1 port:x",
    ] {
        let error = Filter::new(text).expect_err(text);
        let _ = writeln!(shown, "$ {}\n{error}\n", text.escape_debug());
    }
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/src/filter/errors.txt"), &shown);
}

/// What the words of an event are, by its JSON and its processes, and by no code of the filter.
struct Naive {
    json: Json,
    processes: Vec<ProcessInfo>,
}

impl Naive {
    fn of(event: &Event) -> Self {
        let mut line = Vec::new();
        JsonEncoder::new(&samples::identity()).encode(event, &mut line);
        let (owner, closer) = match &event.body {
            EventBody::Flow(Change::Close(conn, ending)) => {
                (conn.owner.process.clone(), ending.closer.process.clone())
            }
            EventBody::Flow(Change::Unlisten(listener, end)) => {
                (listener.owner.process.clone(), end.closer.process.clone())
            }
            EventBody::Flow(
                Change::Connect(conn)
                | Change::Accept(conn)
                | Change::Established(conn)
                | Change::Failed(conn, _),
            ) => (conn.owner.process.clone(), None),
            EventBody::Flow(Change::Listen(listener)) => (listener.owner.process.clone(), None),
            EventBody::Exec(of) | EventBody::Exit(of, _) => (Some(of.process.clone()), None),
            EventBody::Alert(alert) => (alert.subject.process().cloned(), None),
            EventBody::Gap(_) => (None, None),
        };
        let processes =
            [owner, closer].into_iter().flatten().map(|process| ProcessInfo::clone(&process)).collect();
        Self { json: serde_json::from_slice(&line).expect("JSON"), processes }
    }

    fn field(&self, key: &str) -> Vec<String> {
        match self.json.get(key) {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::String(text)) => vec![text.clone()],
            Some(other) => vec![other.to_string()],
        }
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

    fn holds(&self, word: &Word) -> bool {
        word.values.iter().any(|value| self.fits(word.key, value)) != word.negated
    }

    fn fits(&self, key: Key, value: &Value) -> bool {
        let numbers = |found: Vec<String>| found.iter().any(|found| number_fits(value, found));
        let addresses = |found: Vec<String>| found.iter().any(|found| address_fits(value, found));
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
                text_fits(value, &process.comm) || text_fits(value, &exe[slash..])
            }),
            Key::Exe => self
                .processes
                .iter()
                .any(|process| process.exe.as_ref().is_some_and(|exe| text_fits(value, exe))),
            Key::Arg => {
                self.processes.iter().any(|process| process.args.iter().any(|arg| text_fits(value, arg)))
            }
            Key::ExeFlag => self.of_json().any(|process| match value.text.as_str() {
                "deleted" => process["exe_deleted"] == true,
                "memfd" => process["exe_memfd"] == true,
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
        [&ancestor.comm, exe, &exe[slash..]].iter().any(|name| text_fits(value, name))
    })
}

fn number_fits(value: &Value, found: &str) -> bool {
    let (low, high) = value.text.split_once('-').unwrap_or((&value.text, &value.text));
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(low), number(high), number(found)) {
        (Some(low), Some(high), Some(found)) => low <= found && found <= high,
        _ => false,
    }
}

fn address_fits(value: &Value, found: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let (address, prefix) = value.text.split_once('/').unwrap_or((&value.text, ""));
    let (net, size) = bits(address.parse().expect("address"));
    let (found, found_size) = bits(found.parse().expect("address"));
    let prefix = if prefix.is_empty() { size } else { prefix.parse().expect("prefix") };
    size == found_size && (0..prefix).all(|bit| (net ^ found) >> (127 - bit) & 1 == 0)
}

fn text_fits(value: &Value, found: &[u8]) -> bool {
    match value.form {
        Form::Bare => glob::tests::naive(value.text.as_bytes(), found),
        Form::Quoted => value.text.as_bytes() == found,
        Form::Regex => regex::bytes::Regex::new(&value.text).expect("regex").is_match(found),
        Form::List => panic!("lists are expanded"),
    }
}

fn value(form: Form, text: impl Into<String>) -> Value {
    Value { form, text: text.into(), span: 0..0 }
}

fn bare(texts: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Value> {
    texts.prop_map(|text| value(Form::Bare, text)).boxed()
}

fn named(names: Vec<&'static str>) -> BoxedStrategy<Value> {
    bare(select(names).prop_map(str::to_owned))
}

/// Values that a key takes, near those that the events of the tests have.
fn values(key: Key) -> BoxedStrategy<Value> {
    match (key.about().takes, key) {
        (Takes::Numbers, _) => bare(prop_oneof![
            (0..6_u32).prop_map(|number| number.to_string()),
            (0..4_u32, 0..4_u32).prop_map(|(low, more)| format!("{low}-{}", low + more)),
        ]),
        (Takes::Ports, _) => bare(prop_oneof![
            select(vec!["80", "443", "8080", "0-79", "1-65535"]).prop_map(str::to_owned),
            any::<u16>().prop_map(|port| port.to_string()),
        ]),
        (Takes::Addresses, _) => bare(prop_oneof![
            select(vec![
                "10.0.1.1",
                "10.0.0.0/8",
                "10.0.1.9/24",
                "0.0.0.0/0",
                "2001:db8::1",
                "2001:db8::/32",
                "::/0"
            ])
            .prop_map(str::to_owned),
            (any::<u128>(), 0..=128_u8)
                .prop_map(|(bits, prefix)| format!("{}/{prefix}", std::net::Ipv6Addr::from(bits)))
                .prop_filter("mapped networks have a test of their own", |net| !net.starts_with("::ffff:")),
        ]),
        (Takes::Text, _) => prop_oneof![
            bare(
                select(vec![
                    "nginx",
                    "curl",
                    "n*",
                    "*",
                    "?url",
                    "kworker/[0-9]*",
                    "/usr/*/nginx",
                    "-s",
                    "--all",
                    "*.service",
                    "nginx.service",
                    "0f7d84f32c4d",
                    "pts/*",
                    "/tmp"
                ])
                .prop_map(str::to_owned)
            ),
            select(vec!["tmux: server", "a b", "nginx", "n*", "\"\\", ""])
                .prop_map(|text| value(Form::Quoted, text)),
            select(vec!["^ng", "url$", "(?i)NGINX", "[^a-z,]", "a{1,2}", "\\/usr", "."])
                .prop_map(|text| value(Form::Regex, text)),
        ]
        .boxed(),
        (Takes::Errors, _) => {
            named(vec!["ECONNREFUSED", "ECONNRESET", "104", "0", "100-120", "cancelled", "524"])
        }
        (Takes::Names, Key::State) => named(names::all::<TcpState>()),
        (Takes::Names, Key::ExeFlag) => named(names::all::<names::ExeFlag>()),
        (Takes::Names, Key::Runtime) => named(names::all::<Runtime>()),
        (Takes::Names, Key::Dir) => named(names::all::<Direction>()),
        (Takes::Names, Key::Kind) => named(names::all::<EventKind>()),
        (Takes::Names, Key::Proto) => named(names::all::<Transport>()),
        (Takes::Names, Key::End) => named(names::all::<EndedHow>()),
        (Takes::Names, Key::Source) => named(names::all::<Source>()),
        (Takes::Names, Key::Family) => named(vec!["ipv4", "ipv6"]),
        (Takes::Names, _) => named(names::METHODS.to_vec()),
    }
}

fn any_expr() -> BoxedStrategy<Expr> {
    let word = select(Key::ALL).prop_flat_map(|key| {
        (any::<bool>(), vec(values(key), 1..4)).prop_map(move |(negated, values)| Word {
            negated,
            key,
            values,
        })
    });
    vec(word, 0..4).prop_map(|words| Expr { words }).boxed()
}

fn without_spans(mut expr: Expr) -> Expr {
    for value in expr.words.iter_mut().flat_map(|word| &mut word.values) {
        value.span = 0..0;
    }
    expr
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_is_printed_reads_back(expr in any_expr()) {
        let printed = expr.to_string();
        prop_assert_eq!(without_spans(parse::parse(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?), expr);
    }

    #[test]
    fn compiled_equals_naive(expr in any_expr(), event in samples::any_event()) {
        let filter = Filter::new(&expr.to_string()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let naive = Naive::of(&event);
        prop_assert_eq!(filter.matches(&event), expr.words.iter().all(|word| naive.holds(word)), "{}", expr);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        refused_or_stable(&text)?;
    }

    #[test]
    fn near_texts_are_read_or_refused(text in "(-?(port|proc|exe|dst|kind|errno|x):?[a-z0-9/\"\\\\,{}\\[\\]*. :-]{0,12} ?){0,4}") {
        refused_or_stable(&text)?;
    }
}

/// No text panics, an error can be shown, and a filter means the same after printing.
fn refused_or_stable(text: &str) -> Result<(), TestCaseError> {
    match Filter::new(text) {
        Ok(filter) => {
            let printed = filter.to_string();
            let again = parse::parse(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(without_spans(again), without_spans(parse::parse(text).expect("it was read")));
        }
        Err(error) => {
            let shown = error.to_string();
            prop_assert!(
                !shown.lines().any(|line| line.chars().any(crate::event::escape::is_hidden)),
                "{shown:?}"
            );
            prop_assert!(shown.contains('^'));
        }
    }
    Ok(())
}

#[test]
fn a_long_filter_is_refused_quickly() {
    assert!(Filter::new(&"port:1,".repeat(100_000)).is_err());
    let many = format!("port:1{}", ",1".repeat(5_000));
    assert!(Filter::new(&many).is_ok());
}

fn names_of(key: Key) -> Option<Vec<&'static str>> {
    Some(match key {
        Key::State => names::all::<TcpState>(),
        Key::ExeFlag => names::all::<names::ExeFlag>(),
        Key::Runtime => names::all::<Runtime>(),
        Key::Dir => names::all::<Direction>(),
        Key::Kind => names::all::<EventKind>(),
        Key::Proto => names::all::<Transport>(),
        Key::End => names::all::<EndedHow>(),
        Key::Source => names::all::<Source>(),
        Key::Family => vec!["ipv4", "ipv6"],
        Key::Method => names::METHODS.to_vec(),
        _ => return None,
    })
}

const PAGE: &str = include_str!("reference.md");

#[test]
fn the_page_of_the_documentation_is_made_from_the_keys() {
    let mut rows = String::new();
    for key in Key::ALL {
        let about = key.about();
        Filter::new(about.example).unwrap_or_else(|error| panic!("the example of {}: {error}", about.name));
        let alias = about.alias.map(|alias| format!(", `{alias}`")).unwrap_or_default();
        let takes = match names_of(*key) {
            Some(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            None => about.takes.help().to_owned(),
        };
        let _ =
            writeln!(rows, "| `{}`{alias} | {} | {takes} | `{}` |", about.name, about.meaning, about.example);
    }
    let page = PAGE.replace("@KEYS@\n", &rows);
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filter.md"), &page);
}
