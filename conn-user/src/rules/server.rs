//! Listeners that should not be.

mod accept;
mod join;
mod listener;
mod places;
mod takeover;
#[cfg(test)]
mod tests;
mod unlearned;
mod widened;

use super::detector::{Context, Detector};
use super::dry_run::Note;
use super::model::ServerRule;
use super::program::Server;
use crate::flow::model::ListenEvent;

/// The detector of such a rule.
pub(super) fn detector(rule: ServerRule) -> Box<dyn Detector> {
    match rule {
        ServerRule::Listener => Box::new(listener::Listener),
        ServerRule::Unlearned => Box::<unlearned::Unlearned>::default(),
        ServerRule::Takeover => Box::<takeover::Takeover>::default(),
        ServerRule::Join => Box::<join::Join>::default(),
        ServerRule::Widened => Box::<widened::Widened>::default(),
        ServerRule::Accept => Box::<accept::Accept>::default(),
    }
}

/// Returns who listens, if that and the port are known.
fn known(listener: &ListenEvent, context: &mut Context<'_>) -> Option<Server> {
    let server = Server::of(listener);
    if server.is_none() {
        context.note(|| Note::new("who listens is not known"));
    } else if listener.local.port() == 0 {
        context.note(|| Note::new("at which port it listens is not known"));
        return None;
    }
    server
}
