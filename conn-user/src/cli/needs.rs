//! Which rules cannot be judged on the logs of a network sensor, and which more coarsely: found out of the rules themselves.

use super::note;
use crate::filter::Filter;
use crate::rules::RuleSet;
use crate::rules::model::{Detect, Expect, PathRule, Rule, ServerRule};

/// Why a rule finds nothing in a Zeek log; `None`: it can find something.
fn unjudged(rule: &Rule) -> Option<String> {
    let to = match &rule.detect {
        Detect::Process(_) | Detect::Path(PathRule::Pivot { .. } | PathRule::Unlearned) => {
            return Some("processes".to_owned());
        }
        Detect::Server(
            ServerRule::Listener
            | ServerRule::Takeover
            | ServerRule::Join
            | ServerRule::Widened
            | ServerRule::Unlearned,
        ) => return Some("listeners".to_owned()),
        Detect::Missing(missing) if matches!(missing.expect, Expect::Listeners(_)) => {
            return Some("listeners".to_owned());
        }
        _ => asked(&rule.matches, false),
    };
    (!to.is_empty()).then(|| to.join(", "))
}

/// The keys of words that look at what a sensor does not see.
fn asked(filter: &Filter, negated: bool) -> Vec<String> {
    let keys = filter.keys().filter(|(key, is_negated)| key.is_of_host() && *is_negated == negated);
    keys.map(|(key, _)| format!("`{}`", key.name())).collect()
}

/// What of a rule that can be judged holds for nothing, or for everything.
fn coarser(rule: &Rule) -> Vec<String> {
    let excepted = rule.except.iter().flat_map(|except| [asked(except, false), asked(except, true)].concat());
    asked(&rule.matches, true).into_iter().chain(excepted).collect()
}

/// Reports it on standard error, a line for each reason.
pub(super) fn emit_unjudged(rules: &RuleSet) {
    for line in notes(rules) {
        note(line);
    }
}

fn notes(rules: &RuleSet) -> Vec<String> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    let mut coarse = Vec::new();
    for rule in &rules.rules {
        if let Some(reason) = unjudged(rule) {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, ids)) => ids.push(&rule.about.id),
                None => reasons.push((reason, vec![&rule.about.id])),
            }
        } else {
            let mut keys = coarser(rule);
            keys.sort_unstable();
            keys.dedup();
            if !keys.is_empty() {
                coarse.push(format!("{} ({})", rule.about.id, keys.join(", ")));
            }
        }
    }
    let mut lines: Vec<String> = reasons
        .into_iter()
        .map(|(reason, ids)| format!("Zeek logs have no {reason}; not judged: {}", ids.join(", ")))
        .collect();
    if !coarse.is_empty() {
        lines.push(format!(
            "Zeek logs have nothing of what negated words and exceptions ask of processes, so these may report more: {}",
            coarse.join(", ")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::defaults;
    use crate::rules::host::Host;

    #[test]
    fn the_rules_emit_what_they_need() {
        let rules = defaults::set(&Host::default()).expect("default rules");
        let lines = notes(&rules);
        let has =
            |begin: &str, id: &str| lines.iter().any(|line| line.starts_with(begin) && line.contains(id));
        assert!(has("Zeek logs have no processes;", "process.reverse-shell"), "{lines:?}");
        assert!(has("Zeek logs have no processes;", "path.pivot-admin"), "{lines:?}");
        assert!(has("Zeek logs have no listeners;", "server.takeover"), "{lines:?}");
        assert!(has("Zeek logs have no `proc`;", "long.shell"), "{lines:?}");
        assert!(
            has("Zeek logs have nothing", "path.beacon (`cgroup`, `container`, `exe_flag`, `exe`)"),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line.contains("path.miner-port")), "{lines:?}");
    }
}
