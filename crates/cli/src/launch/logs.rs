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

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

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
    let mut stdout = std::io::stdout().lock();
    loop {
        match std::io::copy(&mut file, &mut stdout).and_then(|_| stdout.flush()) {
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
