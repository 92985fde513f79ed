//! What a guest's console says about its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::control::shown;

/// LIMIT: the end of a kernel panic, with its backtrace, fits.
const TAIL_BYTES: u64 = 32 * 1024;

/// What Linux says when it switches its machine off.
pub(crate) const POWER_DOWN: &str = "reboot: Power down";
/// Texts by which Linux says that it ends its machine, most telling first.
const FAREWELLS: [&str; 5] = [
    "Kernel panic",
    POWER_DOWN,
    "reboot: Restarting system",
    "sysrq: Resetting",
    "reboot: System halted",
];
/// Texts that explain an end without being one.
const TELLING: [&str; 2] = ["Out of memory", "oom-kill"];

/// Whether `line` is Linux saying that it ends its machine.
pub(crate) fn is_farewell(line: &str) -> bool {
    FAREWELLS.iter().any(|said| line.contains(said))
}

/// One line that tells most about the end of the guest that wrote `console`; the last one when
/// none is telling, and nothing when the console is empty or cannot be read.
pub(crate) fn last_words(console: &File) -> Option<String> {
    let tail = read_tail(console, TAIL_BYTES).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let find = |pattern: &&str| text.lines().rev().find(|line| line.contains(*pattern));
    let line = FAREWELLS.iter().chain(&TELLING).find_map(find);
    let line = line.or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()))?;
    Some(shown(line)).filter(|line| !line.is_empty())
}

/// The last `bytes` of a console that is being written.
pub(crate) fn read_tail(console: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let length = console.metadata()?.len();
    let start = length.saturating_sub(bytes);
    let mut tail = vec![0; usize::try_from(length - start).unwrap_or_default()];
    console.read_exact_at(&mut tail, start)?;
    Ok(tail)
}

#[cfg(test)]
mod test {
    use super::*;

    fn said(text: &[u8]) -> Option<String> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(text, 0).unwrap();
        last_words(&file)
    }

    #[test]
    fn a_panic_outranks_what_was_printed_after_it() {
        let text = b"boot\n[ 1.0] Kernel panic - not syncing: VFS\r\n[ 1.1] Rebooting\n";
        assert_eq!(said(text).unwrap(), "[ 1.0] Kernel panic - not syncing: VFS");
    }

    #[test]
    fn without_a_reason_the_last_line_stands() {
        assert_eq!(said(b"a\nlast \x1b[0mline\n\n").unwrap(), "last  [0mline");
        assert_eq!(said(b""), None);
    }

    #[test]
    fn only_the_end_of_a_flood_is_read() {
        let mut flood = b"Kernel panic long ago\n".to_vec();
        flood.extend(std::iter::repeat_n(b'x', 100_000));
        assert!(said(&flood).unwrap().starts_with("xxx"));
    }
}
