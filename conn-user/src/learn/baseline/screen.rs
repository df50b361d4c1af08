//! Keeps apart what rules raise alerts about: an intruder who is there while a baseline is learned is not normal.
//!
//! An alert may come after the event that it is about, so everything waits until the end; each path once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::learner::{Learner, Learnt, Suspicious};
use crate::event::alert::{Alert, Phase, RuleKind, RuleRef, Severity, Subject};
use crate::event::model::{Event, EventBody};
use crate::flow::model::{ConnEvent, Direction, ListenEvent};
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::rules::RuleSet;
use crate::rules::baseline::User;
use crate::rules::detector::{Triggers, connection, listener};
use crate::rules::model::{Detect, PathRule, ProcessRule, ServerRule};
use crate::units::WallNs;

/// Most paths that wait. A further one is learned as normal, and counted.
const WAITING_MAX: usize = 65_536;
/// The least severity of alerts that make something suspicious.
const LEAST: Severity = Severity::Medium;

/// What two events have in common that are learned as the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Path {
    program: Program,
    /// `None`: a listener.
    direction: Option<Direction>,
    ip: IpAddr,
    port: u16,
}

/// A program of a unit, or of none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Program {
    unit: Option<Box<[u8]>>,
    exe: Option<Box<[u8]>>,
    uid: u32,
}

#[derive(Debug)]
struct Waiting {
    event: Event,
    count: u64,
    last: WallNs,
}

/// Learns, and keeps apart what is suspicious.
#[derive(Debug, Default)]
pub struct Screen {
    learner: Learner,
    waiting: HashMap<Path, Waiting>,
    order: Vec<Path>,
    programs: HashMap<Program, Arc<RuleRef>>,
    paths: HashMap<Path, Arc<RuleRef>>,
    unscreened: u64,
}

/// Returns the rules of a set whose alerts make something suspicious: those that need not learn themselves what is normal.
pub fn screening(mut rules: RuleSet) -> RuleSet {
    rules.rules.retain(|rule| {
        let learns = matches!(
            rule.detect,
            Detect::Path(PathRule::FirstSeen { .. } | PathRule::Unlearned)
                | Detect::Process(ProcessRule::Unlearned)
                | Detect::Server(ServerRule::Unlearned)
                | Detect::Missing(_)
        );
        !learns && (rule.severity >= LEAST || matches!(rule.detect, Detect::Long(_)))
    });
    rules
}

impl Screen {
    /// Takes an event, or an alert of the rules that screen.
    pub fn take(&mut self, event: &Event) {
        match &event.body {
            EventBody::Alert(alert) => self.suspect(alert),
            EventBody::Facts(_) | EventBody::Sample(_) => {}
            _ => {
                self.learner.watch(event);
                self.wait(event);
            }
        }
    }

    /// See [`Learner::watched_until`].
    pub fn watched_until(&mut self, wall: WallNs) {
        self.learner.watched_until(wall);
    }

    /// See [`Learner::end_run`].
    pub fn end_run(&mut self) {
        self.learner.end_run();
    }

    fn wait(&mut self, event: &Event) {
        if !Triggers::of_reported(event).intersect(Triggers::BEGIN.and(Triggers::LISTEN)) {
            return;
        }
        let Some(path) = Path::of(event) else { return self.learner.add(event) };
        if let Some(waiting) = self.waiting.get_mut(&path) {
            waiting.count += 1;
            waiting.last = waiting.last.max(event.wall);
        } else if self.waiting.len() >= WAITING_MAX {
            self.unscreened += 1;
            self.learner.add(event);
        } else {
            self.order.push(path.clone());
            self.waiting.insert(path, Waiting { event: event.clone(), count: 1, last: event.wall });
        }
    }

    fn suspect(&mut self, alert: &Alert) {
        if alert.phase == Phase::Resolved || alert.severity < LEAST {
            return;
        }
        let rule = || Arc::clone(&alert.rule);
        let path = match &alert.subject {
            Subject::Connection(conn) => Path::of_connection(conn),
            Subject::Listener(listener) => Path::of_listener(listener),
            _ => None,
        };
        // What a rule says of a process it says of all that its program does.
        if alert.rule.kind == RuleKind::Process
            && let Some(process) = alert.subject.process()
        {
            self.programs.entry(Program::of(process)).or_insert_with(rule);
        }
        if let Some(path) = path {
            self.paths.entry(path).or_insert_with(rule);
        }
    }

    /// Returns what was learned: the entries of what is normal, and apart from them the suspicious ones, by rule.
    pub fn learnt(mut self) -> Learnt {
        let mut suspicious: BTreeMap<Box<str>, (Arc<RuleRef>, Learner)> = BTreeMap::new();
        for path in &self.order {
            let Some(waiting) = self.waiting.get(path) else { continue };
            let rule = self.programs.get(&path.program).or_else(|| self.paths.get(path));
            let learner = match rule {
                None => &mut self.learner,
                Some(rule) => {
                    let new = || (Arc::clone(rule), Learner::default());
                    &mut suspicious.entry(rule.id.clone()).or_insert_with(new).1
                }
            };
            learner.add_seen(&waiting.event, waiting.count, waiting.last);
        }
        let mut learnt = self.learner.learnt();
        learnt.suspicious = suspicious
            .into_values()
            .map(|(rule, learner)| Suspicious { rule, entries: learner.learnt().entries })
            .collect();
        learnt.unscreened = self.unscreened;
        learnt
    }
}

impl Program {
    fn of(process: &ProcessInfo) -> Self {
        let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
        Self { unit: unit.map(Into::into), exe: process.exe.as_deref().map(Into::into), uid: process.uid }
    }
}

impl Path {
    fn of(event: &Event) -> Option<Self> {
        User::of(event)?;
        match (connection(event), listener(event)) {
            (Some(conn), _) => Self::of_connection(conn),
            (None, Some(listener)) => Self::of_listener(listener),
            (None, None) => None,
        }
    }

    fn of_connection(conn: &ConnEvent) -> Option<Self> {
        let program = Program::of(conn.owner.process.as_deref()?);
        let direction = Some(conn.direction);
        Some(Self { program, direction, ip: conn.remote.ip(), port: conn.service_port() })
    }

    fn of_listener(listener: &ListenEvent) -> Option<Self> {
        let program = Program::of(listener.owner.process.as_deref()?);
        Some(Self { program, direction: None, ip: listener.local.ip(), port: listener.local.port() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::defaults;
    use crate::rules::host::Host;
    use crate::rules::testing::{Rig, process};

    /// What the rig reports, with the alerts among it.
    fn screened(act: impl FnOnce(&mut Rig)) -> Learnt {
        let rules = screening(defaults::set(&Host::default()).expect("right"));
        let mut rig =
            Rig::before(rules.rules.iter().map(|rule| crate::rules::model::Rule::clone(rule)).collect());
        rig.is_not_recorded();
        rig.begin();
        act(&mut rig);
        let (events, alerts) = (rig.happened(), rig.reported());
        let mut screen = Screen::default();
        for event in &events {
            screen.take(event);
        }
        for alert in alerts {
            let at = alert.at;
            let body = EventBody::Alert(Box::new(alert));
            screen.take(&Event { seq: 1, boot: at, wall: WallNs(at.0), body });
        }
        screen.learnt()
    }

    #[test]
    fn what_rules_raise_alerts_about_is_kept_apart() {
        let learnt = screened(|rig| {
            let intruder = process(100_010, "/tmp/.x");
            rig.open(&intruder, "203.0.113.9:443");
            rig.open(&intruder, "203.0.113.10:8443");
            let nginx = process(100_011, "/usr/sbin/nginx");
            rig.listen(&nginx, "0.0.0.0:443");
            rig.open(&nginx, "10.0.0.9:5432");
            // A path that is forbidden, of a program that is not.
            rig.open(&nginx, "169.254.169.254:80");
        });
        let (normal, suspicious): (Vec<_>, Vec<_>) = (
            learnt.entries.iter().map(|entry| (entry.who.words().1.to_owned(), entry.what.table())).collect(),
            learnt
                .suspicious
                .iter()
                .map(|one| (&*one.rule.id, one.entries.len(), one.entries[0].who.words().1.to_owned()))
                .collect(),
        );
        assert_eq!(
            normal,
            [("/usr/sbin/nginx".to_owned(), "listener"), ("/usr/sbin/nginx".to_owned(), "connection")]
        );
        assert_eq!(
            suspicious,
            [
                ("path.metadata", 1, "/usr/sbin/nginx".to_owned()),
                ("process.drop-place", 2, "/tmp/.x".to_owned())
            ]
        );
        let text = learnt.text("host", "live");
        let active: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(!active.iter().any(|line| line.contains("/tmp/.x") || line.contains("169.254")), "{text}");
        let title = "# SUSPICIOUS process.drop-place: Network activity from an executable in a world-writable directory";
        assert!(text.contains(title) && text.contains("# exe = \"/tmp/.x\""), "{text}");
        assert!(
            learnt
                .suspicions()
                .iter()
                .any(|line| line.contains("process.drop-place") && line.contains("/tmp/.x"))
        );
        // Whoever takes the comments away has entries as others.
        let uncommented: String = text
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
            .skip_while(|line| !line.starts_with("SUSPICIOUS"))
            .filter(|line| !line.starts_with("SUSPICIOUS"))
            .collect();
        assert!(toml::from_str::<toml::Table>(&uncommented).is_ok(), "{uncommented}");
    }

    #[test]
    fn counts_and_times_are_those_of_all() {
        let learnt = screened(|rig| {
            let curl = process(100_010, "/usr/bin/curl");
            for _ in 0..3 {
                rig.open_and_close(&curl, "203.0.113.9:443", None);
                rig.pass(crate::rules::testing::seconds(10));
            }
        });
        let [entry] = &learnt.entries[..] else { panic!("{learnt:?}") };
        assert_eq!(entry.seen.count, 3);
        assert!(entry.seen.last > entry.seen.first);
    }
}
