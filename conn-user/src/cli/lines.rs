//! Events as lines on standard output.

use std::io;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::args::Format;
use super::{emit, machine};
use crate::event::json::{JsonEncoder, StreamIdentity};
use crate::event::model::{Event, EventKind};
use crate::event::text::{TextFormatter, TextOptions};
use crate::host::netns_names::NetNsNames;
use crate::output::file::LineFile;
use crate::output::writer::{Class, Notice, Writer};

enum Encoder {
    Json(JsonEncoder),
    Text(Box<TextFormatter>),
}

/// Lines that are gathered until they are flushed.
pub(super) struct Lines {
    encoder: Encoder,
    writer: Writer,
    compact: bool,
    /// Lines that were dropped when they were last looked at.
    dropped: u64,
}

fn json(identity: &StreamIdentity, compact: bool) -> JsonEncoder {
    let encoder = JsonEncoder::new(identity);
    if compact { encoder.compact() } else { encoder }
}

/// What an event is worth where not all can be written.
pub(super) fn class(event: &Event) -> Class {
    class_of(event.body.kind())
}

/// The same by the kind.
pub(super) fn class_of(kind: EventKind) -> Class {
    if kind == EventKind::Alert || kind.is_always_shown() { Class::Important } else { Class::Event }
}

impl Lines {
    /// In this form; `identity` is that of the run whose events they are. `past`: they did not happen today, so that text
    /// begins with the date.
    ///
    /// # Errors
    /// When there can be no thread that writes.
    pub(super) fn new(format: Format, identity: &StreamIdentity, past: bool) -> io::Result<Self> {
        let encoder = match format {
            Format::Json { compact } => Encoder::Json(json(identity, compact)),
            Format::Text { color, terminal } => {
                let formatter = TextFormatter::new(TextOptions {
                    color,
                    width: if terminal { machine::terminal_width() } else { None },
                    netns: machine::own_netns(),
                    zone: TimeZone::system(),
                    dated: past,
                });
                // What had a number then may have a name of another one now.
                let namespaces = if past { NetNsNames::default() } else { NetNsNames::of_machine() };
                Encoder::Text(Box::new(formatter.with_namespaces(namespaces)))
            }
        };
        let target = LineFile::standard(io::stdout())?;
        let writer = Writer::start("standard output", target, Arc::default())?;
        Ok(Self { encoder, writer, compact: format == (Format::Json { compact: true }), dropped: 0 })
    }

    /// What comes is of another run.
    pub(super) fn set_identity(&mut self, identity: &StreamIdentity) {
        if let Encoder::Json(encoder) = &mut self.encoder {
            *encoder = json(identity, self.compact);
        }
    }

    /// Adds an event. Where too many lines wait, it is dropped and counted.
    pub(super) fn add(&mut self, event: &Event) {
        let encoder = &mut self.encoder;
        self.writer.line(class(event), |out| match encoder {
            Encoder::Json(encoder) => encoder.encode(event, out),
            Encoder::Text(formatter) => formatter.format(event, out),
        });
    }

    /// Adds a line of JSON as it is, without its newline.
    pub(super) fn add_line(&mut self, class: Class, line: &[u8]) {
        self.writer.line(class, |out| {
            out.extend_from_slice(line);
            out.push(b'\n');
        });
    }

    /// Hands them over; never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`]: the reader went away. Else the output cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        // A dropped line may have been the one that wrote a process out.
        if let Encoder::Json(encoder) = &mut self.encoder
            && self.compact
            && self.dropped != self.writer.dropped()
        {
            self.dropped = self.writer.dropped();
            encoder.write_out_anew();
        }
        self.failed()
    }

    /// Waits until they are written, however long that takes.
    ///
    /// # Errors
    /// The errors of [`Self::flush`].
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        self.writer.drain().await?;
        self.failed()
    }

    /// Waits until they are written, as long as the reader gets on.
    ///
    /// # Errors
    /// The errors of [`Self::flush`].
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.writer.finish().await;
        self.failed()
    }

    /// Resolves when [`Self::flush`] may have something to say. May be cancelled.
    pub(super) async fn changed(&self) {
        self.writer.changed().await;
    }

    /// What the output is called, and how many lines of it were dropped.
    pub(super) fn dropped(&self) -> (Arc<str>, u64) {
        (Arc::clone(self.writer.name()), self.writer.dropped())
    }

    fn failed(&self) -> io::Result<()> {
        for notice in self.writer.notices()? {
            match notice {
                Notice::Fails(error) => return Err(error),
                Notice::Overflows => {
                    emit("standard output is read more slowly than events come: some are dropped");
                }
                Notice::Works { .. } | Notice::NotReopened(_) => {}
            }
        }
        Ok(())
    }
}
