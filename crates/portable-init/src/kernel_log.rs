//! PID 1's own voice: the kernel log, so that it appears on the console even when nothing else works yet.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says what went wrong. Priority 3 ("error") passes `quiet`.
pub(crate) fn error(text: &str) {
    write(3, text);
}

/// Notes something for whoever reads the kernel log later; not shown on a quiet console.
pub(crate) fn note(text: &str) {
    write(6, text);
}

fn write(priority: u8, text: &str) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record. A record that does not fit is cut by the kernel; nothing better can be done here.
        let _ = log.write_all(format!("<{priority}>portable-init: {text}\n").as_bytes());
    }
}
