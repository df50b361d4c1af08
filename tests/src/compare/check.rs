//! Compares an event with its fact, field by field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::compare::{CLOCK_SLACK_NS, Life, Problem, Truth, brief};
use crate::event::{Actor, Event, Process, shown, shown_args};
use crate::expect::{Backend, Case, Expect, Who, errno_name};
use crate::truth::{Dir, End, Ending, Fact, Kind, ProcessFact};

/// Collects what is wrong with one event.
struct Report<'a> {
    event: &'a Event,
    fact: String,
    wrong: Vec<String>,
}

impl Report<'_> {
    fn want<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, reported: &T, truth: &T) {
        if reported != truth {
            self.wrong.push(format!("{what}: reported {reported:?}, true is {truth:?}"));
        }
    }

    fn say(&mut self, text: String) {
        self.wrong.push(text);
    }
}

/// The fact with the one of its possible endings that the event reports; the first one, if it reports none of them.
pub(crate) fn as_reported<'a>(fact: &'a Fact, event: Option<&Event>) -> Cow<'a, Fact> {
    let Some(event) = event else { return Cow::Borrowed(fact) };
    let names_one = event.closer.as_ref().is_some_and(|closer| closer.process.is_some());
    let is_reported = |end: Option<End>, pid: Option<u32>| {
        event.end.as_deref() == end.map(End::name) && names_one == pid.is_some()
    };
    if is_reported(fact.end, fact.pid) {
        return Cow::Borrowed(fact);
    }
    match fact.or.iter().find(|or| is_reported(Some(or.end), or.pid)) {
        Some(&Ending { end, errno, pid }) => {
            let tid = fact.tid.filter(|_| pid == fact.pid);
            Cow::Owned(Fact { end: Some(end), errno, pid, tid, ..fact.clone() })
        }
        None => Cow::Borrowed(fact),
    }
}

/// Compares one event with its fact.
pub(crate) fn event(
    truth: &Truth,
    case: &Case,
    expect: Expect,
    reasons: &[&str],
    event: &Event,
    problems: &mut Vec<Problem>,
) {
    let mut report = Report { event, fact: brief(case.fact), wrong: Vec::new() };
    socket(&mut report, case, expect);
    time(&mut report, case, expect);
    age(&mut report, case);
    owner(&mut report, truth, case, expect);
    outcome(&mut report, case);
    closer(&mut report, truth, case, expect);
    if !report.wrong.is_empty() {
        let because =
            if reasons.is_empty() { String::new() } else { format!("; conceded: {}", reasons.join("; ")) };
        problems.push(Problem::Wrong(format!(
            "{}\n    in    {}\n    fact  {}{because}",
            report.wrong.join("\n          "),
            event.raw_or_brief(),
            report.fact
        )));
    }
}

fn socket(report: &mut Report, case: &Case, expect: Expect) {
    let (event, fact) = (report.event, case.fact);
    report.want("schema", &event.schema, &1);
    if event.conn_id.as_ref().is_none_or(String::is_empty) {
        report.say("no conn_id".into());
    }
    report.want("proto", &event.proto.as_deref(), &Some(if fact.sock.mptcp { "mptcp" } else { "tcp" }));
    report.want("device", &event.device, &fact.sock.device);
    report.want("kernel_socket", &event.kernel_socket, &fact.sock.kernel);
    // A mapped socket is shown with its IPv4 addresses.
    let family = if fact.sock.laddr.is_ipv4() { "ipv4" } else { "ipv6" };
    report.want("family", &event.family.as_deref(), &Some(family));
    if !fact.kind.is_listener() {
        report.want("mapped", &event.mapped, &Some(fact.sock.mapped));
    }
    if fact.sock.lport.is_none() && !expect.port_may_be_null && event.lport.is_none() {
        report.say("lport is null".into());
    }
    if let Some(dir) = fact.dir {
        let dir = if dir == Dir::Out { "out" } else { "in" };
        report.want("dir", &event.dir.as_deref(), &Some(dir));
        let ports_known = event.lport.is_some() && event.rport.is_some();
        report.want("has a community_id", &event.community_id.is_some(), &ports_known);
        if event.community_id.as_ref().is_some_and(|id| !id.starts_with("1:")) {
            report.say(format!("community_id {:?}", event.community_id));
        }
    }
    let source = if fact.early { "snapshot" } else { "live" };
    report.want("source", &event.source.as_deref(), &Some(source));
}

fn time(report: &mut Report, case: &Case, expect: Expect) {
    let (at, fact) = (report.event.boot_ns, case.fact);
    if at + CLOCK_SLACK_NS < fact.from_ns {
        report.say(format!("{} µs before it could happen", (fact.from_ns - at) / 1_000));
    }
    if at > fact.until_ns + CLOCK_SLACK_NS && !expect.reported_late {
        report.say(format!("{} µs after it had happened", (at - fact.until_ns) / 1_000));
    }
}

/// The age of what was there before is an interval that has the true one in it, which the workload knows to lie between
/// two.
fn age(report: &mut Report, case: &Case) {
    let (event, fact) = (report.event, case.fact);
    let Some((first, last)) = fact.begun_ns else { return };
    let (youngest, oldest) = (event.boot_ns.saturating_sub(last), event.boot_ns.saturating_sub(first));
    match &event.age {
        None => report.say("no age".into()),
        Some(age) => {
            let most = age.at_most_ns.unwrap_or(u64::MAX);
            if age.at_least_ns > oldest + CLOCK_SLACK_NS || most.saturating_add(CLOCK_SLACK_NS) < youngest {
                let least = age.at_least_ns;
                report.say(format!("age: reported {least} to {most} ns, true is {youngest} to {oldest}"));
            }
        }
    }
}

fn owner(report: &mut Report, truth: &Truth, case: &Case, expect: Expect) {
    let event = report.event;
    let reported = Actor {
        process: event.process.clone(),
        tid: event.tid,
        method: event.method.clone().unwrap_or_default(),
        hook: event.hook.clone(),
        reason: event.reason.clone(),
    };
    let begin = case.begin.unwrap_or(case.fact);
    let image = begin.pid.and_then(|pid| truth.image(pid, begin.from_ns));
    actor(report, "owner", &reported, image, begin.tid, expect.owner, case.backend, true);
}

fn closer(report: &mut Report, truth: &Truth, case: &Case, expect: Expect) {
    if !matches!(case.fact.kind, Kind::Close | Kind::Unlisten) {
        return;
    }
    let Some(reported) = report.event.closer.clone() else {
        report.say("no closer".into());
        return;
    };
    let image = case.fact.pid.and_then(|pid| truth.image(pid, case.fact.from_ns));
    // A closer may be in the middle of an exec: only the process is certain, not which image it shows.
    actor(report, "closer", &reported, image, case.fact.tid, expect.closer, case.backend, false);
}

#[expect(clippy::too_many_arguments, reason = "one comparison, all of whose sides differ from call to call")]
fn actor(
    report: &mut Report,
    role: &str,
    reported: &Actor,
    image: Option<&ProcessFact>,
    tid: Option<u32>,
    who: Who,
    backend: Backend,
    whole: bool,
) {
    let unknown = reported.process.is_none() && reported.method == "unknown" && reported.reason.is_some();
    match (who, &reported.process, image) {
        (Who::Unknown, None, _) if unknown => {}
        (Who::Unknown, ..) => {
            report.say(format!("{role}: reported {}, but nobody can know it", name(reported)));
        }
        (Who::KernelThread, Some(process), None) => {
            report.want(&format!("{role} is a kernel thread"), &process.kernel, &true);
            report.want(&format!("{role} method"), &reported.method.as_str(), &"hook");
        }
        (_, Some(process), Some(image)) => {
            same_process(report, role, process, image, whole);
            if who == Who::FdTable {
                report.want(&format!("{role} method"), &reported.method.as_str(), &"fd_table");
            }
            if who == Who::Hook {
                report.want(&format!("{role} method"), &reported.method.as_str(), &"hook");
                let hook = reported.hook.as_deref().unwrap_or_default();
                if !backend.owns_hook(hook) {
                    report.say(format!("{role}: hook {hook:?} is not of backend {}", backend.name()));
                }
                if tid.is_some() {
                    report.want(&format!("{role} tid"), &reported.tid, &tid);
                }
            }
        }
        (_, None, Some(image)) => {
            report.say(format!("{role}: reported {}, true is {}", name(reported), image.pid));
        }
        (_, _, None) => {
            report.say(format!("{role}: the truth does not name one, reported {}", name(reported)));
        }
    }
}

fn name(actor: &Actor) -> String {
    match &actor.process {
        Some(p) => format!("{} {:?} by {} {:?}", p.pid, p.comm, actor.method, actor.hook),
        None => format!("nobody by {:?}, reason {:?}", actor.method, actor.reason),
    }
}

fn same_process(report: &mut Report, role: &str, reported: &Process, truth: &ProcessFact, whole: bool) {
    report.want(&format!("{role} pid"), &reported.pid, &truth.pid);
    if reported.pid != truth.pid || !whole {
        return;
    }
    report.want(&format!("{role} comm"), &reported.comm, &shown(truth.comm.as_bytes()));
    report.want(&format!("{role} exe"), &reported.exe.as_deref(), &Some(truth.exe.as_str()));
    report.want(&format!("{role} exe_deleted"), &reported.exe_deleted, &false);
    let (args, escaped) = shown_args(&truth.args);
    report.want(&format!("{role} args"), &reported.args, &args);
    report.want(&format!("{role} args_escaped"), &reported.args_escaped, &escaped);
    report.want(&format!("{role} args_truncated"), &reported.args_truncated, &false);
    report.want(&format!("{role} uid"), &reported.uid, &truth.uid);
    report.want(&format!("{role} gid"), &reported.gid, &truth.gid);
    if reported.ppid.is_some() && truth.ppid.is_some() {
        report.want(&format!("{role} ppid"), &reported.ppid, &truth.ppid);
    }
    if let Some(ticks) = truth.start_ticks {
        report.want(&format!("{role} start, in 10 ms"), &(reported.start_ns / 10_000_000), &ticks);
        let id = reported.id.split_once('-').map(|(_, rest)| rest);
        report.want(&format!("{role} id"), &id, &Some(format!("{}-{ticks}", truth.pid).as_str()));
    }
}

fn outcome(report: &mut Report, case: &Case) {
    let (event, fact) = (report.event, case.fact);
    match fact.kind {
        Kind::Failed => {
            report.want("errno", &event.errno, &Some(fact.errno));
            let error = if fact.errno == 0 { Some("cancelled") } else { errno_name(fact.errno) };
            report.want("error", &event.error.as_deref(), &error);
        }
        Kind::Close => {
            report.want("end", &event.end.as_deref(), &fact.end.map(End::name));
            report.want("errno", &event.errno, &Some(fact.errno));
            report.want("error", &event.error.as_deref(), &errno_name(fact.errno));
            if fact.bytes_in.is_some() {
                report.want("bytes_in", &event.bytes_in, &fact.bytes_in);
            }
            if fact.bytes_out.is_some() {
                report.want("bytes_out", &event.bytes_out, &fact.bytes_out);
            }
        }
        _ => {}
    }
}

/// Compares the events of one connection or listener with each other.
pub(crate) fn life(reported: &[&Event], problems: &mut Vec<Problem>) {
    let mut say = |event: &Event, text: String| {
        problems.push(Problem::Wrong(format!("{text}\n    in    {}", event.raw_or_brief())));
    };
    for pair in reported.windows(2) {
        if pair[1].conn_id != pair[0].conn_id {
            say(
                pair[1],
                format!("conn_id {:?}, but its {} had {:?}", pair[1].conn_id, pair[0].kind, pair[0].conn_id),
            );
        }
        if pair[1].seq < pair[0].seq {
            say(pair[1], format!("reported before its {}", pair[0].kind));
        }
    }
    let at = |kind: &str| reported.iter().find(|e| e.kind == kind);
    let spans = [
        ("established", "connect", at("established").and_then(|e| e.connect_ns)),
        ("failed", "connect", at("failed").and_then(|e| e.after_ns)),
        ("unlisten", "listen", at("unlisten").and_then(|e| e.duration_ns)),
        ("close", "established", at("close").and_then(|e| e.duration_ns)),
    ];
    for (later, earlier, span) in spans {
        if let (Some(later), Some(earlier)) = (at(later), at(earlier)) {
            let truth = later.boot_ns.saturating_sub(earlier.boot_ns);
            if span != Some(truth) {
                say(later, format!("{} ns since {}, reported {span:?}", truth, earlier.kind));
            }
        }
    }
}

/// No two connections share a `conn_id`, and both ends of one have the same Community ID.
pub(crate) fn identities(
    lives: &[Life],
    matched: &[Vec<Option<usize>>],
    events: &[&Event],
    problems: &mut Vec<Problem>,
) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut communities: BTreeMap<_, &str> = BTreeMap::new();
    for (i, (_, found)) in lives.iter().zip(matched).enumerate() {
        for event in found.iter().flatten().map(|&e| events[e]) {
            if let Some(id) = event.conn_id.as_deref()
                && *seen.entry(id).or_insert(i) != i
            {
                problems.push(Problem::Wrong(format!("two connections are {id}: {}", event.brief())));
            }
            if let (Some(id), Some(local), Some(remote)) =
                (event.community_id.as_deref(), event.local(), event.remote())
            {
                let ends = (local.min(remote), local.max(remote));
                if *communities.entry(ends).or_insert(id) != id {
                    problems
                        .push(Problem::Wrong(format!("two Community IDs for {ends:?}: {}", event.brief())));
                }
            }
        }
    }
}

impl Event {
    /// The line as it came, or in short when the event was made by a test.
    fn raw_or_brief(&self) -> String {
        if self.raw.is_empty() { self.brief() } else { self.raw.clone() }
    }
}
