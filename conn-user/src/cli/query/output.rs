//! Where the answer of a query goes: a pager on a terminal, else standard output.

use std::env;
use std::io::{self, BufWriter, Stdout, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The pager where the environment names none: ends by itself where all fits, lets colors through, leaves the screen.
const PAGER: [&str; 2] = ["less", "-FRX"];

/// An output that a person may leave at any time.
pub(super) enum Output {
    Plain(BufWriter<Stdout>),
    Paged(Child, BufWriter<ChildStdin>),
}

impl Output {
    /// Standard output, through a pager if `paged` and there is one: `$PAGER`, where that is set to nothing or `cat` none.
    pub(super) fn open(paged: bool) -> Self {
        let pager = if paged { Self::pager(env::var("PAGER").ok().as_deref()) } else { None };
        pager.unwrap_or_else(|| Self::Plain(BufWriter::with_capacity(1 << 16, io::stdout())))
    }

    fn pager(named: Option<&str>) -> Option<Self> {
        let words: Vec<&str> =
            named.map_or_else(|| PAGER.to_vec(), |named| named.split_whitespace().collect());
        let (program, arguments) = words.split_first().filter(|(program, _)| **program != "cat")?;
        let started = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn();
        // Where there is none the answer is written as it is.
        let mut child = started.ok()?;
        let stdin = child.stdin.take()?;
        Some(Self::Paged(child, BufWriter::with_capacity(1 << 16, stdin)))
    }

    /// Writes what waits, and waits until the reader has seen it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Paged(mut child, mut out) => {
                let flushed = out.flush();
                drop(out);
                child.wait()?;
                flushed
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Paged(_, out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Paged(_, out) => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pager_is_started_that_is_not_wanted_or_not_there() {
        assert!(Output::pager(Some("")).is_none());
        assert!(Output::pager(Some("  cat ")).is_none());
        assert!(Output::pager(Some("/no/such/pager -x")).is_none());
    }

    #[test]
    fn a_pager_gets_everything_and_may_leave() {
        let mut all = Output::pager(Some("wc -c")).expect("a pager");
        all.write_all(&vec![b'x'; 100_000]).expect("it reads");
        all.finish().expect("it read");
        let mut none = Output::pager(Some("true")).expect("a pager");
        let left = (0..100).try_for_each(|_| none.write_all(&vec![b'x'; 100_000]));
        assert_eq!(left.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }
}
