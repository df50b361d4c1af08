//! Zones and lists of rule files. A file sees its own and those of the files before it; under its own name a zone or list
//! finds what that name was before, so `internal = ["internal", "203.0.113.0/24"]` adds to it.

use std::collections::HashMap;

use ipnet::IpNet;

use super::error::{At, Problem, Problems};
use super::value::{Field, Node, Value};
use crate::filter::Names;
use crate::filter::error::quoted;
use crate::filter::names::{Zone, is_name};
use crate::filter::suggest::nearest;

/// Most values of a zone or list, with those that it takes from others.
const VALUES_MAX: usize = 1 << 16;
/// Most zones, and most lists, of a file.
const NAMES_MAX: usize = 1_024;

/// Adds the zones of a file.
pub(super) fn zones(node: &Node, names: &mut Names, problems: &mut Problems) {
    let takes = "a table: [zones] and below it name = [\"10.0.0.0/8\"]";
    define(node, "zones", takes, names, problems, zone);
}

/// Adds the lists of a file.
pub(super) fn lists(node: &Node, names: &mut Names, problems: &mut Problems) {
    let takes = "a table: [lists] and below it name = [\"value\"]";
    define(node, "lists", takes, names, problems, list);
}

/// Defines one of them.
type Define = fn(&Field, &mut Names, &mut Problems) -> Result<(), Problem>;

/// Defines each after those of the same file that it names. What remains goes round in a circle.
fn define(node: &Node, key: &str, takes: &str, names: &mut Names, problems: &mut Problems, one: Define) {
    let Value::Table(fields) = &node.value else {
        problems.push(node.wrong(key, takes));
        return;
    };
    if fields.len() > NAMES_MAX {
        let message = format!("there are more than {NAMES_MAX} {key} in this file");
        problems.push(Problem::new(&node.at, message, "use fewer, each with more in it"));
        return;
    }
    let own: HashMap<&str, usize> =
        fields.iter().zip(0..).map(|(field, at)| (field.name.as_str(), at)).collect();
    // Of each: how many it waits for, and who waits for it.
    let mut waits = vec![0_usize; fields.len()];
    let mut waiters = vec![Vec::new(); fields.len()];
    for (at, field) in fields.iter().enumerate() {
        for other in references(field).filter_map(|name| own.get(name).copied()).filter(|other| *other != at)
        {
            waits[at] += 1;
            waiters[other].push(at);
        }
    }
    let mut ready: Vec<usize> = (0..fields.len()).filter(|at| waits[*at] == 0).collect();
    while let Some(at) = ready.pop() {
        if let Err(problem) = one(&fields[at], names, problems) {
            problems.push(problem);
        }
        for waiter in std::mem::take(&mut waiters[at]) {
            waits[waiter] -= 1;
            if waits[waiter] == 0 {
                ready.push(waiter);
            }
        }
    }
    for (field, _) in fields.iter().zip(waits).filter(|(_, waits)| *waits > 0) {
        let message = format!("{} is made of others that are made of it", quoted(&field.name));
        problems.push(Problem::new(&field.at, message, "write the values themselves in one of them"));
    }
}

/// What could be names of others in a definition.
fn references(field: &Field) -> impl Iterator<Item = &str> {
    nodes(&field.node).iter().filter_map(|node| match &node.value {
        Value::Text(text) => Some(text.strip_prefix('@').unwrap_or(text)).filter(|name| is_name(name)),
        _ => None,
    })
}

/// The values of a definition, whatever its form.
fn nodes(node: &Node) -> &[Node] {
    match &node.value {
        Value::Table(fields) => fields.first().map_or(&[], |field| field.node.one_or_more()),
        _ => node.one_or_more(),
    }
}

fn zone(field: &Field, names: &mut Names, problems: &mut Problems) -> Result<(), Problem> {
    let takes =
        "networks or zones: [\"10.0.0.0/8\", \"loopback\"], or { not = [\"10.0.0.0/8\"] } for all others";
    let not = match &field.node.value {
        Value::Array(_) => false,
        Value::Table(fields) => match fields.as_slice() {
            [only] if only.name == "not" => {
                only.node.array("not", takes)?;
                true
            }
            _ => return Err(Problem::new(&field.node.at, "this is no zone", format!("write {takes}"))),
        },
        _ => return Err(field.node.wrong(&field.name, takes)),
    };
    let mut nets = Vec::new();
    for node in nodes(&field.node) {
        match net(node, names) {
            Ok(found) => nets.extend(found),
            Err(problem) => problems.push(problem),
        }
        enough(&field.at, nets.len())?;
    }
    let zone = if not { Zone::NotIn(nets.into()) } else { Zone::In(nets.into()) };
    names.set_zone(&field.name, zone).map_err(|error| bad_name(field, &error))
}

fn net(node: &Node, names: &Names) -> Result<Vec<IpNet>, Problem> {
    let text = node.text("zones", "a network or a zone in quotes")?;
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(vec![net]);
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok(vec![IpNet::from(ip)]);
    }
    let known: Vec<&str> = names.zones().map(|(name, _)| name).collect();
    let zones = known.join(", ");
    match names.zone(text) {
        Some(Zone::In(nets)) => Ok(nets.to_vec()),
        Some(Zone::NotIn(_)) => {
            let message =
                format!("the zone {} is all but some networks, and can be no part of another", quoted(text));
            Err(Problem::new(&node.at, message, "name networks, or zones that are made of networks"))
        }
        None if is_name(text) => {
            let near = nearest(text, known.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            Err(Problem::new(
                &node.at,
                format!("unknown zone {}", quoted(text)),
                format!("{near}the zones are {zones}"),
            ))
        }
        None => {
            let help = "write an address, a network such as 10.0.0.0/8 or 2001:db8::/32, or a zone";
            Err(Problem::new(&node.at, format!("{} is no network", quoted(text)), help))
        }
    }
}

fn list(field: &Field, names: &mut Names, problems: &mut Problems) -> Result<(), Problem> {
    let takes = "values: [\"bash\", \"/usr/bin/*\", \"@other-list\", 443]";
    let mut values = Vec::new();
    for node in field.node.array(&field.name, takes)? {
        match &node.value {
            Value::Integer(Some(number)) => values.push(number.to_string()),
            Value::Text(text) => match text.strip_prefix('@') {
                None => values.push(text.clone()),
                Some(name) => match names.list(name) {
                    Some(others) => values.extend(others.iter().cloned()),
                    None => problems.push(unknown_list(&node.at, name, names)),
                },
            },
            _ => problems.push(node.wrong(&field.name, takes)),
        }
        enough(&field.at, values.len())?;
    }
    names.set_list(&field.name, values).map_err(|error| bad_name(field, &error))
}

fn unknown_list(at: &At, name: &str, names: &Names) -> Problem {
    let known: Vec<&str> = names.lists().map(|(name, _)| name).collect();
    let near = nearest(name, known.iter().copied());
    let near = near.map_or_else(String::new, |near| format!("did you mean `@{near}`? "));
    let text = "a text with an @ at its start is written in double quotes inside the quotes: '\"@x\"'";
    let known = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("the lists are {}", known.join(", "))
    };
    Problem::new(at, format!("unknown list {}", quoted(name)), format!("{near}{known}; {text}"))
}

fn enough(at: &At, values: usize) -> Result<(), Problem> {
    if values <= VALUES_MAX {
        return Ok(());
    }
    let help = "use networks, ranges and globs that stand for many";
    Err(Problem::new(at, format!("it has more than {VALUES_MAX} values"), help))
}

fn bad_name(field: &Field, error: &crate::filter::names::NameError) -> Problem {
    Problem { at: field.at.clone(), message: error.to_string(), help: None }
}
