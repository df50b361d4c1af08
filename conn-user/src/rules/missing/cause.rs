//! How the last of what is missing went.

use std::sync::Arc;

use super::super::detector::Context;
use crate::event::alert::{Evidence, Value};
use crate::event::model::{Event, EventBody};
use crate::event::names::Named as _;
use crate::flow::model::{Actor, Change};
use crate::process::info::{ExitStatus, ProcessInfo};
use crate::units::DurationNs;

/// The dedup key of an absence: a rule has one.
pub(super) const ABSENCE: u64 = 0;

/// How long before an end an exit may be that caused it. The sockets of a process are closed within its exit.
const EXIT_BEFORE: DurationNs = DurationNs(1_000_000_000);

/// The end of a listener or a connection, and of the process that held it last: of who closed it, where that
/// is known, else of its owner. A daemon's listener is owned by a process that exited when it went to the
/// background.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    how: &'static str,
    owner: Option<Arc<ProcessInfo>>,
    closer: Option<Arc<ProcessInfo>>,
    exited: Option<ExitStatus>,
}

impl Cause {
    /// Of the end that this event reports. The exit of who held it is reported before it or after it: the
    /// latter comes to [`Self::on_exit`].
    pub(super) fn of(event: &Event, context: &mut Context<'_>) -> Option<Self> {
        let (how, owner, closer): (_, &Actor, Option<&Actor>) = match &event.body {
            EventBody::Flow(Change::Unlisten(listener, end)) => {
                ("closed", &listener.owner, Some(&end.closer))
            }
            EventBody::Flow(Change::Close(conn, end)) => (end.how.name(), &conn.owner, Some(&end.closer)),
            EventBody::Flow(Change::Failed(conn, _)) => ("failed", &conn.owner, None),
            _ => return None,
        };
        let owner = owner.process.clone();
        let closer = closer.and_then(|closer| closer.process.clone());
        let holder = closer.as_ref().or(owner.as_ref());
        let exited = holder.and_then(|holder| context.exit_of_within(holder, EXIT_BEFORE));
        if let (Some(holder), None) = (holder, exited) {
            context.follow_process(holder);
        }
        Some(Self { how, owner, closer, exited })
    }

    /// Who held it last, as far as that is known.
    fn holder(&self) -> Option<&ProcessInfo> {
        self.closer.as_deref().or(self.owner.as_deref())
    }

    /// A process ended.
    pub(super) fn on_exit(&mut self, process: &ProcessInfo, status: ExitStatus) {
        if self.holder().is_some_and(|holder| holder.is_same(process)) {
            self.exited = Some(status);
        }
    }

    pub(super) fn evidence(&self, evidence: &mut Vec<Evidence>) {
        let cause = match self.exited {
            Some(ExitStatus::Code(code)) => format!("process exited with code {code}"),
            Some(ExitStatus::Signal(signal)) => format!("process killed by signal {signal}"),
            None => self.how.to_owned(),
        };
        evidence.push(Evidence::text("cause", cause.into_bytes()));
        if self.exited.is_some() && self.how != "closed" {
            // A client that ends because the other side hung up: both are the cause.
            evidence.push(Evidence::text("end", self.how.as_bytes()));
        }
        let process = |name, process: &Option<Arc<ProcessInfo>>| {
            process.clone().map(|process| Evidence::new(name, Value::Process(process)))
        };
        evidence.extend(process("was", &self.owner));
        evidence.extend(process("closed_by", &self.closer));
    }
}
