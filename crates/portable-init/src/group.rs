//! Keeps the node answering while its guests use up the machine.

use std::fs;
use std::io;
use std::path::Path;

use crate::kernel_log;

/// The group this process and the node are in, beside the one the node makes for its machines.
const GROUP: &str = "/sys/fs/cgroup/node";
/// LIMIT: the program, its database and its sockets take some 60 MiB; twice that is never taken away,
/// and little of a machine of several GiB.
const MEMORY_KEPT: u64 = 128 << 20;

/// What the group gets.
const SETTINGS: [(&str, &str); 3] = [
    // The most there is, against 100 of all machines together: whoever answers requests sleeps most
    // of the time, and must not queue behind guests that never do.
    ("cpu.weight", "10000"),
    ("io.weight", "10000"),
    ("io.bfq.weight", "1000"),
];

/// Moves this process, and so all it starts, into a group that guests cannot starve. Without one the
/// node works as well on a machine that is not busy.
pub(crate) fn join() {
    if let Err(error) = join_in(Path::new(GROUP)) {
        kernel_log::note(&format!("the node shares its resources with its guests: {error}"));
    }
}

fn join_in(group: &Path) -> io::Result<()> {
    fs::create_dir_all(group)?;
    let kept = MEMORY_KEPT.to_string();
    for (file, value) in SETTINGS.into_iter().chain([("memory.min", kept.as_str())]) {
        match fs::write(group.join(file), value) {
            // That controller, or that scheduler of requests, is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    fs::write(group.join("cgroup.procs"), "0")
}
