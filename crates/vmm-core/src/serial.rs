//! The serial console: a 16550 whose output goes to a log file of bounded size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// LIMIT: a guest can print for ever; the log keeps at most the last two halves of this.
pub(crate) const CONSOLE_BYTES_MAX: u64 = 256 * 1024;
/// LIMIT: output is collected into lines of at most this before it is written to the file.
const LINE_BYTES_MAX: usize = 256;
const DROPPED: &[u8] = b"[older console output dropped]\n";

/// Raises the serial port's interrupt line.
#[derive(Debug)]
pub(crate) struct Line(pub(crate) EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where console output goes. When the file is full its second half becomes the first, so that the
/// newest output (a panic, say) is always there.
#[derive(Debug)]
pub(crate) struct ConsoleLog {
    file: File,
    at: u64,
    line: Vec<u8>,
}

impl ConsoleLog {
    /// Continues `file` at its end.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let at = file.metadata()?.len().min(CONSOLE_BYTES_MAX);
        Ok(Self { file, at, line: Vec::with_capacity(LINE_BYTES_MAX) })
    }

    fn append(&mut self) -> io::Result<()> {
        if self.at + self.line.len() as u64 > CONSOLE_BYTES_MAX {
            self.drop_older()?;
        }
        self.file.write_all_at(&self.line, self.at)?;
        self.at += self.line.len() as u64;
        self.line.clear();
        Ok(())
    }

    fn drop_older(&mut self) -> io::Result<()> {
        let half = CONSOLE_BYTES_MAX / 2;
        let keep = self.at.min(half);
        let mut newer = vec![0; usize::try_from(keep).unwrap_or(0)];
        self.file.read_exact_at(&mut newer, self.at - keep)?;
        self.file.set_len(0)?;
        self.file.write_all_at(DROPPED, 0)?;
        self.file.write_all_at(&newer, DROPPED.len() as u64)?;
        self.at = DROPPED.len() as u64 + keep;
        Ok(())
    }
}

impl io::Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' || self.line.len() >= LINE_BYTES_MAX {
                // A full disk must not stop the guest: console output is lost, nothing else.
                if self.append().is_err() {
                    self.line.clear();
                }
            }
        }
        Ok(bytes.len())
    }

    /// Writes an unfinished line out.
    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() { Ok(()) } else { self.append() }
    }
}

impl Drop for ConsoleLog {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            // The process is ending; there is nobody left to tell.
            drop(self.append());
        }
    }
}

/// COM1 of a machine.
pub(crate) type Com1 = Serial<Line, vm_superio::serial::NoEvents, ConsoleLog>;

#[cfg(test)]
mod test {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn the_log_stays_bounded_and_keeps_the_newest_lines() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = ConsoleLog::new(file.try_clone().unwrap()).unwrap();
        for number in 0..40_000 {
            writeln!(log, "line {number}").unwrap();
        }
        drop(log);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() as u64 <= CONSOLE_BYTES_MAX);
        assert!(text.starts_with("[older console output dropped]\n"));
        assert!(text.ends_with("line 39999\n"));
    }
}
