//! Look-ups of the ports that the kernel chose late.

use super::connection_table::ConnectionTable;
use super::emitter::Context;
use super::resolve::{PortQuery, PortResolver};
use crate::units::BootNs;

/// Look-ups of ports, and those of names, take at most one part in so many of the time: the thread that reads waits for them.
pub(super) const SHARE: u64 = 10;

/// When ports are looked up.
#[derive(Debug, Default)]
pub(super) struct PortLookups {
    /// Before this no port is looked up: look-ups take a bounded share of the time.
    rest_until: BootNs,
}

impl PortLookups {
    /// When what has to be looked up by `due` will be.
    pub(super) fn at(&self, due: BootNs) -> BootNs {
        due.max(self.rest_until)
    }

    /// Looks up the ports that connects and listeners wait for by `now`, unless it was done just before.
    pub(super) fn run(
        &mut self,
        now: BootNs,
        resolver: &mut dyn PortResolver,
        connections: &mut ConnectionTable,
        cx: &mut Context<'_>,
    ) {
        if self.rest_until > now {
            return;
        }
        let (connects, listens) = (connections.take_lookups(now), cx.listeners.lookups(now));
        let of_connects = connects.iter().map(|held| held.query.clone());
        let queries: Vec<PortQuery> =
            of_connects.chain(listens.iter().map(|held| held.query.clone())).collect();
        if queries.is_empty() {
            return;
        }
        let mut answers = resolver.resolve(&queries).into_iter();
        self.rest_until = BootNs(now.0.saturating_add(resolver.took().0.saturating_mul(SHARE)));
        for held in connects {
            connections.looked_up(&held, answers.next().flatten(), &mut cx.emitter);
        }
        for held in listens {
            cx.listeners.looked_up(&held, answers.next().flatten(), now, &mut cx.emitter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::flow::devices::Devices;
    use crate::flow::emitter::{Emitter, Ids};
    use crate::flow::limits::FlowLimits;
    use crate::flow::listener_table::ListenerTable;
    use crate::flow::testing::port_query;
    use crate::units::DurationNs;

    /// Finds nothing, and takes a millisecond for it.
    struct Slow(usize);

    impl PortResolver for Slow {
        fn resolve(&mut self, queries: &[PortQuery]) -> Vec<Option<SocketAddr>> {
            self.0 += 1;
            vec![None; queries.len()]
        }

        fn took(&self) -> DurationNs {
            DurationNs(1_000_000)
        }
    }

    #[test]
    fn it_rests_for_ten_times_what_a_look_up_took() {
        let limits = FlowLimits { port_hold: DurationNs(1_000_000_000), ..FlowLimits::default() };
        let (mut connections, mut listeners) = (ConnectionTable::new(limits), ListenerTable::new(limits));
        let (mut ids, devices, mut out) = (Ids::default(), Devices::new(9), Vec::new());
        let emitter = Emitter::new(&mut ids, &devices, &mut out);
        let mut cx = Context { listeners: &mut listeners, emitter };
        let (mut lookups, mut resolver) = (PortLookups::default(), Slow(0));
        lookups.run(BootNs(5), &mut resolver, &mut connections, &mut cx);
        assert_eq!((resolver.0, lookups.at(BootNs(6))), (0, BootNs(6)), "nothing to ask");
        let query = port_query();
        for key in 1..3 {
            cx.listeners.hold(key, key, BootNs(5), query.clone(), &mut cx.emitter);
        }
        lookups.run(BootNs(5), &mut resolver, &mut connections, &mut cx);
        assert_eq!((resolver.0, lookups.at(BootNs(6))), (1, BootNs(10_000_005)), "both at once, then a rest");
        cx.listeners.hold(3, 3, BootNs(6), query, &mut cx.emitter);
        lookups.run(BootNs(10_000_004), &mut resolver, &mut connections, &mut cx);
        assert_eq!(resolver.0, 1);
        lookups.run(BootNs(10_000_005), &mut resolver, &mut connections, &mut cx);
        assert_eq!(resolver.0, 2);
    }
}
