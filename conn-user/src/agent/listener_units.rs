//! The units for which process 1 listens.

use crate::flow::model::Change;
use crate::process::socket_units::SocketUnits;

/// Names the socket unit of a listener where it is reported: the flow table knows no files of systemd.
#[derive(Debug, Default)]
pub(super) struct ListenerUnits {
    units: SocketUnits,
}

impl ListenerUnits {
    /// Names the unit, if the change is of a listener of systemd.
    #[inline]
    pub(super) fn name(&mut self, change: &mut Change) {
        if let Change::Listen(listener) | Change::Unlisten(listener, _) = change
            && listener.is_systemds()
        {
            listener.socket_unit = self.units.unit_of(listener.local);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::flow::testing::{Backend, Rig, sock};
    use crate::process::testing::exec_record;

    #[test]
    fn only_listeners_of_systemd_have_a_unit() {
        let root = std::env::temp_dir().join(format!("conn-listener-units-{}", std::process::id()));
        let folder = root.join("etc/systemd/system");
        fs::create_dir_all(folder.join("sockets.target.wants")).expect("a folder");
        fs::write(folder.join("web.socket"), "[Socket]\nListenStream=8080\n").expect("a unit");
        let mut units = ListenerUnits { units: SocketUnits::within(&root) };
        let mut rig = Rig::new(Backend::Fentry);
        rig.procs.on_exec(&exec_record(1, 1_000_000_000, "/usr/lib/systemd/systemd"), b"");
        rig.listens(1, sock(1, "0.0.0.0:8080", "0.0.0.0:0"));
        rig.listens(10, sock(2, "0.0.0.0:8080", "0.0.0.0:0"));
        rig.connects(1, sock(3, "10.0.0.1:40000", "203.0.113.9:8080"));
        let mut named = Vec::new();
        for mut event in rig.out.drain(..) {
            units.name(&mut event.change);
            named.push(
                event
                    .change
                    .listener()
                    .and_then(|listener| listener.socket_unit.as_deref().map(str::to_owned)),
            );
        }
        fs::remove_dir_all(&root).expect("removed");
        assert_eq!(named, [Some("web.socket".to_owned()), None, None]);
    }
}
