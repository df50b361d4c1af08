//! Events as lines on standard output.

use std::io;

use jiff::tz::TimeZone;
use tokio::io::Stdout;

use super::args::Format;
use super::machine;
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::Event;
use crate::event::text::{TextFormatter, TextOptions};
use crate::output::pipe;
use crate::output::sink::{LineSink, SinkError};

enum Encoder {
    Json(JsonEncoder),
    Text(Box<TextFormatter>),
}

/// Lines that are gathered until they are flushed.
pub(super) struct Lines {
    encoder: Encoder,
    sink: LineSink<Stdout>,
}

impl Lines {
    /// In this form; `identity` is that of the run whose events they are.
    pub(super) fn new(format: Format, identity: &StreamIdentity) -> Self {
        let encoder = match format {
            Format::Json => Encoder::Json(JsonEncoder::new(identity)),
            Format::Text { color, terminal } => Encoder::Text(Box::new(TextFormatter::new(TextOptions {
                color,
                width: if terminal { terminal_width() } else { None },
                netns: machine::own_netns(),
                zone: TimeZone::system(),
            }))),
        };
        pipe::widen(io::stdout());
        Self { encoder, sink: LineSink::new(tokio::io::stdout()) }
    }

    /// What comes is of another run.
    pub(super) fn set_identity(&mut self, identity: &StreamIdentity) {
        if let Encoder::Json(encoder) = &mut self.encoder {
            *encoder = JsonEncoder::new(identity);
        }
    }

    /// Adds an event.
    pub(super) fn add(&mut self, event: &Event) {
        match &mut self.encoder {
            Encoder::Json(encoder) => encoder.encode(event, self.sink.buffer()),
            Encoder::Text(formatter) => formatter.format(event, self.sink.buffer()),
        }
    }

    /// Whether more may be added while lines are being written.
    pub(super) fn has_room(&self) -> bool {
        self.sink.has_room()
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`]: the reader went away. Else the output cannot be written.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.sink.is_empty() {
            return Ok(());
        }
        self.sink.flush().await.map_err(|error| match error {
            SinkError::Closed => io::ErrorKind::BrokenPipe.into(),
            SinkError::Io(error) => error,
        })
    }
}

/// Columns of the terminal on standard output.
fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a `winsize`.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
