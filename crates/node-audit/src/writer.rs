//! The files, opened, mended, appended to and flushed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base_audit::{
    Chain, Event, Fault, HEAD_FILE, Head, HeadError, Line, Lines, Link, Segment, read_head, seal,
    segment_name, segments,
};
use rustix::fs::FlockOperation;

use crate::{NODE_ACTOR, OpenAuditError};

/// An entry about the log itself.
pub(crate) fn of_node(time_ms: u64, action: &str, detail: String) -> Event {
    Event {
        time_ms,
        actor: NODE_ACTOR.into(),
        action: action.into(),
        result: "ok".into(),
        detail: Some(detail),
        ..Event::default()
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    // Its lock keeps other writers out, and goes with this process however that ends.
    dir_file: File,
    file: File,
    /// Bytes of whole lines in `file`.
    length: u64,
    /// Whether `file` may hold more than those.
    torn: bool,
    segment_bytes: u64,
    last: Option<Link>,
    last_time_ms: u64,
    /// The last line known to be on disk.
    flushed: Option<Link>,
}

impl Writer {
    pub(crate) fn open(
        dir: &Path,
        now_ms: u64,
        segment_bytes: u64,
    ) -> Result<Self, OpenAuditError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenAuditError::File { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        let dir_file = File::open(dir).map_err(failed(dir))?;
        match rustix::fs::flock(&dir_file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenAuditError::InUse(dir.into())),
            Err(errno) => return Err(failed(dir)(errno.into())),
        }
        let head = match read_head(dir) {
            Ok(head) => Some(head),
            Err(HeadError::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let all = segments(dir).map_err(failed(dir))?;
        let found = Found::in_segments(dir, &all, head)?;
        let path = found.path.clone().unwrap_or_else(|| dir.join(segment_name(0)));
        let file = open_segment(&path).map_err(failed(&path))?;
        let cut = file.metadata().map_err(failed(&path))?.len().saturating_sub(found.length);
        if cut > 0 {
            file.set_len(found.length).map_err(failed(&path))?;
        }
        let mut writer = Self {
            dir: dir.into(),
            dir_file,
            file,
            length: found.length,
            torn: false,
            segment_bytes,
            last: found.last,
            last_time_ms: now_ms,
            flushed: None,
        };
        let opened = match (found.last, cut) {
            (None, 0) => of_node(now_ms, "audit_begin", "the log begins".into()),
            (_, 0) => of_node(now_ms, "audit_open", "the log goes on".into()),
            (_, cut) => {
                let detail = format!("{cut} bytes of unfinished entries at the end were cut off");
                of_node(now_ms, "audit_mended", detail)
            }
        };
        let begun = writer.append(&opened).and_then(|_| writer.flush());
        begun.map_err(failed(&path))?;
        Ok(writer)
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.last != self.flushed
    }

    /// Time of the newest entry.
    pub(crate) const fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Writes the line of `event`. After an error the log is as it was before.
    pub(crate) fn append(&mut self, event: &Event) -> io::Result<Link> {
        self.mend()?;
        let (mut line, link) = seal(event, self.last);
        line.push(b'\n');
        if self.length > 0 && self.length + line.len() as u64 > self.segment_bytes {
            self.rotate(link.index)?;
        }
        // Whatever part of it is written must go again when this fails.
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.length += line.len() as u64;
        (self.last, self.last_time_ms) = (Some(link), event.time_ms);
        Ok(link)
    }

    /// Cuts off what a failed append left.
    pub(crate) fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Gets every line to the disk, then the head that names the last of them.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Some(last) = self.last.filter(|_| self.is_dirty()) else { return Ok(()) };
        self.file.sync_data()?;
        let head = serde_json::to_vec(&Head::from(last)).expect("a head has only string keys");
        let new = self.dir.join("head.new");
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&head)?;
        file.sync_data()?;
        fs::rename(&new, self.dir.join(HEAD_FILE))?;
        self.dir_file.sync_all()?;
        self.flushed = Some(last);
        Ok(())
    }

    /// Goes on in a new file, whose first line will have the index `first`.
    fn rotate(&mut self, first: u64) -> io::Result<()> {
        self.flush()?;
        self.file = open_segment(&self.dir.join(segment_name(first)))?;
        // What an earlier attempt left there was never a line.
        self.file.set_len(0)?;
        self.length = 0;
        self.dir_file.sync_all()
    }
}

fn open_segment(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// Where a log ends.
struct Found {
    /// The file to go on with; `None` when there is none.
    path: Option<PathBuf>,
    /// Bytes of whole lines in it.
    length: u64,
    last: Option<Link>,
}

impl Found {
    /// Reads the newest file with a line in it. Only what the disk may not have had yet, after
    /// `head`, may be broken.
    fn in_segments(
        dir: &Path,
        all: &[Segment],
        head: Option<Head>,
    ) -> Result<Self, OpenAuditError> {
        let changed = |what: String| OpenAuditError::Changed { dir: dir.into(), what };
        let mut found = Self { path: None, length: 0, last: None };
        for segment in all.iter().rev() {
            let tail = Tail::read(segment, head).map_err(|error| match error {
                TailError::Read(source) => {
                    OpenAuditError::File { path: segment.path.clone(), source }
                }
                TailError::Fault { line, fault } => {
                    changed(format!("`{}` line {line}: {fault}", segment.path.display()))
                }
            })?;
            if found.path.is_none() {
                found.path = Some(segment.path.clone());
                found.length = tail.length;
            }
            if tail.last.is_some() {
                found.last = tail.last;
                break;
            }
        }
        match (head, found.last) {
            (Some(head), last) if last.is_none_or(|last| last.index < head.index) => {
                Err(changed(format!("its lines up to entry {} are not there", head.index)))
            }
            (None, Some(_)) => Err(HeadError::Missing(dir.join(HEAD_FILE)).into()),
            _ => Ok(found),
        }
    }
}

/// The whole lines of a file.
struct Tail {
    length: u64,
    last: Option<Link>,
}

enum TailError {
    Read(io::Error),
    Fault { line: u64, fault: Fault },
}

impl Tail {
    fn read(segment: &Segment, head: Option<Head>) -> Result<Self, TailError> {
        let file = File::open(&segment.path).map_err(TailError::Read)?;
        let mut lines = Lines::new(BufReader::new(file));
        let mut chain = Chain::from_index(segment.first);
        let mut tail = Self { length: 0, last: None };
        for line in 1.. {
            let taken = match lines.next_line().map_err(TailError::Read)? {
                None => break,
                Some(Line::Torn(_)) => break,
                Some(Line::TooLong) => Err(Fault::TooLong),
                Some(Line::Whole(bytes)) => {
                    chain.take(bytes).map(|record| (record.link(), bytes.len() as u64 + 1))
                }
            };
            match taken {
                Ok((link, bytes)) => {
                    if head.is_some_and(|h| h.index == link.index && h.hash != link.hash) {
                        return Err(TailError::Fault { line, fault: Fault::NotTheHead });
                    }
                    tail.length += bytes;
                    tail.last = Some(link);
                }
                // A power cut may leave anything where the disk had not said that it was done.
                Err(_) if head.is_none_or(|head| chain.next() > head.index) => break,
                Err(fault) => return Err(TailError::Fault { line, fault }),
            }
        }
        Ok(tail)
    }
}
