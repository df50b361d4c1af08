//! What a process table says of a process besides its records: the name of its user, and its place in the cgroups.

use std::sync::Arc;

use super::cgroup::{CgroupOf, ROOT_ID};
use super::hash::IntMap;
use super::image::scanned;
use super::info::{MountNs, ProcessInfo};
use super::own::Own;
use super::placement::Placement;
use super::procfs::{ProcImage, ProcSource};
use super::users::Users;
use crate::units::MntNs;

/// Most cgroups that are remembered. A full memory is emptied: a cgroup that still exists is found again.
const CGROUPS_MAX: usize = 16_384;

/// Looks things up, each once.
pub(super) struct About {
    pub(super) proc: Box<dyn ProcSource>,
    pub(super) users: Users,
    /// Inode number of the host's mount namespace.
    host_mnt_ns: Option<u32>,
    /// What makes a process conn's own, where that is asked.
    pub(super) own: Option<Own>,
    placements: IntMap<u64, Arc<Placement>>,
    /// How often the memory of cgroups was emptied.
    pub(super) cgroups_forgotten: u64,
}

impl About {
    pub(super) fn new(proc: Box<dyn ProcSource>) -> Self {
        let host_mnt_ns = proc.host_mnt_ns();
        Self {
            proc,
            host_mnt_ns,
            own: None,
            users: Users::default(),
            placements: IntMap::default(),
            cgroups_forgotten: 0,
        }
    }

    /// Fills in what follows from the ids of the process. `like`: a process that had the same ids a moment ago, itself
    /// or its parent.
    pub(super) fn describe(&mut self, info: &mut ProcessInfo, like: Option<&ProcessInfo>) {
        info.exe_is_conn = self.own.as_ref().is_some_and(|own| own.is(info));
        info.user = match like {
            Some(like) if like.uid == info.uid && like.user.is_some() => like.user.clone(),
            _ => self.users.name(info.uid),
        };
        info.placement = match like {
            // On a machine without cgroup v2 every process is in the root of it, which says nothing.
            Some(like)
                if like.cgroup_id == info.cgroup_id
                    && info.cgroup_id > ROOT_ID
                    && like.placement.is_some() =>
            {
                like.placement.clone()
            }
            _ => self.placement(info),
        };
    }

    /// What /proc said of the process's cgroup, where that is the one of the record.
    pub(super) fn describe_seen(&mut self, info: &mut ProcessInfo, seen: Option<CgroupOf>) {
        info.exe_is_conn = self.own.as_ref().is_some_and(|own| own.is(info));
        info.user = self.users.name(info.uid);
        if info.cgroup_id == 0 {
            info.cgroup_id = seen.as_ref().map_or(0, |cgroup| cgroup.id);
        }
        info.placement = match seen {
            Some(cgroup) if is_same(cgroup.id, info.cgroup_id) => Some(self.remember(&cgroup)),
            _ => self.placement(info),
        };
    }

    /// A mount namespace by its inode number, 0 where that is not known.
    pub(super) fn mount_ns(&self, inode: u32) -> Option<MountNs> {
        (inode != 0).then(|| MountNs { id: MntNs(inode), is_host: self.host_mnt_ns == Some(inode) })
    }

    /// A process as /proc shows it.
    pub(super) fn scanned(&mut self, mut seen: ProcImage) -> ProcessInfo {
        let cgroup = seen.cgroup.take();
        let mount_ns = seen.mnt_ns.and_then(|inode| self.mount_ns(inode));
        let mut info = ProcessInfo { mount_ns, ..scanned(seen) };
        self.describe_seen(&mut info, cgroup);
        info
    }

    fn placement(&mut self, info: &ProcessInfo) -> Option<Arc<Placement>> {
        let id = info.cgroup_id;
        if info.kernel {
            return None;
        }
        if id > ROOT_ID {
            if let Some(known) = self.placements.get(&id) {
                return Some(Arc::clone(known));
            }
            if let Some(path) = self.proc.cgroup_path(id) {
                return Some(self.remember(&CgroupOf { id, path }));
            }
        }
        let seen = self.proc.cgroup_of(info.pid, info.start).filter(|seen| is_same(seen.id, id))?;
        Some(self.remember(&seen))
    }

    fn remember(&mut self, cgroup: &CgroupOf) -> Arc<Placement> {
        if cgroup.id <= ROOT_ID {
            return Arc::new(Placement::of(&cgroup.path));
        }
        if self.placements.len() >= CGROUPS_MAX {
            self.placements.clear();
            self.cgroups_forgotten += 1;
        }
        let place = self.placements.entry(cgroup.id);
        Arc::clone(place.or_insert_with(|| Arc::new(Placement::of(&cgroup.path))))
    }
}

/// Where v2 is not mounted, its root has an id in records and none in /proc.
const fn is_same(seen: u64, reported: u64) -> bool {
    seen == reported || (seen <= ROOT_ID && reported <= ROOT_ID)
}
