//! Starting `jail-prisoner` as the node starts a VMM.
#![expect(unsafe_code, reason = "unshare has no safe interface")]
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What the prisoner finds with `arguments`, as user `uid`.
#[track_caller]
pub(crate) fn prisoner(uid: u32, arguments: &[&str]) -> String {
    let output = run(uid, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let findings = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {errors}{findings}", output.status);
    findings
}

/// How the prisoner ends, as the first process of a PID namespace.
pub(crate) fn run(uid: u32, arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    // A thread of its own, because the children of the one that makes a PID namespace are in it
    // for ever.
    let inside = thread::spawn(move || {
        // SAFETY: `FILES` is not among the flags.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.expect("these tests need root");
        Command::new(env!("CARGO_BIN_EXE_jail-prisoner"))
            .arg(uid.to_string())
            .args(arguments)
            .env("SECRET", "the node's secret")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    });
    inside.join().unwrap()
}
