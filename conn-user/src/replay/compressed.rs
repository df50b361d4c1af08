//! Compressed recordings, recognized by how they begin, never by their name: gzip of any number of members, Zstandard of any number
//! of frames.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How gzip begins (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How Zstandard begins (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that are unpacked at once.
const ROOM: usize = 1 << 20;

/// Text that is being read.
pub(super) type Text = Box<dyn BufRead + Send>;

/// What is in there, unpacked if it is packed.
///
/// # Errors
/// When it cannot be read. An [`io::ErrorKind::UnexpectedEof`] of what is returned: the compressed data end too early.
pub(super) fn unpacked(mut from: impl BufRead + Send + 'static) -> io::Result<Text> {
    // A pipe may give fewer bytes at once.
    let mut head = Vec::with_capacity(ZSTD.len());
    from.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
    let is_gzip = head.starts_with(&GZIP);
    // Parallel packers begin with a frame that is to be skipped.
    let is_zstd = head == ZSTD || matches!(head[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let from = Cursor::new(head).chain(from);
    Ok(if is_gzip {
        Box::new(BufReader::with_capacity(ROOM, MultiGzDecoder::new(from)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(
            ROOM,
            Frames { from, decoder: FrameDecoder::new(), is_in_frame: false },
        ))
    } else {
        Box::new(from)
    })
}

/// Frames of Zstandard, one after the other.
struct Frames<R> {
    from: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins with the next frame; `false`: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.from.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut self.from.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(explained(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                self.is_in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.from, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(explained)?;
            }
            let read = self.decoder.read(out)?;
            if read > 0 {
                return Ok(read);
            }
            self.is_in_frame = false;
            let (reported, is) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if reported.is_some() && is.is_some() && reported != is {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum is wrong"));
            }
        }
    }
}

/// An end that comes too early is reported as one, however deep inside it occurs.
fn explained(error: FrameDecoderError) -> io::Error {
    let mut inner: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = inner {
        if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return io::ErrorKind::UnexpectedEof.into();
        }
        inner = error.source();
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Three bytes at a time, as a slow pipe.
        unpacked(BufReader::with_capacity(3, Cursor::new(bytes)))?.read_to_end(&mut out)?;
        Ok(out)
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..4)) {
            let whole = parts.concat();
            let members: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
            prop_assert_eq!(&read(members).expect("gzip"), &whole);
            // A skippable frame between them.
            let frames: Vec<u8> = parts
                .iter()
                .flat_map(|part| [zstd(part), vec![0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9]].concat())
                .collect();
            prop_assert_eq!(&read(frames).expect("zstd"), &whole);
        }

        #[test]
        fn any_bytes_are_read_or_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..3_usize) {
            let magic: &[u8] = [&GZIP[..], &ZSTD[..], &[]][which];
            let _ = read([magic, &bytes].concat());
        }
    }

    #[test]
    fn an_end_that_comes_too_early_is_reported_as_one() {
        let text: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        for packed in [gzip(&text), zstd(&text)] {
            for cut in [packed.len() / 2, packed.len() - 2, 6] {
                let error = read(packed[..cut].to_vec()).expect_err("cut");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut} of {}: {error}", packed.len());
            }
        }
    }

    #[test]
    fn what_is_not_packed_is_as_it_is() {
        for bytes in [&b""[..], b"\x1f", b"{}\n", b"#separator \\x09\n"] {
            assert_eq!(read(bytes.to_vec()).expect("plain"), bytes);
        }
    }
}
