//! The past of a stream that goes on live: what the agent's history has up to an event.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use jiff::ZonedDateTime;
use tokio::sync::mpsc;

use crate::cli::args::{TailArgs, TailOptions};
use crate::cli::note;
use crate::event::json::StreamIdentity;
use crate::event::model::Event;
use crate::event::when::{self, WhenError};
use crate::history::HistoryError;
use crate::history::read::tail;
use crate::history::read::{History, Span};
use crate::units::WallNs;

/// Events that wait for who shows them.
const WAITING_MAX: usize = 1_024;

/// Which of the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    since: Option<WallNs>,
    last: Option<usize>,
}

impl Wanted {
    /// What the arguments ask for; `None`: nothing of the past.
    pub(super) fn of(args: &TailArgs) -> Result<Option<Self>, WhenError> {
        let now = ZonedDateTime::now();
        let since = args.since.as_deref().map(|text| when::parse(text, &now)).transpose()?;
        let last = args.last.map(|last| usize::try_from(last).unwrap_or(usize::MAX));
        Ok((since.is_some() || last.is_some()).then_some(Self { since, last }))
    }
}

/// An event of the past with its run, or why there are no more.
pub(super) type Reported = Result<(Arc<StreamIdentity>, Event), HistoryError>;

/// Reads the events of the folder up to this one, those that are shown, on a thread of its own.
///
/// # Errors
/// When there can be no thread.
pub(super) fn read(
    folder: PathBuf,
    wanted: Wanted,
    up_to: (String, u64),
    options: &TailOptions,
) -> io::Result<mpsc::Receiver<Reported>> {
    let (events, receiver) = mpsc::channel(WAITING_MAX);
    let options = options.clone();
    thread::Builder::new().name("conn-past".to_owned()).spawn(move || {
        if let Err(error) = report(&folder, wanted, up_to, &options, &events) {
            // Nobody may listen any more.
            let _ = events.blocking_send(Err(error));
        }
    })?;
    Ok(receiver)
}

fn report(
    folder: &std::path::Path,
    wanted: Wanted,
    up_to: (String, u64),
    options: &TailOptions,
    events: &mpsc::Sender<Reported>,
) -> Result<(), HistoryError> {
    let since = wanted.since.unwrap_or(Span::ALL.since);
    let history = History::open_for(folder, Span { since, ..Span::ALL })?;
    for error in &history.refused {
        note(format_args!("left out: {error}"));
    }
    let past = tail::Past { since: wanted.since, last: None, up_to: Some(up_to) };
    let mut last = VecDeque::new();
    let mut each = |run: &Arc<StreamIdentity>, event: &Event| {
        if !options.shows(event) {
            return ControlFlow::Continue(());
        }
        let reported = (Arc::clone(run), event.clone());
        let Some(most) = wanted.last else {
            let sent = events.blocking_send(Ok(reported));
            return if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        };
        last.push_back(reported);
        if last.len() > most {
            last.pop_front();
        }
        ControlFlow::Continue(())
    };
    history.events(&past, &mut each)?;
    for reported in last {
        if events.blocking_send(Ok(reported)).is_err() {
            break;
        }
    }
    Ok(())
}
