//! What a hijacked VMM process could still open, see or call. Needs root and `/dev/kvm`.
#![expect(clippy::unwrap_used, reason = "this is a test")]

mod prisoner;

use std::fmt::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;

use expect_test::{expect, expect_file};
use prisoner::{prisoner, run};
use vmm_jail::{JailError, JailSpec, Limits, Thread, describe, enter};

/// Users the tests become. Each has its own, as threads are counted by user.
const LOOKS: u32 = 64_001;
const TRIES: u32 = 64_002;
const LIVES: u32 = 64_003;
const COVERS: u32 = 64_004;
const DIES: u32 = 64_005;

#[test]
fn a_hijacked_process_sees_nothing_but_itself() {
    let seen = prisoner(LOOKS, &["look"]);
    expect![[r#"
        one user and group, not root: true
        other groups: 0
        process 1, parent None
        other processes: 0
        capabilities: 0
        bounding capabilities: 0
        ambient capabilities: 0
        no_new_privs: true
        dumpable: NotDumpable
        environment variables: 0
        secret of the environment in memory: false
        descriptors missing: []
        descriptors too many: []
        host name: "machine", domain ""
        working directory: "/"
        entries of /: 0
        entries of /..: 0
        entries of ../../../..: 0
        network interfaces: ["lo"]
        limit of open files: 4096
        limit of file bytes: 1099511627776
        limit of threads: 32
        limit of pending signals: 256
        limit of core bytes: 0
        limit of locked bytes: 0
        limit of message queue bytes: 0
        limit of real-time priority: 0
        its own page map says present: true
        physical addresses in it: false
        its own memory use is readable: true
    "#]]
    .assert_eq(&seen);
    // Where the root cannot be pivoted away from, as in an initial ramfs, it is covered.
    assert_eq!(prisoner(COVERS, &["look", "jail", "covered"]), seen);
}

#[test]
fn a_process_that_is_not_the_first_of_its_namespace_is_told_so_and_left_alone() {
    let refused = |require_pid_one, uid, gid| {
        let limits = Limits::default();
        let spec =
            JailSpec { uid, gid, cgroup_procs: None, keep_fds: &[], limits, require_pid_one };
        enter(spec).unwrap_err()
    };
    assert!(matches!(refused(true, LOOKS, LOOKS), JailError::NotFirstProcess { .. }));
    assert!(matches!(refused(false, 0, LOOKS), JailError::RootInside));
    assert!(matches!(refused(false, LOOKS, 0), JailError::RootInside));
    assert!(std::fs::exists("/proc/self").unwrap());
}

#[test]
fn a_hijacked_process_can_do_what_this_table_says_and_no_more() {
    let address = SocketAddr::from_abstract_name("sandflare-jail-test").unwrap();
    let _outside = UnixListener::bind_addr(&address).unwrap();
    drop(UnixStream::connect_addr(&address).unwrap());

    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut walls = vec!["jail".to_owned()];
    walls.extend(Thread::ALL.map(|thread| format!("{thread:?}")));
    for wall in &walls {
        let report = prisoner(TRIES, &["try", wall]);
        for (index, line) in report.lines().enumerate() {
            let (attempt, outcome) = line.split_once('|').unwrap_or(("?", line));
            if rows.len() <= index {
                rows.push((attempt.to_owned(), Vec::new()));
            }
            assert_eq!(rows[index].0, attempt);
            rows[index].1.push(outcome.to_owned());
        }
    }

    let mut table = String::from(
        "What a hijacked VMM process can do. `jail`: behind namespaces, empty root, user and limits\n\
         only; the others: with the system call filter of that thread too, which on a host with\n\
         another kernel is what decides.\n\n",
    );
    writeln!(table, "{}", row("", &walls)).unwrap();
    for (attempt, outcomes) in &rows {
        writeln!(table, "{}", row(attempt, outcomes)).unwrap();
    }
    expect_file!["hijacked.txt"].assert_eq(&table);
}

fn row(name: &str, cells: &[String]) -> String {
    let mut line = format!("{name:<36}");
    for cell in cells {
        write!(line, "{cell:<32}").unwrap();
    }
    line.trim_end().to_owned()
}

#[test]
fn what_each_thread_may_call_is_here_to_be_read() {
    let mut text = String::from("What the filters allow. Anything else kills the process.\n");
    for thread in Thread::ALL {
        write!(text, "\n{thread:?}\n\n{}", describe(thread)).unwrap();
    }
    expect_file!["filters.txt"].assert_eq(&text);
}

#[test]
fn a_healthy_process_lives_its_whole_life_behind_its_filters() {
    assert_eq!(prisoner(LIVES, &["live"]), "yes\n");
}

#[test]
fn the_kernel_kills_the_first_process_of_a_namespace_for_a_forbidden_call_too() {
    let output = run(DIES, &["break-out"]);
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
fn a_panicking_vmm_ends_although_its_namespace_ignores_the_signal_it_sends_itself() {
    // The C library's last resort for a process that survives SIGABRT.
    let output = run(DIES, &["abort"]);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}
