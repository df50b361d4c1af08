//! Lines into a file, a pipe or a terminal: gathered, then written at once.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Bytes for which there is room from the start: as much as a pipe holds by default (`PIPE_DEF_BUFFERS` pages, fs/pipe.c).
const ROOM: usize = 64 << 10;
/// Most bytes that wait while the reader of the output is busy, before [`LineSink::has_room`] says no.
const WAITING_MAX: usize = 64 << 20;
/// A buffer that has grown beyond this is given back when it is empty.
const KEPT_MAX: usize = 4 << 20;

/// Why lines could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The reader went away (`head`, a closed terminal): a quiet end, not a failure.
    #[error("the reader of the output went away")]
    Closed,
    /// Anything else.
    #[error("cannot write the output")]
    Io(#[source] io::Error),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Gathers lines and writes them when told to. Nothing is written by itself: whoever produces the lines knows when
/// there is a pause.
#[derive(Debug)]
pub struct LineSink<W> {
    writer: W,
    /// What comes.
    buffer: Vec<u8>,
    /// What is being written, and how much of it is.
    writing: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> LineSink<W> {
    /// A sink that writes to `writer`, which should not gather by itself.
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: Vec::with_capacity(ROOM), writing: Vec::with_capacity(ROOM), written: 0 }
    }

    /// Where encoders append whole lines.
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether more may be gathered while earlier lines are being written.
    pub fn has_room(&self) -> bool {
        self.buffer.len() + self.writing.len() < WAITING_MAX
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.writing.is_empty()
    }

    /// Writes all that is gathered. May be cancelled: what is already written is not written twice.
    ///
    /// # Errors
    /// The reader went away, or writing failed.
    pub async fn flush(&mut self) -> Result<(), SinkError> {
        loop {
            while let Some(rest) = self.writing.get(self.written..).filter(|rest| !rest.is_empty()) {
                let written = self.writer.write(rest).await?;
                if written == 0 {
                    return Err(SinkError::Closed);
                }
                self.written += written;
            }
            self.written = 0;
            self.writing.clear();
            self.writing.shrink_to(KEPT_MAX);
            if self.buffer.is_empty() {
                break;
            }
            std::mem::swap(&mut self.buffer, &mut self.writing);
        }
        self.writer.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// Takes a few bytes a time, and fails when it has taken `room`.
    struct Slow {
        taken: Vec<u8>,
        room: usize,
        error: io::ErrorKind,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(3).min(self.room - self.taken.len());
            if count == 0 {
                return Poll::Ready(Err(self.error.into()));
            }
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sink(room: usize, error: io::ErrorKind) -> LineSink<Slow> {
        LineSink::new(Slow { taken: Vec::new(), room, error })
    }

    #[tokio::test]
    async fn writes_everything_in_order() {
        let mut sink = sink(100, io::ErrorKind::Other);
        sink.buffer().extend_from_slice(b"one\ntwo\n");
        assert!(!sink.is_empty() && sink.has_room());
        sink.flush().await.expect("room enough");
        sink.buffer().extend_from_slice(b"three\n");
        sink.flush().await.expect("room enough");
        assert!(sink.is_empty());
        assert_eq!(sink.writer.taken, b"one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_told_apart() {
        let mut gone = sink(4, io::ErrorKind::BrokenPipe);
        gone.buffer().extend_from_slice(b"one\ntwo\n");
        assert!(matches!(gone.flush().await, Err(SinkError::Closed)));
        let mut full = sink(4, io::ErrorKind::StorageFull);
        full.buffer().extend_from_slice(b"one\ntwo\n");
        assert!(matches!(full.flush().await, Err(SinkError::Io(_))));
    }

    #[test]
    fn has_room_for_so_much() {
        let mut sink = sink(0, io::ErrorKind::Other);
        sink.buffer().resize(WAITING_MAX - 1, b'x');
        assert!(sink.has_room());
        sink.buffer().push(b'x');
        assert!(!sink.has_room());
    }
}
