//! `find = "first-seen"`: a path that none took since the agent began.
//!
//! What makes two connections the same path the rule says (`by`). Everything is learnt; until `learn` has passed, and of
//! what was there at the start, nothing is told. A path whose attempts all fail is one too: that is what a scan looks like.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use crate::event::alert::{Evidence, Subject};
use crate::event::model::Event;
use crate::filter::names::Names;
use crate::flow::model::{ConnEvent, Source};
use crate::process::hash::IntMap;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::rules::alerts::{Found, Life};
use crate::rules::detector::{Detector, Scene, Triggers, connection, service_port};
use crate::rules::model::{PathKey, Rule};
use crate::rules::{program, silence};
use crate::units::DurationNs;

/// Most paths that are remembered; the one that was learnt first is forgotten, and would be told again.
const PATHS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(super) struct FirstSeen {
    by: Box<[PathKey]>,
    learn: DurationNs,
    /// How often each was taken.
    seen: IntMap<u64, u64>,
    order: VecDeque<u64>,
    forgotten: u64,
}

impl FirstSeen {
    pub(super) fn new(by: &[PathKey], learn: DurationNs) -> Self {
        let (seen, order) = (IntMap::default(), VecDeque::new());
        Self { by: by.into(), learn, seen, order, forgotten: 0 }
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
                PathKey::Net => net(conn.remote.ip()).hash(&mut hash),
                PathKey::Ip => conn.remote.ip().hash(&mut hash),
                PathKey::Port => service_port(conn).hash(&mut hash),
                PathKey::Direction => conn.direction.hash(&mut hash),
            }
        }
        hash.finish()
    }

    /// Whether it is the first on its path, which is learnt.
    fn is_first(&mut self, path: u64) -> bool {
        if let Some(count) = self.seen.get_mut(&path) {
            *count += 1;
            return false;
        }
        self.seen.insert(path, 1);
        self.order.push_back(path);
        if self.order.len() > PATHS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
            self.forgotten += 1;
        }
        true
    }
}

/// The unit, or the program where it is in none.
fn unit(process: &ProcessInfo) -> &[u8] {
    let unit = process.placement.as_deref().and_then(Placement::innermost_unit);
    unit.unwrap_or_else(|| program::name(process))
}

/// The network that an address is taken for: /24, or /64.
fn net(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
    }
}

impl Detector for FirstSeen {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, scene: &mut Scene<'_>) {
        let Some(conn) = connection(event) else { return };
        let path = self.path(conn, scene.names);
        let learns =
            scene.existing || conn.source == Source::Snapshot || scene.now.since(scene.began) < self.learn;
        if !self.is_first(path) || learns {
            return;
        }
        let found = Found {
            same: path,
            evidence: vec![
                Evidence::text("zone", scene.names.zone_of(conn.remote.ip()).as_bytes()),
                Evidence::number("paths_known", self.seen.len() as u64 - 1),
                Evidence::duration("watched", scene.now.since(scene.began)),
            ],
            silence: silence::of_connection(conn, true),
            judged_from: scene.began,
            life: Life::With(conn.id),
            subject: Subject::Connection(Box::new(conn.clone())),
        };
        scene.raise(rule, found);
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
    fn a_new_path_is_told_once_and_a_known_one_never() {
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
        assert!(rig.told().is_empty());
        let id = rig.open(&ssh, "10.2.0.1:22");
        let alert = rig.only();
        assert_eq!((alert.phase, alert.covered), (Phase::Raised, Covered::All));
        assert_eq!(alert.silence.as_deref(), Some("exe:/usr/bin/ssh dport:22 raddr:10.2.0.1"));
        rig.close(id, EndedHow::PeerFin, None);
        assert_eq!(rig.only().phase, Phase::Resolved);
        rig.pass(seconds(100_000));
        rig.open_and_close(&ssh, "10.2.0.9:22", None);
        assert!(rig.told().is_empty(), "known now");
        rig.open(&process(11, "/usr/bin/nc"), "10.2.0.1:22");
        assert_eq!(rig.only().phase, Phase::Raised, "another program");
    }

    #[test]
    fn a_loss_is_told() {
        let mut rig = rig(&[PathKey::Ip]);
        rig.begin();
        rig.pass(seconds(100));
        rig.gap(rig.now, 5);
        rig.open(&process(10, "/usr/bin/ssh"), "10.2.0.1:22");
        assert_eq!(rig.only().covered, Covered::Except { lost: 5 });
    }
}
