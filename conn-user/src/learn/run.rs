//! What a command did in a good run, as rules: `conn run --learn`. Reference: `docs/run.md`.
//!
//! What changes from run to run is left out: process ids, the client's port, and the port of a listener that the kernel chose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use thiserror::Error;

use super::write::{Ids, LearnedRule, comment};
use crate::event::alert::{RuleKind, Severity};
use crate::filter::{Filter, FilterError};
use crate::flow::model::Direction;

/// Most different connections and listeners that become rules: a rule file has a size that a person can review.
const LEARNED_MAX: usize = 1_000;

/// Connections of a sort that were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenConnection {
    /// The word of a filter that says the program; `None`: none can, or it is not known.
    pub program: Option<Box<str>>,
    /// Which way.
    pub direction: Direction,
    /// The other side.
    pub remote: IpAddr,
    /// The port of the side that was connected to; 0: not known.
    pub port: u16,
    /// How many.
    pub count: u64,
    /// One was established.
    pub established: bool,
}

/// Listeners of a sort that were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenListener {
    /// The word of a filter that says the program; `None`: none can, or it is not known.
    pub program: Option<Box<str>>,
    /// Its address.
    pub local: IpAddr,
    /// Its port; 0: not known.
    pub port: u16,
    /// How many.
    pub count: u64,
}

/// A run to learn from.
#[derive(Clone, Debug)]
pub struct GoodRun {
    /// The command, for people.
    pub command: String,
    /// What it connected to and accepted.
    pub connections: Vec<SeenConnection>,
    /// Where it listened.
    pub listeners: Vec<SeenListener>,
    /// Ports that the kernel chooses (`ip_local_port_range`).
    pub ephemeral: RangeInclusive<u16>,
    /// Records that were lost, and things that were not followed.
    pub lost: u64,
}

/// Why nothing was learnt.
#[derive(Debug, Error)]
pub enum LearnError {
    /// There is too much.
    #[error("the run had more than {LEARNED_MAX} different connections and listeners: write rules by hand")]
    TooMuch,
    /// A filter is none: it is too long.
    #[error("what was seen cannot be said in a filter: {0}")]
    Filter(#[from] FilterError),
}

/// What was seen of one filter.
#[derive(Default)]
struct Sort {
    count: u64,
    expected: bool,
    example: String,
}

/// The text of a rule file by which the same run is as expected.
///
/// # Errors
/// When there is too much to be reviewed.
pub fn learn(run: &GoodRun) -> Result<String, LearnError> {
    let chosen: BTreeSet<u16> =
        run.listeners.iter().map(|of| of.port).filter(|port| run.ephemeral.contains(port)).collect();
    let (mut paths, mut places) = (BTreeMap::<String, Sort>::new(), BTreeMap::<String, Sort>::new());
    for of in &run.connections {
        let filter = path(of, &chosen);
        let arrow = if of.direction == Direction::In { "from" } else { "to" };
        add(&mut paths, filter, of.count, || format!("{arrow} {} port {}", of.remote, of.port), {
            of.established && of.direction == Direction::Out
        });
    }
    for of in &run.listeners {
        let filter = place(of, &chosen);
        add(&mut places, filter, of.count, || format!("at {} port {}", of.local, of.port), true);
    }
    if paths.len() + places.len() > LEARNED_MAX {
        return Err(LearnError::TooMuch);
    }
    for filter in paths.keys().chain(places.keys()) {
        Filter::new(filter)?;
    }
    Ok(text(run, &paths, &places))
}

fn add(
    to: &mut BTreeMap<String, Sort>,
    filter: String,
    count: u64,
    example: impl FnOnce() -> String,
    expected: bool,
) {
    let sort = to.entry(filter).or_insert_with(|| Sort { example: example(), ..Sort::default() });
    sort.count = sort.count.saturating_add(count);
    sort.expected |= expected;
}

fn path(of: &SeenConnection, chosen: &BTreeSet<u16>) -> String {
    let mut words: Vec<String> = of.program.iter().map(ToString::to_string).collect();
    // Which side the other one is.
    let (direction, remote) = match of.direction {
        Direction::Out => ("out", "dst"),
        Direction::In => ("in", "src"),
        Direction::Unknown => ("unknown", "raddr"),
    };
    words.push(format!("dir:{direction}"));
    words.push(format!("{remote}:{}", zone(of.remote)));
    // Of the own listeners alone: elsewhere such a port is what somebody chose.
    let is_own = chosen.contains(&of.port) && (of.direction == Direction::In || of.remote.is_loopback());
    if of.port != 0 && !is_own {
        let key = if of.direction == Direction::Unknown { "rport" } else { "dport" };
        words.push(format!("{key}:{}", of.port));
    }
    words.join(" ")
}

fn place(of: &SeenListener, chosen: &BTreeSet<u16>) -> String {
    let mut words: Vec<String> = of.program.iter().map(ToString::to_string).collect();
    words.push(format!("laddr:{}", zone(of.local)));
    if of.port != 0 && !chosen.contains(&of.port) {
        words.push(format!("lport:{}", of.port));
    }
    words.join(" ")
}

/// An address as filters take it: of loopback the zone, for which address of it a name gives differs.
fn zone(ip: IpAddr) -> String {
    if ip.is_loopback() { "loopback".to_owned() } else { ip.to_string() }
}

fn text(run: &GoodRun, paths: &BTreeMap<String, Sort>, places: &BTreeMap<String, Sort>) -> String {
    let mut out = String::new();
    comment(
        "What this command did in a good run. Made by `conn run --learn`; read it before you use it:",
        &mut out,
    );
    comment(&format!("  {}", run.command), &mut out);
    comment("conn run --rules FILE -- COMMAND says whether it does so again. See docs/run.md.", &mut out);
    if run.lost > 0 {
        let lost = format!("INCOMPLETE: {} records were lost in this run. Learn again.", run.lost);
        comment("", &mut out);
        comment(&lost, &mut out);
    }
    let mut ids = Ids::default();
    let mut write = |rule: LearnedRule| {
        out.push('\n');
        rule.write(&mut out);
    };
    for (sorts, what, kind, asks, title) in [
        (paths, "connection", RuleKind::Path, "forbidden", "A connection that the good run did not have"),
        (places, "listener", RuleKind::Server, "listener", "A listener that the good run did not have"),
    ] {
        write(LearnedRule {
            comments: sorts.iter().map(|(filter, sort)| format!("{filter}: {}", seen(sort))).collect(),
            id: ids.of(&["run", what]),
            kind,
            asks,
            title: title.to_owned(),
            why: "Whatever the run did not do is unexpected.".to_owned(),
            severity: Severity::Medium,
            matches: String::new(),
            except: sorts.keys().cloned().collect(),
            off: None,
        });
    }
    for (sorts, what) in [(paths, "connection"), (places, "listener")] {
        for (filter, sort) in sorts.iter().filter(|(_, sort)| sort.expected) {
            write(LearnedRule {
                comments: vec![seen(sort)],
                id: ids.of(&["run", "missing", what]),
                kind: RuleKind::Missing,
                asks: what,
                title: format!("A {what} that the good run had"),
                why: "It is part of what the command is for.".to_owned(),
                severity: Severity::Medium,
                matches: filter.clone(),
                except: Vec::new(),
                off: None,
            });
        }
    }
    out
}

fn seen(sort: &Sort) -> String {
    let times = if sort.count == 1 { "time" } else { "times" };
    format!("seen {} {times}, e.g. {}", sort.count, sort.example)
}
