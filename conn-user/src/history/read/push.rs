//! What of a filter SQLite can ask: less is read then, and what is read is asked again unless that says all.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::file::File;
use crate::filter::Filter;
use crate::filter::anchor::{Addresses, Anchor};
use crate::filter::compile::Side;
use crate::filter::key::Key;
use crate::history::error::HistoryError;

/// A longer list of ranges is left to the filter.
const RANGES_MAX: usize = 64;

/// The conditions of a filter on the columns of `conn`: what matches it fulfills them.
pub(super) fn condition(file: &File, filter: &Filter) -> Result<String, HistoryError> {
    let mut all = Vec::new();
    for anchor in filter.anchors() {
        match anchor {
            Anchor::Port(side, ports) if ports.len() <= RANGES_MAX => all.push(sided(side, |column| {
                any(ports.iter().map(|(low, high)| format!("{column}port BETWEEN {low} AND {high}")))
            })),
            Anchor::Address(side, addresses) => {
                let rows = rows(file, &addresses)?;
                all.push(sided(side, |column| format!("{column}addr IN ({rows})")));
            }
            Anchor::Uid(uids) if uids.len() <= RANGES_MAX => {
                let uid = any(uids.iter().map(|(low, high)| format!("uid BETWEEN {low} AND {high}")));
                let of = format!("(SELECT id FROM process WHERE {uid})");
                all.push(format!("(process IN {of} OR closer IN {of})"));
            }
            _ => {}
        }
    }
    Ok(all.join(" AND "))
}

/// Whether the conditions say all that the filter does: nothing that fulfills them must be asked again.
pub(super) fn is_exact(filter: &Filter) -> bool {
    let is_pushed = |(key, negated): (Key, bool)| {
        !negated && matches!(key, Key::Raddr | Key::Laddr | Key::Ip | Key::Rport | Key::Lport | Key::Port)
    };
    // Of an interface, or a list, which may name one: the conditions do not look at it.
    filter.keys().all(is_pushed)
        && !filter.to_string().contains(['%', '@'])
        && filter
            .anchors()
            .all(|anchor| !matches!(anchor, Anchor::Port(_, ports) if ports.len() > RANGES_MAX))
}

fn any(terms: impl Iterator<Item = String>) -> String {
    let terms: Vec<String> = terms.collect();
    if terms.is_empty() { "FALSE".to_owned() } else { format!("({})", terms.join(" OR ")) }
}

/// Who opened it is on one side or the other.
fn sided(side: Side, term: impl Fn(char) -> String) -> String {
    match side {
        Side::Local => term('l'),
        Side::Remote => term('r'),
        Side::Either | Side::Initiator | Side::Responder => format!("({} OR {})", term('r'), term('l')),
    }
}

/// The rows of `addr` of these addresses, with commas between.
fn rows(file: &File, addresses: &Addresses) -> Result<String, HistoryError> {
    let failed = |error| HistoryError::sqlite(&file.path, error);
    let mut list = String::new();
    let mut add = |row: i64| {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a text cannot fail.
        let _ = write!(list, "{comma}{row}");
    };
    if let Some(single) = single(addresses) {
        let mut ask = file.db.prepare("SELECT id FROM addr WHERE text = ?1").map_err(failed)?;
        for ip in single {
            let mut rows = ask.query([ip.to_string()]).map_err(failed)?;
            while let Some(row) = rows.next().map_err(failed)? {
                add(row.get(0).map_err(failed)?);
            }
        }
        return Ok(list);
    }
    let mut ask = file.db.prepare("SELECT id, text FROM addr").map_err(failed)?;
    let mut rows = ask.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let text = row.get_ref(1).map_err(failed)?.as_str().unwrap_or_default();
        let is_in = match text.parse() {
            Ok(IpAddr::V4(ip)) => has(&addresses.v4, ip.to_bits()),
            Ok(IpAddr::V6(ip)) => has(&addresses.v6, ip.to_bits()),
            Err(_) => true,
        };
        if is_in {
            add(row.get(0).map_err(failed)?);
        }
    }
    Ok(list)
}

/// The addresses one by one; `None`: there are networks among them, or many.
fn single(addresses: &Addresses) -> Option<Vec<IpAddr>> {
    if addresses.v4.len() + addresses.v6.len() > RANGES_MAX {
        return None;
    }
    let v4 = addresses.v4.iter().map(|(low, high)| (low == high).then(|| IpAddr::V4((*low).into())));
    let v6 = addresses.v6.iter().map(|(low, high)| (low == high).then(|| IpAddr::V6((*low).into())));
    v4.chain(v6).collect()
}

fn has<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(low, _)| *low <= value);
    after.checked_sub(1).is_some_and(|at| value <= ranges[at].1)
}
