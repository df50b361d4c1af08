//! Which keys of a line an event of each kind has.

use serde_json::{Map, Value, json};

use super::{Key, Part, Presence, definitions, generator, object, with_null, without_null};
use crate::event::model::{EventKind, SCHEMA_VERSION};
use crate::event::wire::{Age, Coverage, Line, Peer, Stdio, Who};

/// What [`Method`](super::Method) demands beside it.
fn with_method() -> Value {
    let then = |method: &str, key: &str| {
        json!({
            "if": {"properties": {"method": {"const": method}}},
            "then": {"required": [key]},
        })
    };
    json!([then("hook", "hook"), then("unknown", "reason")])
}

const fn key(name: &'static str, presence: Presence) -> Key {
    Key { name, presence, means: None, only: None }
}

const fn always(name: &'static str) -> Key {
    key(name, Presence::Always)
}

const fn known(name: &'static str) -> Key {
    key(name, Presence::Known)
}

const fn sometimes(name: &'static str) -> Key {
    key(name, Presence::Where)
}

/// What `conn query` adds to a row of many connections.
const fn together() -> Key {
    sometimes("count").means(
        "Only from `conn query`: so many identical short connections have this line together. It has the time of the last of them, the \
         sum of their bytes and the longest of their durations.",
    )
}

const fn sometimes_known(name: &'static str) -> Key {
    key(name, Presence::WhereKnown)
}

impl Key {
    const fn means(self, means: &'static str) -> Self {
        Self { means: Some(means), ..self }
    }
}

fn part(name: &'static str, description: &'static str, of: &'static [&'static str], keys: Vec<Key>) -> Part {
    Part { name, description, of, keys, rules: Value::Null }
}

fn kind(kind: EventKind, description: &'static str, of: &'static [&'static str], keys: Vec<Key>) -> Part {
    let name = kind.name();
    let own = Key { only: Some(name), ..always("kind") };
    Part { keys: std::iter::once(own).chain(keys).collect(), ..part(name, description, of, vec![]) }
}

/// What several kinds have.
fn shared() -> Vec<Part> {
    vec![
        part(
            "head",
            "What every event has.",
            &[],
            ["schema", "seq", "ts", "boot_ns", "host", "boot_id", "kind"].map(always).into(),
        ),
        Part {
            rules: json!({"allOf": with_method()}),
            ..part(
                "owner",
                "Who connected, accepted, or called listen, and how that is known.",
                &[],
                vec![
                    known("process").means("The process; null: not known, see `reason`. With `--compact` its `id` alone where an earlier line has it."),
                    known("tid"),
                    always("method"),
                    sometimes("hook"),
                    sometimes("reason"),
                ],
            )
        },
        part(
            "socket",
            "What connections and listeners have.",
            &["owner"],
            vec![
                always("conn_id"),
                always("proto"),
                always("family"),
                always("mapped"),
                always("laddr"),
                known("lport"),
                always("netns"),
                always("source"),
                sometimes_known("age"),
                sometimes("kernel_socket"),
            ],
        ),
        part(
            "connection",
            "What events of connections have.",
            &["socket"],
            vec![
                sometimes("community_id"),
                always("dir"),
                always("raddr"),
                known("rport"),
                sometimes("device"),
            ],
        ),
        part(
            "listening",
            "What events of listeners have.",
            &["socket"],
            vec![
                sometimes("device").means(
                    "Interface that the socket is bound to (SO_BINDTODEVICE, or a link-local address): only where it \
                     is bound to one, and that is known. Its index where it has no name any more.",
                ),
                sometimes("v6only"),
                sometimes_known("socket_unit"),
            ],
        ),
        part("of_process", "A process.", &[], vec![always("process").means("The process.")]),
    ]
}

/// What an event of each kind has.
fn kinds() -> Vec<Part> {
    // An alert about something that is missing has the keys of none of them.
    let subjects: Vec<Value> = ["connection", "listening", "of_process"]
        .map(reference)
        .into_iter()
        .chain([json!({"required": ["alert"]})])
        .collect();
    vec![
        kind(
            EventKind::Connect,
            "A process opens a connection: the SYN is about to be sent.",
            &["head", "connection"],
            vec![],
        ),
        kind(
            EventKind::Accept,
            "A process accepted a connection.",
            &["head", "connection"],
            vec![sometimes("listener"), known("queued_ns")],
        ),
        kind(
            EventKind::Established,
            "The handshake of an outgoing connection completed.",
            &["head", "connection"],
            vec![known("connect_ns")],
        ),
        kind(
            EventKind::Failed,
            "An outgoing connection failed.",
            &["head", "connection"],
            vec![always("errno"), always("error"), known("after_ns"), together()],
        ),
        kind(
            EventKind::Close,
            "A connection ended; the first end counts.",
            &["head", "connection"],
            vec![
                always("end"),
                always("errno").means("Error of the socket at the end; 0: none."),
                known("error").means("Its name; null: none."),
                known("duration_ns"),
                known("bytes_in"),
                known("bytes_out"),
                known("retransmits"),
                known("srtt_us"),
                always("closer"),
                together(),
            ],
        ),
        kind(EventKind::Listen, "A socket began to listen.", &["head", "listening"], vec![]),
        kind(
            EventKind::Unlisten,
            "A socket stopped listening.",
            &["head", "listening"],
            vec![known("duration_ns").means("How long it listened; null: not known."), always("closer")],
        ),
        kind(
            EventKind::Exec,
            "A process executed a program. After a loss also a program that a repair found running, whose own event \
             was lost: its `source` is `proc_scan`. Only with `--kind exec` or `--all`.",
            &["head"],
            vec![
                always("process").means("The process after it."),
                sometimes("stdio"),
                sometimes("parent_stdio"),
                sometimes("stdio_peers"),
            ],
        ),
        Part {
            rules: json!({"oneOf": [{"required": ["code"]}, {"required": ["signal"]}]}),
            ..kind(
                EventKind::Exit,
                "A process exited. Only with `--kind exit` or `--all`. One of `code` and `signal` is there.",
                &["head"],
                vec![always("process").means("The process."), sometimes("code"), sometimes("signal")],
            )
        },
        kind(
            EventKind::Gap,
            "Records were lost. The stream is exact outside its bounds.",
            &["head"],
            vec![
                always("hook").means("The hook whose records were lost."),
                always("cause"),
                known("cpu"),
                always("lost"),
                always("from_boot_ns"),
                always("to_boot_ns"),
            ],
        ),
        kind(
            EventKind::Repair,
            "After a loss the tables were compared with the kernel's sockets; what that found comes before. From \
             here on they are right again.",
            &["head"],
            vec![always("seen_boot_ns")],
        ),
        kind(
            EventKind::Degraded,
            "The agent does less than it should, because a limit was reached or time was short. The first of each \
             `what` and `place` comes within a second, then one at most every ten seconds, and a last one at the end \
             of the run.",
            &["head"],
            vec![always("what"), sometimes("place"), always("count"), always("total")],
        ),
        kind(
            EventKind::Heartbeat,
            "The agent is alive. Of `conn agent` alone: every minute, unless `heartbeat` of its configuration says otherwise.",
            &["head"],
            ["every_ns", "uptime_ns", "records_lost", "dropped", "open_alerts"].map(always).into(),
        ),
        Part {
            rules: json!({"allOf": [{"anyOf": subjects}]}),
            ..kind(
                EventKind::Alert,
                "A rule found something, or what it found got worse or is over. It has the keys of what it is about: of \
             a connection, of a listener, or `process`, each as it was when the alert was raised; one about something \
             that is missing has none.",
                &["head"],
                vec![always("alert")],
            )
        },
        kind(
            EventKind::Start,
            "A recording begins (`conn tail --record`). What was there already follows, as `listen`, `accept`, \
             `connect` and `established` with `seq` 0.",
            &["head"],
            vec![always("run"), always("attached_boot_ns"), sometimes("has_facts")],
        ),
        kind(
            EventKind::Facts,
            "Only in a recording: facts of a process that the agent found in the background (`exe_sha256`, \
             `exe_copy_of`, `exe_deleted`, `exe_writable`, `exe_user_writable`, `exe_fs`, `exe_mount`, \
             `exe_replaced`, `cwd`, `tty`, `netns`) are known from here on.",
            &["head"],
            vec![always("process").means("The process, with what is known now."), always("settled")],
        ),
        kind(
            EventKind::Sample,
            "Only in a recording: a rule asked the kernel for the counters of a connection, and the answer was known \
             from here on. Without `asked_boot_ns` the connection had ended, or could not be found.",
            &["head"],
            vec![
                always("conn_id").means("The connection."),
                sometimes("asked_boot_ns"),
                sometimes("bytes_in").means("Payload bytes received so far."),
                sometimes("bytes_out").means("Payload bytes sent so far, retransmissions not counted."),
                sometimes("received_boot_ns"),
                sometimes("sent_boot_ns"),
            ],
        ),
        kind(
            EventKind::Clock,
            "Only in a recording: timers of rules fired up to this event's time, which no other event shows. A \
             replay lets them fire before the next event.",
            &["head"],
            vec![],
        ),
    ]
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

impl Part {
    fn schema(&self, line: &Map<String, Value>) -> Value {
        let mut properties = Map::new();
        for key in &self.keys {
            let node = line.get(key.name).unwrap_or_else(|| panic!("a line has no key {}", key.name));
            properties.insert(key.name.into(), key.schema(without_null(node.clone())));
        }
        let is_required = |key: &&Key| matches!(key.presence, Presence::Always | Presence::Known);
        let required: Vec<&str> = self.keys.iter().filter(is_required).map(|key| key.name).collect();
        let mut part = json!({
            "description": self.description,
            "type": "object",
            "properties": properties,
            "required": required,
        });
        let of = self.of.iter().map(|name| reference(name));
        let rules = self.rules["allOf"].as_array().cloned().unwrap_or_default();
        let all: Vec<Value> = of.chain(rules).collect();
        if !all.is_empty() {
            part["allOf"] = all.into();
        }
        if let Some(rule) = self.rules.get("oneOf") {
            part["oneOf"] = rule.clone();
        }
        part
    }
}

impl Key {
    fn schema(&self, node: Value) -> Value {
        if let Some(only) = self.only {
            return json!({ "const": only });
        }
        let mut node = match self.presence {
            Presence::Always | Presence::Where => node,
            Presence::Known | Presence::WhereKnown => with_null(node),
        };
        if let Some(means) = self.means {
            node["description"] = means.into();
        }
        node
    }
}

/// The schema of events.
pub(crate) fn events() -> Value {
    let mut generator = generator();
    let line = object(generator.root_schema_for::<Line<'static>>().to_value());
    let _ = (
        generator.subschema_for::<Who<'static>>(),
        generator.subschema_for::<Age<'static>>(),
        generator.subschema_for::<Stdio<'static>>(),
        generator.subschema_for::<Peer>(),
        generator.subschema_for::<Coverage<'static>>(),
    );
    let mut nested = definitions(&mut generator);
    let who = nested.get_mut("actor").expect("what a line has");
    who["allOf"] = with_method();
    let line = line["properties"].as_object().expect("the keys of a line");
    let (shared, kinds) = (shared(), kinds());
    let used = |key: &str| shared.iter().chain(&kinds).any(|part| part.keys.iter().any(|of| of.name == key));
    let unused: Vec<&String> = line.keys().filter(|key| !used(key)).collect();
    assert!(unused.is_empty(), "no kind of event has {unused:?}");
    let mut defs = Map::new();
    defs.extend(shared.iter().map(|part| (part.name.to_owned(), part.schema(line))));
    defs.extend(nested);
    defs.extend(kinds.iter().map(|part| (part.name.to_owned(), part.schema(line))));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:conn:event:{SCHEMA_VERSION}"),
        "title": format!("conn event, schema version {SCHEMA_VERSION}"),
        "description": "One line of `conn tail --json`. A key is absent where it does not apply, and null where it \
                        applies and is not known. Readers must accept keys that they do not know.",
        "oneOf": kinds.iter().map(|part| reference(part.name)).collect::<Vec<_>>(),
        "$defs": defs,
    })
}
