//! `[[baseline.connection]]`, `[[baseline.listener]]`, `[[baseline.program]]` and `[[baseline.window]]` of rule files.

use ipnet::IpNet;

use super::error::{Problem, Problems};
use super::value::{Field, Node, Value, find};
use crate::event::names;
use crate::event::time;
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;
use crate::filter::{Names, canonical_net};
use crate::flow::model::{Direction, canonical_ip};
use crate::rules::baseline::{Entry, Place, Ports, Seen, What, Who, Window};
use crate::units::WallNs;

/// Most entries of a file.
pub(crate) const ENTRIES_MAX: usize = 32_768;
/// Longest name, as a path can be.
const NAME_MAX: usize = 4_096;

const TABLES: [&str; 4] = ["connection", "listener", "program", "window"];
const SEEN: [&str; 4] = ["count", "first", "last", "example"];

/// Reads what a file says; what is wrong is reported and left out.
pub(super) fn read(
    node: &Node,
    names: &Names,
    entries: &mut Vec<Entry>,
    windows: &mut Vec<Window>,
    problems: &mut Problems,
) {
    let takes = "[[baseline.connection]], [[baseline.listener]], [[baseline.program]] or [[baseline.window]]";
    let Value::Table(fields) = &node.value else {
        problems.push(node.wrong("baseline", takes));
        return;
    };
    let before = entries.len();
    for field in fields {
        if !TABLES.contains(&field.name.as_str()) {
            problems.push(unknown(field, "the baseline has", &TABLES));
            continue;
        }
        let nodes = match field.node.array(&field.name, takes) {
            Ok(nodes) => nodes,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        for node in nodes {
            if entries.len() - before >= ENTRIES_MAX {
                let message = format!("there are more than {ENTRIES_MAX} entries in this file");
                problems.push(Problem::new(&node.at, message, "use networks, zones and globs"));
                return;
            }
            let Value::Table(own) = &node.value else {
                problems.push(node.wrong(&field.name, takes));
                continue;
            };
            let mut table = Table { name: &field.name, node, fields: own, names, problems };
            if field.name == "window" {
                windows.extend(table.window());
            } else {
                entries.extend(table.entry());
            }
        }
    }
}

struct Table<'a> {
    name: &'a str,
    node: &'a Node,
    fields: &'a [Field],
    names: &'a Names,
    problems: &'a mut Problems,
}

impl<'a> Table<'a> {
    fn window(&mut self) -> Option<Window> {
        self.only(&["from", "to", "events", "lost"]);
        let (from, to) = (self.time("from"), self.time("to"));
        let (events, lost) = (self.number("events"), self.number("lost"));
        Some(Window { from: from?, to: to?, events: events.unwrap_or(0), lost: lost.unwrap_or(0) })
    }

    fn entry(&mut self) -> Option<Entry> {
        let own: &[&str] = match self.name {
            "connection" => &["unit", "exe", "dir", "remote", "port"],
            "listener" => &["unit", "exe", "local", "port"],
            _ => &["unit", "exe"],
        };
        self.only(&[own, &SEEN].concat());
        let before = self.problems.len();
        let what = match self.name {
            "connection" => {
                let direction = self.direction();
                let (remote, ports) = (self.place("remote"), self.ports());
                Some((direction, remote, ports)).and_then(|(direction, remote, ports)| {
                    Some(What::Connection { direction: direction?, remote: remote?, ports: ports? })
                })
            }
            "listener" => {
                let (local, ports) = (self.place("local"), self.ports());
                local.zip(ports).map(|(local, ports)| What::Listener { local, ports })
            }
            _ => self.text("exe", true).map(|exe| What::Program { exe: exe.into() }),
        };
        let who = self.who();
        let seen = Seen {
            count: self.number("count").unwrap_or(0),
            first: self.time("first").unwrap_or_default(),
            last: self.time("last").unwrap_or_default(),
            example: self.text("example", false).unwrap_or_default().into(),
        };
        let entry = Entry { who: who?, what: what?, seen };
        (self.problems.len() == before).then_some(entry)
    }

    fn who(&mut self) -> Option<Who> {
        let (unit, exe) = (find(self.fields, "unit"), find(self.fields, "exe"));
        if self.name == "program" {
            return self.text("unit", true).and_then(|unit| self.unit(unit));
        }
        match (unit, exe) {
            (Some(_), None) => self.text("unit", true).and_then(|unit| self.unit(unit)),
            (None, Some(_)) => self.text("exe", true).map(|exe| Who::Exe(exe.into())),
            (Some(_), Some(exe)) => {
                let message = "an entry has `unit` or `exe`, not both";
                let help = "which executables of a unit are known is in [[baseline.program]]";
                self.problems.push(Problem::new(&exe.at, message, help));
                None
            }
            (None, None) => {
                let message = format!("this {} has neither `unit` nor `exe`", self.name);
                let help = "write unit = \"NAME.service\", or of what is in no service exe = \"/PATH\"";
                self.problems.push(Problem::new(&self.node.at, message, help));
                None
            }
        }
    }

    fn unit(&mut self, unit: &str) -> Option<Who> {
        if unit.ends_with(".service") || unit.ends_with(".socket") {
            return Some(Who::Unit(unit.into()));
        }
        let at = find(self.fields, "unit").map_or(&self.node.at, |field| &field.node.at);
        let message = format!("{} is neither a service nor a socket", quoted(unit));
        let help = "write NAME.service or NAME.socket; what runs in sessions and other scopes has its `exe`";
        self.problems.push(Problem::new(at, message, help));
        None
    }

    fn direction(&mut self) -> Option<Direction> {
        let text = self.text("dir", true)?;
        let found = names::from_name::<Direction>(text).filter(|found| *found != Direction::Unknown);
        if found.is_none() {
            self.wrong("dir", text, "write \"out\" or \"in\"");
        }
        found
    }

    fn place(&mut self, key: &str) -> Option<Place> {
        let text = self.text(key, true)?;
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Place::Net(canonical_net(net)));
        }
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            return Some(Place::Net(canonical_ip(ip).0.into()));
        }
        if self.names.zone(text).is_some() {
            return Some(Place::Zone(text.into()));
        }
        let known: Vec<&str> = self.names.zones().map(|(name, _)| name).collect();
        let near = nearest(text, known.iter().copied());
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        let help = format!("{near}write an address, a network or a zone: {}", known.join(", "));
        self.wrong(key, text, &help);
        None
    }

    fn ports(&mut self) -> Option<Ports> {
        let field = self.need("port")?;
        let takes = "a port, or a range in quotes: port = 443, port = \"32768-65535\"";
        let port = |text: &str| text.parse::<u16>().ok();
        let ports = match &field.node.value {
            Value::Integer(Some(number)) => u16::try_from(*number).ok().map(Ports::one),
            Value::Text(text) => match text.split_once('-') {
                Some((low, high)) => port(low).zip(port(high)).map(|(low, high)| Ports { low, high }),
                None => port(text).map(Ports::one),
            },
            _ => None,
        };
        let ports = ports.filter(|ports| ports.low <= ports.high);
        if ports.is_none() {
            self.problems.push(Problem::new(&field.node.at, "this is no port", format!("write {takes}")));
        }
        ports
    }

    fn time(&mut self, key: &str) -> Option<WallNs> {
        let text = self.text(key, self.name == "window")?;
        let time = time::parse(text);
        if time.is_none() {
            self.wrong(key, text, "write a time as in RFC 3339: \"2026-11-26T21:00:00Z\"");
        }
        time
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        let field = find(self.fields, key)?;
        match field.node.value {
            Value::Integer(Some(number)) if number >= 0 => u64::try_from(number).ok(),
            _ => {
                self.problems.push(field.node.wrong(key, "a whole number from 0"));
                None
            }
        }
    }

    fn text(&mut self, key: &str, required: bool) -> Option<&'a str> {
        let field = if required { self.need(key)? } else { find(self.fields, key)? };
        match field.node.text(key, "a text in quotes") {
            Ok("") if required => {
                self.problems.push(Problem::new(&field.node.at, format!("`{key}` is empty"), "write a name"));
                None
            }
            Ok(text) if text.len() > NAME_MAX => {
                let message = format!("`{key}` is longer than {NAME_MAX} bytes");
                self.problems.push(Problem::new(&field.node.at, message, "write a glob"));
                None
            }
            Ok(text) => Some(text),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn need(&mut self, key: &str) -> Option<&'a Field> {
        let field = find(self.fields, key);
        if field.is_none() {
            let message = format!("this {} has no `{key}`", self.name);
            self.problems.push(Problem::new(&self.node.at, message, "`conn learn` writes whole entries"));
        }
        field
    }

    fn wrong(&mut self, key: &str, text: &str, help: &str) {
        let at = find(self.fields, key).map_or(&self.node.at, |field| &field.node.at);
        self.problems.push(Problem::new(at, format!("`{key}` cannot be {}", quoted(text)), help));
    }

    fn only(&mut self, known: &[&str]) {
        for field in self.fields.iter().filter(|field| !known.contains(&field.name.as_str())) {
            self.problems.push(unknown(field, &format!("a {} has", self.name), known));
        }
    }
}

fn unknown(field: &Field, what: &str, known: &[&str]) -> Problem {
    let near = nearest(&field.name, known.iter().copied());
    let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
    let help = format!("{near}{what} {}", known.join(", "));
    Problem::new(&field.at, format!("unknown key {}", quoted(&field.name)), help)
}
