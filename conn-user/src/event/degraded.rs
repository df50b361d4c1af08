//! The agent does less than it should, because a limit was reached or time was short.

use std::sync::Arc;

/// The first such event of a kind comes at once, later ones bring what was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// In what way.
    pub what: Degradation,
    /// Where, if there are several: the name of an output.
    pub place: Option<Arc<str>>,
    /// How many, since the last such event of this kind and place.
    pub count: u64,
    /// How many in all.
    pub total: u64,
}

/// In what way the agent does less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Degradation {
    /// Lines were not written: the output cannot be written, or takes them more slowly than they come.
    Output,
    /// Records came that could not be understood.
    Undecoded,
    /// Processes were forgotten early or not remembered: their names may be missing.
    Processes,
    /// Connections are not followed to their end.
    Connections,
    /// Listeners are not remembered.
    Listeners,
    /// Events were reported before what they waited for could come.
    HeldEvents,
    /// Processes and executables were not looked at in the background.
    Inspections,
    /// Files were not looked at: their file systems do not answer, or did not before.
    Files,
    /// Arguments of processes were not read: `/proc` does not answer for them, or did not before.
    Arguments,
    /// Alerts were ended early, or repeats of them may be reported again.
    Alerts,
    /// Rules did not remember what they need.
    RuleState,
}

impl Degradation {
    /// What a number counts, for people.
    pub const fn counted(self) -> &'static str {
        match self {
            Self::Output => "lines dropped",
            Self::Undecoded => "records not understood",
            Self::Processes => "processes not remembered",
            Self::Connections => "connections not followed to their end",
            Self::Listeners => "listeners not remembered",
            Self::HeldEvents => "events reported early",
            Self::Inspections => "background look-ups dropped",
            Self::Files => "files of processes not looked at",
            Self::Arguments => "arguments of processes not read",
            Self::Alerts => "alerts not remembered",
            Self::RuleState => "places in rules not remembered",
        }
    }
}
