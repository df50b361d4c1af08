//! `find = "first-seen"`: a path that none took since the agent began, nor in earlier runs whose memory it has.
//!
//! What makes two connections the same path the rule says (`by`). Everything is learnt; until `learn` has passed, and of
//! what was there at the start, nothing is reported. A path whose attempts all fail is one too: that is what a scan looks like.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::{ConnEvent, Source};
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::rules::alerts::{Found, Life};
use crate::rules::baseline::same_net;
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::{Note, lasting};
use crate::rules::model::{PathKey, Rule};
use crate::rules::path_memory::{PathMemory, Reporter};
use crate::rules::{program, suppression};
use crate::units::{BootNs, DurationNs};

/// Most paths that are remembered; the one that was learnt first is forgotten, and would be reported again.
const PATHS_MAX: usize = 65_536;

/// How often a path was taken, and since when.
#[derive(Clone, Debug)]
struct Seen {
    count: u64,
    since: BootNs,
}

/// Finds connections on a path that was not taken before.
#[derive(Clone, Debug)]
pub(super) struct FirstSeen {
    by: Box<[PathKey]>,
    learn: DurationNs,
    /// For how long earlier runs have watched.
    watched: DurationNs,
    /// Where it reports what it learns.
    reporter: Option<Reporter>,
    seen: IntMap<u64, Seen>,
    order: VecDeque<u64>,
    forgotten: u64,
}

impl FirstSeen {
    pub(super) fn new(by: &[PathKey], learn: DurationNs) -> Self {
        let (seen, order) = (IntMap::default(), VecDeque::new());
        Self { by: by.into(), learn, watched: DurationNs(0), reporter: None, seen, order, forgotten: 0 }
    }

    /// Returns whether everything is learned still.
    fn learns(&self, now: BootNs, began: BootNs) -> bool {
        now.since(began).0.saturating_add(self.watched.0) < self.learn.0
    }

    fn path(&self, conn: &ConnEvent, names: &Names) -> u64 {
        let process = conn.owner.process.as_deref();
        let mut hash = DefaultHasher::new();
        // A path is one of this host's; a sensor sees many.
        program::host(conn).hash(&mut hash);
        for key in &self.by {
            match key {
                PathKey::Exe => process.map(program::name).hash(&mut hash),
                PathKey::Unit => process.map(unit).hash(&mut hash),
                PathKey::User => process.map(|process| process.uid).hash(&mut hash),
                PathKey::Zone => names.zone_of(conn.remote.ip()).hash(&mut hash),
                PathKey::Net => same_net(conn.remote.ip()).hash(&mut hash),
                PathKey::Ip => conn.remote.ip().hash(&mut hash),
                PathKey::Port => conn.service_port().hash(&mut hash),
                PathKey::Direction => conn.direction.hash(&mut hash),
            }
        }
        hash.finish()
    }

    /// Whether it is the first on its path, which is learnt.
    fn is_first(&mut self, path: u64, context: &Context<'_>) -> bool {
        if let Some(seen) = self.seen.get_mut(&path) {
            seen.count += 1;
            return false;
        }
        self.add(path, context.now);
        if let Some(reporter) = &self.reporter {
            context.learn(reporter, path, &mut self.forgotten);
        }
        true
    }

    fn add(&mut self, path: u64, now: BootNs) {
        self.seen.insert(path, Seen { count: 1, since: now });
        self.order.push_back(path);
        if self.order.len() > PATHS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
            self.forgotten += 1;
        }
    }
}

/// The unit, or the program where it is in none.
fn unit(process: &ProcessInfo) -> &[u8] {
    let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
    unit.unwrap_or_else(|| program::name(process))
}

impl Detector for FirstSeen {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn restore(&mut self, rule: &Rule, memory: &PathMemory, now: BootNs) {
        // Another definition of a path is another memory.
        let name: Arc<str> = format!("{} {:?}", rule.about.id, self.by).into();
        if let Some(known) = memory.of(&name) {
            self.watched = known.watched;
            for path in &known.paths {
                if !self.seen.contains_key(path) {
                    self.add(*path, now);
                }
            }
        }
        self.reporter = Some(Reporter::begin(memory, name, now, &mut self.forgotten));
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(conn) = connection(event) else { return };
        let path = self.path(conn, context.names);
        let is_first = self.is_first(path, context);
        let (names, now, watched) = (context.names, context.now, context.now.since(context.began));
        let evidence = || {
            vec![
                Evidence::text("zone", names.zone_of(conn.remote.ip()).as_bytes()),
                Evidence::number("paths_known", self.seen.len() as u64 - u64::from(is_first)),
                Evidence::duration("watched", watched),
            ]
        };
        let note =
            |says: &str| Note::new(says).with(evidence()).with([Evidence::duration("learn", self.learn)]);
        if !is_first {
            return context.note(|| {
                let seen = self.seen.get(&path);
                note("the path is known").with(seen.into_iter().flat_map(|seen| {
                    let known = Evidence::duration("known_for", now.since(seen.since));
                    [Evidence::number("taken_before", seen.count - 1), known]
                }))
            });
        }
        if context.existing || conn.source == Source::Snapshot {
            return context.note(|| note("the path is new, and is learnt: the connection was there before"));
        }
        if self.learns(context.now, context.began) {
            return context.note(|| {
                let left = DurationNs(self.learn.0.saturating_sub(watched.0 + self.watched.0));
                note(&format!("the path is new, and is learnt: everything is for {} still", lasting(left)))
            });
        }
        context.note(|| note("the path is new"));
        let found = Found {
            dedup_key: path,
            evidence: evidence(),
            suppress: suppression::of_connection(conn, true),
            judged_from: context.began,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        context.raise(rule, found);
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::alert::{Covered, Phase};
    use crate::flow::model::EndedHow;
    use crate::rules::model::{Detect, PathRule};
    use crate::rules::testing::{Rig, process, rule, seconds};

    fn rig(by: &[PathKey]) -> Rig {
        let detect = PathRule::FirstSeen { by: by.into(), learn: seconds(60) };
        Rig::before(vec![rule(Detect::Path(detect), "dir:out,unknown")])
    }

    #[test]
    fn a_new_path_is_reported_once_and_a_known_one_never() {
        let mut rig = rig(&[PathKey::Exe, PathKey::Net, PathKey::Port]);
        let ssh = process(10, "/usr/bin/ssh");
        rig.existing(crate::flow::model::Direction::Out, &ssh, None, "10.9.0.1:22");
        rig.begin();
        rig.open_and_close(&ssh, "10.1.0.1:22", None);
        rig.pass(seconds(120));
        // Learnt at the start, in the time of learning, and of the same network.
        for known in ["10.9.0.1:22", "10.1.0.1:22", "10.1.0.77:22"] {
            rig.open_and_close(&ssh, known, None);
        }
        assert!(rig.reported().is_empty());
        let id = rig.open(&ssh, "10.2.0.1:22");
        let alert = rig.only();
        assert_eq!((alert.phase, alert.covered), (Phase::Raised, Covered::All));
        assert_eq!(alert.suppress.as_deref(), Some("exe:/usr/bin/ssh dport:22 raddr:10.2.0.1"));
        rig.close(id, EndedHow::PeerFin, None);
        assert_eq!(rig.only().phase, Phase::Resolved);
        rig.pass(seconds(100_000));
        rig.open_and_close(&ssh, "10.2.0.9:22", None);
        assert!(rig.reported().is_empty(), "known now");
        rig.open(&process(11, "/usr/bin/nc"), "10.2.0.1:22");
        assert_eq!(rig.only().phase, Phase::Raised, "another program");
    }

    /// What an earlier run learned is known, its time of learning counts, and what this one learns is reported.
    #[test]
    fn a_restart_forgets_nothing() {
        use crate::rules::path_memory::{KnownByRule, KnownPaths, Learned};
        let ssh = process(10, "/usr/bin/ssh");
        let run = |known: KnownByRule, acts: &dyn Fn(&mut Rig)| {
            let (memory, _, reports) = PathMemory::new(known);
            let mut rig = rig(&[PathKey::Ip]).remembering(memory);
            // A recording has no memory.
            rig.is_not_recorded();
            rig.begin();
            acts(&mut rig);
            let raised = rig.reported().iter().filter(|alert| alert.phase == Phase::Raised).count();
            let mut known = KnownByRule::new();
            for learned in reports.try_iter() {
                match learned {
                    Learned::Began(name, _) => drop(known.entry(Box::from(&*name)).or_default()),
                    Learned::Path(name, path) => known.entry(Box::from(&*name)).or_default().paths.push(path),
                    Learned::End => {}
                }
            }
            (raised, known)
        };
        let (raised, mut known) = run(KnownByRule::new(), &|rig| {
            rig.open_and_close(&ssh, "10.1.0.1:22", None);
        });
        assert_eq!((raised, known.values().map(|known| known.paths.len()).sum::<usize>()), (0, 1));
        for known in known.values_mut() {
            *known = KnownPaths { watched: seconds(60), ..known.clone() };
        }
        let (raised, more) = run(known.clone(), &|rig| {
            rig.open_and_close(&ssh, "10.1.0.1:22", None);
            rig.open_and_close(&ssh, "10.1.0.2:22", None);
        });
        assert_eq!(raised, 1, "the new one, at once");
        assert_eq!(
            more.values().map(|known| known.paths.len()).sum::<usize>(),
            1,
            "only what is new is reported"
        );
        for known in known.values_mut() {
            known.watched = seconds(30);
        }
        let (raised, _) = run(known, &|rig| {
            rig.open_and_close(&ssh, "10.1.0.3:22", None);
            rig.pass(seconds(31));
            rig.open_and_close(&ssh, "10.1.0.4:22", None);
        });
        assert_eq!(raised, 1, "half of the time was left");
    }

    #[test]
    fn a_loss_is_reported() {
        let mut rig = rig(&[PathKey::Ip]);
        rig.begin();
        rig.pass(seconds(100));
        rig.gap(rig.now, 5);
        rig.open(&process(10, "/usr/bin/ssh"), "10.2.0.1:22");
        assert_eq!(rig.only().covered, Covered::Except { lost: 5, repaired: false });
    }
}
