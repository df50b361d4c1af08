//! Services that were restarted between two lists: what listened before listens again, as the same program of the same unit.

use std::collections::{BTreeSet, HashMap};

use super::saved::{SavedHolder, SavedSocket};

/// A service whose listeners are others and the same.
#[derive(Clone, Debug)]
pub struct Restarted<'a> {
    /// Its listeners before.
    pub old: Vec<&'a SavedSocket>,
    /// The same ones after, in the same order.
    pub new: Vec<&'a SavedSocket>,
}

/// What is the same of a service before and after. A unit alone is not enough: what replaced its executable is not the service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Service<'a> {
    unit: Option<&'a str>,
    programs: BTreeSet<Program<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Program<'a> {
    exe: &'a [u8],
    uid: Option<u32>,
    /// Of what no unit names: of an interpreter they say what it is.
    args: Option<&'a [String]>,
}

impl<'a> Service<'a> {
    /// The service that listens; `None`: its holders are not all known.
    fn of(listener: &'a SavedSocket) -> Option<Self> {
        let holders = &listener.holders;
        let unit = holders.first()?.unit.as_deref();
        // A scope is of one session or one container, and says nothing of the next.
        let is_lasting = |unit: &&str| {
            unit.rsplit('.').next() != Some("scope")
                && holders.iter().all(|holder| holder.unit.as_deref() == Some(*unit))
        };
        let unit = unit.filter(is_lasting);
        let program = |holder: &'a SavedHolder| {
            let args = unit.is_none().then_some(holder.args.as_slice());
            Some(Program { exe: holder.exe.as_deref()?, uid: holder.uid, args })
        };
        Some(Self { unit, programs: holders.iter().map(program).collect::<Option<_>>()? })
    }
}

/// Takes the listeners of restarted services out of what vanished and what appeared. `place` is what is the same of a listener.
pub(super) fn find<'a, P: std::hash::Hash + Eq>(
    vanished: &mut Vec<&'a SavedSocket>,
    appeared: &mut Vec<&'a SavedSocket>,
    place: impl Fn(&'a SavedSocket) -> P,
) -> Vec<Restarted<'a>> {
    let key = |socket: &'a SavedSocket| {
        let service = Service::of(socket).filter(|_| socket.direction.is_none())?;
        Some((service, place(socket)))
    };
    let mut waiting: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, socket) in appeared.iter().enumerate().rev() {
        // An executable without a name may be anything: the one of a service was replaced before it was started again.
        if let Some(key) = key(socket).filter(|_| socket.holders.iter().all(|holder| !holder.exe_deleted)) {
            waiting.entry(key).or_default().push(at);
        }
    }
    let (mut found, mut taken) = (Vec::<Restarted<'a>>::new(), BTreeSet::new());
    let mut services: HashMap<Service<'a>, usize> = HashMap::new();
    vanished.retain(|old| {
        let Some(key) = key(old) else { return true };
        let Some(candidates) = waiting.get_mut(&key) else { return true };
        let Some(at) = candidates.pop_if(|at| is_other(old, appeared[*at])) else { return true };
        taken.insert(at);
        let index = *services.entry(key.0).or_insert_with(|| {
            found.push(Restarted { old: Vec::new(), new: Vec::new() });
            found.len() - 1
        });
        found[index].old.push(*old);
        found[index].new.push(appeared[at]);
        false
    });
    let mut at = 0;
    appeared.retain(|_| {
        at += 1;
        !taken.contains(&(at - 1))
    });
    found
}

/// Whether no process holds both.
fn is_other(old: &SavedSocket, new: &SavedSocket) -> bool {
    let is_same = |one: &SavedHolder, other: &SavedHolder| one.pid == other.pid && one.id == other.id;
    !old.holders.iter().any(|one| new.holders.iter().any(|other| is_same(one, other)))
}
