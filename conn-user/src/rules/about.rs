//! What an event is about.

use crate::event::model::{Event, EventBody};
use crate::flow::model::{ConnEvent, ListenEvent};

/// The connection that an event is about.
pub fn connection(event: &Event) -> Option<&ConnEvent> {
    match &event.body {
        EventBody::Flow(change) => change.connection(),
        _ => None,
    }
}

/// The listener that an event is about.
pub fn listener(event: &Event) -> Option<&ListenEvent> {
    match &event.body {
        EventBody::Flow(change) => change.listener(),
        _ => None,
    }
}
