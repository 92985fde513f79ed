//! Nothing of a host outlives the tests.
//!
//! Each host has a guardian, a process that waits for the end of a pipe whose other end only this
//! process has. The kernel closes it however this process ends: the last test, a failure, Ctrl-C,
//! SIGKILL. The guardian then stops the portable host and removes its directory. At an ordinary end
//! this process waits for that.
#![expect(unsafe_code, reason = "atexit is the only hook after the last test")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Waits for the end of its input; then for an `up` that is at work; then tears down.
const SCRIPT: &str = r#"
read -r _
flock "$SANDFLARE_HOME/up.lock" "$1" down >/dev/null 2>&1 || "$1" down
rm -rf "$SANDFLARE_HOME"
"#;

static AT_EXIT: OnceLock<Arc<Mutex<Option<Child>>>> = OnceLock::new();

/// Tears one home down when this is dropped, or when this process ends.
#[derive(Debug)]
pub(crate) struct Guardian {
    child: Arc<Mutex<Option<Child>>>,
}

impl Guardian {
    /// Guards `home`, whose node is stopped by `sandflare`.
    pub(crate) fn start(sandflare: &Path, home: &Path) -> Self {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(sandflare)
            .env("SANDFLARE_HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for the tests; it comes here as the end of the pipe.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child: Arc::new(Mutex::new(Some(child))) }
    }

    /// Makes the ordinary end of this process wait for `guardian`, which may be done for one: a
    /// value in a static is never dropped.
    pub(crate) fn stops_at_exit(guardian: &Self) {
        let first = AT_EXIT.set(Arc::clone(&guardian.child)).is_ok();
        assert!(first, "only the shared host lives to the end");
        // SAFETY: `finish_shared` takes nothing, and touches only statics that have no destructor.
        let registered = unsafe { libc::atexit(finish_shared) };
        assert_eq!(registered, 0);
    }
}

extern "C" fn finish_shared() {
    if let Some(child) = AT_EXIT.get() {
        finish(child);
    }
}

fn finish(child: &Mutex<Option<Child>>) {
    let child = child.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut child) = child {
        drop(child.stdin.take());
        // It cannot fail but for a child that was waited for, and only this waits.
        let _ = child.wait();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        finish(&self.child);
    }
}
