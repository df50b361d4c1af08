//! Writes an initramfs: a "newc" cpio archive (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
//! Uncompressed: the kernel unpacks it faster than it could decompress one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Type and permission bits of an executable file.
const EXECUTABLE: u32 = 0o100_755;
/// Type and permission bits of a plain file.
const PLAIN: u32 = 0o100_644;
/// Type and permission bits of a folder.
const FOLDER: u32 = 0o040_755;

/// An archive being written.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0 }
    }

    /// Adds a folder; its parent must have been added before.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER, &[]).with_context(|| format!("cannot add {name} to the initramfs"))
    }

    /// Adds a plain file with this content.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn plain(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, PLAIN, content).with_context(|| format!("cannot add {name} to the initramfs"))
    }

    /// Adds a copy of an executable file.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub(crate) fn executable(&mut self, name: &str, file: &Path) -> Result<()> {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        self.entry(name, EXECUTABLE, &content).with_context(|| format!("cannot add {name} to the initramfs"))
    }

    /// Writes the end mark and returns the writer.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])
            .and_then(|()| self.out.flush())
            .context("cannot end the initramfs")?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a file of 4 GB or more"))?;
        self.inode += 1;
        // magic, inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name with its NUL, check.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_an_archive() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("d").expect("written");
        archive.plain("d/f", b"hello").expect("written");
        let bytes = archive.finish().expect("written");

        // Folder: 110 bytes of header and "d\0" make 112, a multiple of four.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..112], b"d\0");
        // File: its header begins at 112; name "d/f\0" ends at 226, padded to 228; content ends at 233, padded to 236.
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 54..112 + 62], b"00000005");
        assert_eq!(&bytes[112 + 94..112 + 102], b"00000004");
        assert_eq!(&bytes[228..233], b"hello");
        assert_eq!(&bytes[236..242], b"070701");
        assert_eq!(&bytes[236 + 110..236 + 121], b"TRAILER!!!\0");
        assert_eq!(bytes.len() % 4, 0);
    }
}
