use std::io::{self, BufRead};

use crate::LINE_BYTES_MAX;

/// What comes next in a file of lines.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its line feed.
    Whole(&'a [u8]),
    /// Bytes without a line feed at the end of the file: how many.
    Torn(u64),
    /// A line that is longer than any the writer makes. It was skipped.
    TooLong,
}

/// The lines of a file, in bounded memory whatever the file is.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `from`.
    pub const fn new(from: R) -> Self {
        Self { from, line: Vec::new() }
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut length: u64 = 0;
        loop {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Ok((length > 0).then_some(Line::Torn(length)));
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(bytes.len());
            length += taken as u64;
            // What is too long is counted, not kept.
            if length < LINE_BYTES_MAX as u64 {
                self.line.extend_from_slice(&bytes[..taken]);
            }
            self.from.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                let too_long = length >= LINE_BYTES_MAX as u64;
                let line = if too_long { Line::TooLong } else { Line::Whole(&self.line) };
                return Ok(Some(line));
            }
        }
    }
}
