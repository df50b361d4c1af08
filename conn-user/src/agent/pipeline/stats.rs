//! The pipeline's statistics: those of its tables and rules, and what they dropped.

use crate::event::degraded::Degradation;
use crate::flow::limits::FlowStats;
use crate::process::table::ProcessStats;
use crate::rules::engine::EngineStats;

/// Counters of a [`Pipeline`](super::Pipeline).
#[derive(Clone, Debug, Default)]
pub struct PipelineStats {
    /// Of the process table.
    pub processes: ProcessStats,
    /// Of the flow table.
    pub flows: FlowStats,
    /// Of the rules; without rules all are 0.
    pub rules: EngineStats,
    /// Records that could not be decoded.
    pub undecoded: u64,
}

impl PipelineStats {
    /// How much was dropped or not followed in this way. Lines that outputs dropped are theirs to count: 0.
    pub const fn dropped(&self, what: Degradation) -> u64 {
        let (processes, inspect, flows, rules) =
            (&self.processes, &self.processes.inspect, &self.flows, &self.rules);
        match what {
            Degradation::Output => 0,
            Degradation::Undecoded => self.undecoded,
            Degradation::Processes => processes.evicted + processes.not_kept,
            Degradation::Connections => flows.evicted + flows.connections_not_kept,
            Degradation::Listeners => flows.listeners_not_kept,
            Degradation::HeldEvents => flows.released_early,
            Degradation::Inspections => inspect.dropped + inspect.hash_dropped + inspect.compare_dropped,
            Degradation::Files => inspect.files.stuck + inspect.files.refused,
            Degradation::Arguments => processes.proc.stuck + processes.proc.refused,
            Degradation::Alerts => rules.alerts.evicted + rules.alerts.forgotten,
            Degradation::RuleState => rules.forgotten + rules.late_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::names::Named as _;

    #[test]
    fn each_table_drops_in_its_own_way() {
        let mut stats = PipelineStats { undecoded: 1, ..PipelineStats::default() };
        stats.processes.evicted = 2;
        stats.processes.not_kept = 1;
        stats.flows.released_early = 4;
        stats.rules.late_dropped = 5;
        let dropped: Vec<(&str, u64)> = Degradation::ALL
            .iter()
            .map(|what| (what.name(), stats.dropped(*what)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(dropped, [("undecoded", 1), ("processes", 3), ("held_events", 4), ("rule_state", 5)]);
    }
}
