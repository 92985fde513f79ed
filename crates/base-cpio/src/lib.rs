//! Writing the archive format Linux unpacks as its first root: cpio "newc", uncompressed.
//!
//! Uncompressed because unpacking inside an emulated processor costs more than the bytes.
//! Nothing of the build machine gets in: owners are root, times are zero, inode numbers count up.

use std::io::{self, Write};

/// LIMIT: newc stores lengths as eight hex digits; files here are programs of a few dozen MiB.
const FILE_BYTES_MAX: u64 = 1 << 30;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An archive being written.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive that goes to `out`.
    #[must_use]
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds the directory `path` (no leading slash). Parents must have been added before.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, 2, &[])
    }

    /// Adds the file `path` (no leading slash) with `content`.
    ///
    /// # Errors
    /// When `out` cannot be written, or `content` is over 1 GiB.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, 1, content)
    }

    /// Ends the archive and gives back where it went.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0, 1, 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) -> io::Result<()> {
        let length = content.len() as u64;
        if length > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{path}` is over 1 GiB, too big for an initrd"),
            ));
        }
        self.inode += 1;
        let inode = self.inode;
        self.header(path, inode, mode, links, length)?;
        self.out.write_all(content)?;
        self.pad(length)
    }

    fn header(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        links: u32,
        length: u64,
    ) -> io::Result<()> {
        let name = path.len() + 1;
        // magic, inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name length, checksum
        write!(
            self.out,
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{length:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name:08x}{0:08x}{path}\0",
            0,
        )?;
        self.pad(110 + name as u64)
    }

    /// Everything is aligned to four bytes; entries start aligned, so each part pads itself.
    fn pad(&mut self, length: u64) -> io::Result<()> {
        let missing = length.next_multiple_of(4) - length;
        self.out.write_all(&[0_u8; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_exactly_these_bytes() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin", 0o755).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            concat!(
                "07070100000001000041ed0000000000000000000000020000000000000000",
                "000000000000000000000000000000000000000400000000bin\0\0\0",
                "07070100000002000081ed0000000000000000000000010000000000000005",
                "000000000000000000000000000000000000000500000000init\0\0hello\0\0\0",
                "07070100000000000000000000000000000000000000010000000000000000",
                "000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0",
            )
        );
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let write = || {
            let mut archive = Archive::new(Vec::new());
            archive.file("a", 0o644, &[7; 5]).unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(write(), write());
    }
}
