//! A daemon that crashes once, when it has made a snapshot: for a test from outside of what starts it again.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal};

/// The first argument that asks for it; the daemon's own follow.
pub(crate) const ONCE: &str = "crash-once";
/// The first argument of the process that ends the daemon; its number follows.
const END: &str = "end";
/// Says that it has crashed.
const CRASHED: &str = "/data/crashed";

pub(crate) fn once(args: &[String]) -> ExitCode {
    if let [end, pid] = args
        && end == END
    {
        end_when_there_is_a_snapshot(Pid::from_raw(pid.parse().unwrap()).unwrap());
        return ExitCode::SUCCESS;
    }
    if !Path::new(CRASHED).exists() {
        // The same process becomes the daemon.
        let pid = std::process::id().to_string();
        let watching = Command::new("/bin/inside").args([ONCE, END, &pid]).spawn();
        println!("to be ended by {:?}", watching.unwrap().id());
    }
    let error = Command::new("/bin/sandflared").args(args).exec();
    panic!("sandflared: {error}");
}

fn end_when_there_is_a_snapshot(daemon: Pid) {
    let kept = || {
        let dirs = fs::read_dir("/data/snapshots").into_iter().flatten().flatten();
        dirs.into_iter().any(|dir| dir.path().join("snapshot.json").exists())
    };
    while !kept() {
        thread::sleep(Duration::from_millis(20));
    }
    fs::write(CRASHED, "").unwrap();
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
}
