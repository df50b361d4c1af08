//! `find = "network"` with `probe`: as `network`, but an outgoing connection that fails, or closes within that time without
//! data, is a probe of a port and raises nothing. Others raise their alert when data or the time has passed.

use crate::event::alert::Evidence;
use crate::event::model::{Event, EventBody};
use crate::flow::model::{Change, Direction};
use crate::process::hash::IntMap;
use crate::rules::alerts::Life;
use crate::rules::detector::{Context, Detector, Triggers, connection};
use crate::rules::dry_run::Note;
use crate::rules::model::Rule;
use crate::units::{BootNs, DurationNs};

use super::network::{self, Use};

/// Limit of connections that are undecided; beyond it an alert is raised at once.
const UNDECIDED_MAX: usize = 4_096;

/// Detects network use that is more than a probe.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    within: DurationNs,
    undecided: IntMap<u64, (u64, Use)>,
}

impl Probe {
    pub(super) fn new(within: DurationNs) -> Self {
        Self { within, undecided: IntMap::default() }
    }
}

/// Raises the alert, unless it only repeats one.
fn raise(key: u64, used: Use, rule: &Rule, life: Life, context: &mut Context<'_>) {
    if !context.is_reported(rule, key) {
        used.raise(key, rule, Vec::new(), life, context);
    }
}

impl Detector for Probe {
    fn triggers(&self) -> Triggers {
        Triggers::BEGIN.and(Triggers::LISTEN)
    }

    fn on_match(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some(process) = network::used_by(event, context) else { return };
        let key = network::dedup_key(process, event, context.names);
        let Some(used) = Use::of(event) else { return };
        let is_outgoing = connection(event).is_some_and(|conn| conn.direction == Direction::Out);
        let may_be_probe = is_outgoing && !context.existing && self.undecided.len() < UNDECIDED_MAX;
        if may_be_probe && context.follow(used.id) {
            context.set_timer(BootNs(event.boot.0.saturating_add(self.within.0)), used.id.0);
            self.undecided.insert(used.id.0, (key, used));
            let within = self.within;
            context.note(|| {
                let says = "it raises an alert unless it fails or closes soon without data";
                Note::new(says).key(key).with([Evidence::duration("probe", within)])
            });
        } else {
            let life = Life::With(used.id);
            raise(key, used, rule, life, context);
        }
    }

    fn on_end(&mut self, rule: &Rule, event: &Event, context: &mut Context<'_>) {
        let Some((key, used)) = connection(event).and_then(|conn| self.undecided.remove(&conn.id.0)) else {
            return;
        };
        let EventBody::Flow(Change::Close(_, ending)) = &event.body else { return };
        let is_probe = ending.traffic.is_some_and(|traffic| traffic.bytes_in + traffic.bytes_out == 0);
        if !is_probe {
            raise(key, used, rule, Life::Moment, context);
        }
    }

    fn on_timer(&mut self, rule: &Rule, token: u64, context: &mut Context<'_>) {
        let Some((key, used)) = self.undecided.remove(&token) else { return };
        let life = Life::With(used.id);
        raise(key, used, rule, life, context);
    }
}
