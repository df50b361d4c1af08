//! Holding events until what they lack is known, or time is up.

use std::net::SocketAddr;

use super::model::{Change, FlowEvent};
use super::pending::{HeldConnect, HeldDeath, HeldListen};
use super::resolve::{PortQuery, PortResolver};
use super::table::FlowTable;
use crate::units::BootNs;

/// Look-ups of ports, and those of names, take at most one part in so many of the time: the thread that reads waits for them.
const SHARE: u64 = 10;

impl FlowTable {
    /// When [`FlowTable::poll_pending`] has something to do, at the latest. `None`: nothing waits.
    pub fn next_deadline(&self) -> Option<BootNs> {
        [self.pending.next(), self.devices.due()].into_iter().flatten().min()
    }

    /// Reports what has waited long enough by `now`, with the ports that the resolver finds. To be called when
    /// [`FlowTable::next_deadline`] has come and the ring is drained: a record that is still in it may be the answer.
    pub fn poll_pending(&mut self, now: BootNs, resolver: &mut dyn PortResolver, out: &mut Vec<FlowEvent>) {
        let first = out.len();
        if self.devices.due().is_some_and(|due| due <= now) {
            let answers = resolver.devices(&self.devices.queries());
            self.devices.took(now, resolver.took(), SHARE);
            self.devices.settle(answers, out);
        }
        if self.pending.rest_until <= now {
            self.look_up_ports(now, resolver, out);
        }
        while let Some(held) = self.pending.deaths.pop_front_if(|held| held.until <= now) {
            if self.store.get_same(held.place, held.id).is_some() {
                self.finish_dead(held.place, out);
            }
        }
        self.drop_reported();
        self.keep_back(first, out);
    }

    /// Keeps back, of what was appended from `first` on, the events whose interface is being asked for.
    #[inline]
    pub(super) fn keep_back(&mut self, first: usize, out: &mut Vec<FlowEvent>) {
        self.devices.keep_back(first, out);
        let waiting = self.devices.waiting();
        if waiting > self.limits.held {
            self.stats.released_early += waiting as u64;
            self.devices.settle([], out);
        }
    }

    fn look_up_ports(&mut self, now: BootNs, resolver: &mut dyn PortResolver, out: &mut Vec<FlowEvent>) {
        let mut connects = Vec::new();
        while let Some(held) = self.pending.connects.pop_front_if(|held| held.until <= now) {
            if self.store.get_same(held.place, held.id).is_some_and(|conn| conn.held) {
                connects.push(held);
            }
        }
        let listens: Vec<HeldListen> =
            self.pending.listens.iter().filter(|held| held.next <= now).cloned().collect();
        let queries: Vec<PortQuery> = connects
            .iter()
            .map(|held| held.query.clone())
            .chain(listens.iter().map(|held| held.query.clone()))
            .collect();
        if queries.is_empty() {
            return;
        }
        let mut answers = resolver.resolve(&queries).into_iter();
        self.pending.rest_until = BootNs(now.0.saturating_add(resolver.took().0.saturating_mul(SHARE)));
        for held in connects {
            self.settle_connect(&held, answers.next().flatten(), out);
        }
        for held in listens {
            self.settle_listen(&held, answers.next().flatten(), now, out);
        }
    }

    fn settle_connect(&mut self, held: &HeldConnect, found: Option<SocketAddr>, out: &mut Vec<FlowEvent>) {
        let Some(conn) = self.store.get_same(held.place, held.id) else { return };
        if let Some(local) = found {
            conn.ends.lport = local.port();
            if conn.ends.laddr.is_unspecified() {
                conn.ends.laddr = local.ip();
            }
        }
        self.emit_connect(held.place, out);
    }

    fn settle_listen(
        &mut self,
        held: &HeldListen,
        found: Option<SocketAddr>,
        now: BootNs,
        out: &mut Vec<FlowEvent>,
    ) {
        if let Some(local) = found {
            let listener = self.listeners.get(held.key).filter(|listener| listener.id == held.id);
            let Some(listener) = listener else { return };
            if listener.port == 0 {
                self.listeners.settle(held.key, local);
            }
            self.emit_listener(held.key, out);
        } else if held.until <= now {
            self.emit_listener(held.key, out);
        } else if let Some(waiting) = self.pending.listens.iter_mut().find(|other| other.id == held.id) {
            // The hook runs before the kernel chooses the port and hashes the listener; it has done so long before the hold is over.
            waiting.next = waiting.until;
        }
    }

    /// The port of an auto-bound listener became known.
    pub(super) fn settle_listener(&mut self, key: u64, local: SocketAddr, out: &mut Vec<FlowEvent>) {
        self.listeners.settle(key, local);
        self.emit_listener(key, out);
    }

    /// Reports a listener that waited for its port, with what is known now.
    fn emit_listener(&mut self, key: u64, out: &mut Vec<FlowEvent>) {
        let Some(listener) = self.listeners.get_mut(key).filter(|listener| !listener.reported) else {
            return;
        };
        listener.reported = true;
        let id = listener.id;
        out.push(FlowEvent { boot: listener.since, change: Change::Listen(listener.event(&self.devices)) });
        self.pending.listens.retain(|held| held.id != id);
    }

    /// Forgets, at the front, what does not wait any more: the deadline is that of something that does.
    pub(super) fn drop_reported(&mut self) {
        let store = &mut self.store;
        while self
            .pending
            .connects
            .pop_front_if(|held| !store.get_same(held.place, held.id).is_some_and(|conn| conn.held))
            .is_some()
        {}
        while self
            .pending
            .deaths
            .pop_front_if(|held| store.get_same(held.place, held.id).is_none_or(|conn| conn.dead.is_none()))
            .is_some()
        {}
    }

    pub(super) fn hold_connect(&mut self, held: HeldConnect, out: &mut Vec<FlowEvent>) {
        self.pending.connects.push_back(held);
        if self.pending.connects.len() > self.limits.held
            && let Some(oldest) = self.pending.connects.pop_front()
            && self.store.get_same(oldest.place, oldest.id).is_some_and(|conn| conn.held)
        {
            self.stats.released_early += 1;
            self.emit_connect(oldest.place, out);
        }
    }

    pub(super) fn hold_listen(&mut self, held: HeldListen, out: &mut Vec<FlowEvent>) {
        self.pending.listens.push_back(held);
        if self.pending.listens.len() > self.limits.held_listens()
            && let Some(oldest) = self.pending.listens.pop_front()
        {
            self.stats.released_early += 1;
            self.emit_listener(oldest.key, out);
        }
    }

    pub(super) fn hold_death(&mut self, held: HeldDeath, out: &mut Vec<FlowEvent>) {
        self.pending.deaths.push_back(held);
        if self.pending.deaths.len() > self.limits.held
            && let Some(oldest) = self.pending.deaths.pop_front()
            && self.store.get_same(oldest.place, oldest.id).is_some()
            && self.finish_dead(oldest.place, out)
        {
            self.stats.released_early += 1;
        }
    }
}
