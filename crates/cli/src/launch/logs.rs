use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::args::Logs;
use crate::complaint::{End, advise};
use crate::launch::record::Record;
use crate::place::Place;
use crate::table::json_line;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// LIMIT: a node cuts what it logs to far less; what is longer comes in pieces.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// `sandflare logs`
pub(crate) async fn logs(place: &Place, args: &Logs) -> Result<End> {
    let path = match Record::read(place)? {
        Some(record) => record.log(place),
        // The last one's, whichever way it ran.
        None => [place.log(), crate::launch::record::portable_state(place).join("console.log")]
            .into_iter()
            .max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok())
            .unwrap_or_else(|| place.log()),
    };
    let Ok(mut file) = File::open(&path) else {
        return Err(advise(
            format!("there is no log at {}", path.display()),
            "start a node with `sandflare up`",
        ));
    };
    let out = std::io::stdout().lock();
    let mut stdout = Lines { out, json: args.format.is_json(), begun: Vec::new() };
    loop {
        let copied = std::io::copy(&mut file, &mut stdout).map(drop);
        // What nobody will end any more is a line as well.
        let copied = copied.and_then(|()| if args.follow { Ok(()) } else { stdout.end() });
        match copied.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(End::Done),
            copied => copied.context("pass the log on")?,
        }
        if !args.follow {
            return Ok(End::Done);
        }
        sleep(LOOK).await;
        // A node that starts again begins a new file of the same name.
        if let Ok(now) = path.metadata()
            && now.ino() != file.metadata().context("look at the log")?.ino()
        {
            file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        }
    }
}

/// Passes a log on as it is, or each line of it as JSON.
struct Lines<W> {
    out: W,
    json: bool,
    /// What there is of a line that has not ended.
    begun: Vec<u8>,
}

impl<W: Write> Lines<W> {
    fn end(&mut self) -> std::io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.begun);
        let line = json_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        self.out.write_all(line.map_err(std::io::Error::other)?.as_bytes())
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.json {
            return self.out.write(bytes);
        }
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") || self.begun.len() >= LINE_BYTES_MAX {
                self.end()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The end of a log, at most `bytes`; empty when there is none.
pub(crate) fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut end = Vec::new();
        file.take(bytes).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_log_is_passed_on_as_it_is_or_line_by_line_as_json() {
        let passed = |json| {
            let mut lines = Lines { out: Vec::new(), json, begun: Vec::new() };
            for part in [&b"one\r\n\ntw"[..], b"o \"x\" \xff\nthr", b"ee"] {
                lines.write_all(part).unwrap();
            }
            lines.end().unwrap();
            lines.out
        };
        assert_eq!(passed(false), b"one\r\n\ntwo \"x\" \xff\nthree");
        let text = String::from_utf8(passed(true)).unwrap();
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lines: Vec<_> = lines.map(|line| line["line"].as_str().unwrap().to_owned()).collect();
        assert_eq!(lines, ["one", "", "two \"x\" \u{fffd}", "three"]);
    }
}
