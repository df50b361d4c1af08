//! How long the steps took the last time, kept under `target/`: for the order of the steps and the time left.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::step::Step;
use crate::workspace;

/// Seconds of steps that never ran here, by the beginning of their names; the first that fits.
const ESTIMATES: [(&str, f64); 5] = [
    ("conn-tests/scenarios", 120.0),
    ("conn-user/", 6.0),
    ("conn-user", 15.0),
    ("conn-", 1.0),
    ("xtask", 1.0),
];

/// Seconds of anything else.
const OTHER: f64 = 90.0;

/// Seconds by the steps' names.
#[derive(Debug, Default)]
pub(crate) struct Durations(BTreeMap<String, f64>);

impl Durations {
    /// Those of the last run; none when there was none.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(file()).unwrap_or_default();
        Self(serde_json::from_str(&text).unwrap_or_default())
    }

    /// How long a step will take.
    pub(crate) fn estimate(&self, name: &str) -> Duration {
        let built_in = ESTIMATES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, s)| *s);
        self.estimate_or(name, built_in.unwrap_or(OTHER))
    }

    /// How long a step will take: so many seconds if it never ran here.
    pub(crate) fn estimate_or(&self, name: &str, seconds: f64) -> Duration {
        Duration::try_from_secs_f64(self.0.get(name).copied().unwrap_or(seconds)).unwrap_or_default()
    }

    /// Keeps those of a run. That they cannot be kept costs only the next run's estimates.
    pub(crate) fn keep(mut self, steps: &[Step]) {
        self.0.extend(steps.iter().map(|step| (step.name.clone(), step.took.as_secs_f64())));
        if let Ok(text) = serde_json::to_string_pretty(&self.0) {
            let _ = fs::write(file(), text);
        }
    }
}

fn file() -> PathBuf {
    workspace::target().join("test-durations.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_wins_over_the_estimate() {
        let durations =
            Durations(BTreeMap::from([("6.1/kprobe".to_owned(), 33.5), ("xtask".to_owned(), -1.0)]));
        assert_eq!(durations.estimate("6.1/kprobe"), Duration::from_millis(33_500));
        assert_eq!(durations.estimate("6.1/fentry"), Duration::from_secs(90));
        assert_eq!(durations.estimate("conn-user/snapshot"), Duration::from_secs(6));
        assert_eq!(durations.estimate("conn-user"), Duration::from_secs(15));
        // Nonsense in the file is no reason to fail.
        assert_eq!(durations.estimate("xtask"), Duration::ZERO);
    }
}
