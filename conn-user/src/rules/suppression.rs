//! The smallest exception that suppresses a finding: a filter that says what is particular about it.

use std::fmt::Write as _;

use crate::event::model::{Event, EventBody};
use crate::filter::ast::{Form, Value};
use crate::filter::glob::Glob;
use crate::filter::parse::parse;
use crate::flow::model::{ConnEvent, ListenEvent};
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;

use super::about::{connection, listener};
use super::program;

/// `exe:… dport:… dst:…` of a connection. `address`: also which remote address.
pub(super) fn of_connection(conn: &ConnEvent, address: bool) -> Option<Box<str>> {
    let mut words = of_opener(conn)?.into_string();
    // Writing to a text cannot fail.
    let _ = write!(words, " dport:{}", conn.service_port());
    if address {
        let _ = write!(words, " raddr:{}", conn.remote.ip());
    }
    Some(words.into())
}

/// `exe:…` or `proc:…` of whose connection it is; `laddr:…` where the recording knows no processes.
pub(super) fn of_opener(conn: &ConnEvent) -> Option<Box<str>> {
    match conn.owner.process.as_deref() {
        Some(process) => of_process(process),
        None => program::host(conn).map(|host| format!("laddr:{host}").into()),
    }
}

/// `exe:… lport:…` of a listener.
pub(super) fn of_listener(listener: &ListenEvent) -> Option<Box<str>> {
    let process = of_process(listener.owner.process.as_deref()?)?;
    let words = match &listener.socket_unit {
        Some(unit) => format!("unit:{}", quoted(unit)),
        None => process.into_string(),
    };
    Some(format!("{words} lport:{}", listener.local.port()).into())
}

/// `exe:…`, or `proc:…` where the executable is not known. `None`: its name is not text, no filter can say it.
pub(crate) fn of_process(process: &ProcessInfo) -> Option<Box<str>> {
    match &process.exe {
        Some(exe) => Some(format!("exe:{}", quoted(str::from_utf8(exe).ok()?)).into()),
        None => Some(format!("proc:{}", quoted(str::from_utf8(&process.comm).ok()?)).into()),
    }
}

/// `exe:… unit:…`, or `exe:… parent:…` where no unit is: what a program does that may do anything, like a shell, is particular
/// by where it was started.
pub(super) fn of_started(process: &ProcessInfo) -> Option<Box<str>> {
    let program = of_process(process)?;
    let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
    if let Some(unit) = unit.filter(|unit| unit.ends_with(b".service")) {
        return Some(format!("{program} unit:{}", unit_value(str::from_utf8(unit).ok()?)).into());
    }
    let parent = process.ancestors.first().filter(|parent| parent.pid.0 != 1);
    let parent = parent.and_then(|parent| str::from_utf8(&parent.comm).ok());
    Some(parent.map_or(program.clone(), |parent| format!("{program} parent:{}", quoted(parent)).into()))
}

/// Whether a filter asks for more than the program. What asks for that alone, a shell say, would suppress
/// with an alert that somebody is in all others of its kind.
pub(super) fn is_narrow(filter: &str) -> bool {
    parse(filter).is_ok_and(|filter| filter.words.len() > 1)
}

/// Other exceptions that hold for an event's process: of its program alone, with its unit, with its user; and with the port.
pub(super) fn alternatives(event: &Event) -> Vec<String> {
    let conn = connection(event);
    let listener = listener(event);
    let process = match &event.body {
        EventBody::Exec(exec) => Some(&exec.process),
        _ => conn
            .map(|conn| &conn.owner)
            .or(listener.map(|listener| &listener.owner))
            .and_then(|owner| owner.process.as_ref()),
    };
    let mut found = Vec::new();
    let Some(process) = process else { return found };
    let port = match (conn, listener) {
        (Some(conn), _) => format!(" dport:{}", conn.service_port()),
        (None, Some(listener)) => format!(" lport:{}", listener.local.port()),
        (None, None) => String::new(),
    };
    let text = |bytes: &[u8]| str::from_utf8(bytes).ok().map(quoted);
    let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
    let unit = unit.and_then(|unit| str::from_utf8(unit).ok()).map(unit_value);
    let user = process.user.as_deref().and_then(text);
    let program = of_process(process);
    if let (Some(program), Some(unit)) = (&program, &unit) {
        found.push(format!("{program} unit:{unit}{port}"));
    }
    if let (Some(program), Some(user)) = (&program, &user) {
        found.push(format!("{program} user:{user}{port}"));
    }
    found.extend(unit.map(|unit| format!("unit:{unit}{port}")));
    found.extend(program.map(|program| format!("{program}{port}")));
    found
}

/// The unit, or of an instance of a template all instances: systemd makes one for each connection (`Accept=yes`). Service managers
/// of users are instances too, and different users'.
fn unit_value(unit: &str) -> String {
    let plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let instance = unit.split_once('@').and_then(|(name, rest)| Some((name, rest.rsplit_once('.')?)));
    match instance {
        Some((name, (instance, kind)))
            if !name.is_empty() && !instance.is_empty() && name != "user" && plain(name) && plain(kind) =>
        {
            format!("{name}@*.{kind}")
        }
        _ => quoted(unit),
    }
}

/// A value as the filter language takes it: in quotes where a character of it has a meaning.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:".contains(c);
    let bare = !text.is_empty() && text.chars().all(plain) && !Glob::is_glob(text) && !is_regex(text);
    let form = if bare { Form::Bare } else { Form::Quoted };
    Value { form, text: text.to_owned(), span: 0..0 }.to_string()
}

/// `/bin/` would be a regular expression.
fn is_regex(text: &str) -> bool {
    text.len() > 1 && text.starts_with('/') && text.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use crate::units::{BootNs, Pid};

    #[test]
    fn the_template_stands_for_its_instances() {
        for (unit, value) in [
            ("check@12-10.0.0.1:6556-10.0.0.9:40000.service", "check@*.service"),
            ("postgresql@15-main.service", "postgresql@*.service"),
            ("check.service", "check.service"),
            ("check@.service", "\"check@.service\""),
            ("user@1000.service", "\"user@1000.service\""),
            ("a*@1.service", "\"a*@1.service\""),
        ] {
            assert_eq!(unit_value(unit), value);
            let filter =
                Filter::new(&format!("unit:{value}")).unwrap_or_else(|error| panic!("{unit}: {error}"));
            assert_eq!(filter.to_string(), format!("unit:{value}"));
        }
    }

    #[test]
    fn any_name_can_be_suppressed() {
        for exe in
            ["/usr/bin/x", "/tmp/a b", "/tmp/\"q\"\\", "/tmp/*", "/x/", "@list", ">5", "", "/t,b", "/é"]
        {
            let process =
                ProcessInfo { exe: Some(exe.as_bytes().into()), ..ProcessInfo::new(Pid(1), BootNs(1)) };
            let words = of_process(&process).expect("text");
            let filter = Filter::new(&words).unwrap_or_else(|error| panic!("{exe}: {error}"));
            assert_eq!(filter.to_string(), *words);
        }
        let process = ProcessInfo { comm: [0xff].into(), ..ProcessInfo::new(Pid(1), BootNs(1)) };
        assert_eq!(of_process(&process), None);
    }

    #[test]
    fn a_filter_on_the_program_alone_is_not_narrow() {
        for program in ["exe:/usr/bin/bash", "exe:\"/opt/a b\"", "proc:\"a\\\" b\""] {
            assert!(!is_narrow(program), "{program}");
        }
        for narrow in ["exe:/usr/bin/bash parent:cron", "exe:\"/opt/a b\" dport:443"] {
            assert!(is_narrow(narrow), "{narrow}");
        }
    }
}
