//! The one thing asked of QEMU's monitor: to flush its disks and end, when the inside no longer answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// LIMIT: a greeting is about 200 bytes; anything near this is not QEMU.
const LINE_BYTES_MAX: u64 = 64 << 10;
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Asks QEMU to quit. It has then flushed what the guest wrote, as on any clean end.
pub(crate) fn quit(socket: &Path) -> std::io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    for command in ["qmp_capabilities", "quit"] {
        writer.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
        line.clear();
        reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    }
    Ok(())
}
