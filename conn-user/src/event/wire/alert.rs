//! What an alert says.

use serde::Deserialize;
use serde_json::value::RawValue;

#[cfg(test)]
use super::{AlertId, JsonSchema, Name, Object};
use super::{Instant, Text};
#[cfg(test)]
use crate::event::alert::{Phase, RuleKind, Severity};

/// One step in the life of an alert.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "alert_body"))]
#[allow(dead_code, reason = "some keys are for other readers")]
pub(crate) struct AlertPart<'a> {
    /// Names the alert in all its steps.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "AlertId"))]
    pub(crate) id: Text<'a>,
    /// `raised`: it begins; `escalated`: what it reports got worse; `resolved`: that is over.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<Phase>"))]
    pub(crate) phase: Text<'a>,
    /// How bad it is if it is right.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<Severity>"))]
    pub(crate) severity: Text<'a>,
    /// Id of the rule.
    #[serde(borrow)]
    pub(crate) rule: Text<'a>,
    /// Kind of the rule.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Name<RuleKind>"))]
    pub(crate) rule_kind: Text<'a>,
    /// What the rule finds, for people.
    #[serde(borrow)]
    pub(crate) title: Text<'a>,
    /// MITRE ATT&CK techniques.
    #[serde(borrow)]
    pub(crate) attack: Vec<Text<'a>>,
    /// What the rule judged by. The keys depend on the rule; those in `_ns` are durations in nanoseconds.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Object"))]
    pub(crate) evidence: &'a RawValue,
    /// Whether everything was seen.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Coverage<'static>"))]
    pub(crate) coverage: &'a RawValue,
    /// The smallest exception that suppresses it: a filter for the rule's `except`; null: no filter can, or
    /// only one so wide that it is not offered for a critical alert.
    #[serde(borrow, default)]
    pub(crate) suppress: Option<Text<'a>>,
    /// When it was raised, nanoseconds since boot.
    pub(crate) raised_boot_ns: Instant,
    /// How often the same was found since it was last reported, and not reported.
    #[serde(default)]
    pub(crate) repeats: u64,
}

/// Whether everything was seen in the span that an alert judges.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "coverage"))]
pub(crate) struct Coverage<'a> {
    /// `all`: everything; `since`: nothing before the agent attached; `except`: records were lost in it, and
    /// what the alert says may be wrong; `unknown`: records were lost, and how many is not known any more.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(extend("enum" = ["all", "since", "except", "unknown"])))]
    pub(crate) seen: Text<'a>,
    /// When the agent attached (`since`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since_boot_ns: Option<Instant>,
    /// How many records were lost (`except`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<u64>,
    /// The tables had been compared with the kernel's sockets since (`except`): only what began and ended in
    /// the loss is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repaired: Option<bool>,
}

/// The evidence that is a process which the rule looked at in the place of the subject's.
#[derive(Deserialize)]
pub(crate) struct Started<'a> {
    #[serde(borrow, default)]
    pub(crate) started: Option<&'a RawValue>,
}
