//! What the agent says aloud: little, because the guest's console is slow and bounded.

use std::io::Write;

/// Says one line on the console (standard error), in one write.
pub(crate) fn say(line: &str) {
    // There is no other place to complain to.
    let _ = std::io::stderr().write_all(format!("sandflare-agent: {line}\n").as_bytes());
}
