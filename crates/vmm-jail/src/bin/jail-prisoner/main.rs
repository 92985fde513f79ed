//! A hijacked VMM process, for this crate's tests: enters the jail and then tries what an attacker
//! would. Prints one line per finding. Not installed anywhere.
//!
//! `jail-prisoner UID look` prints what it can see; `jail-prisoner UID try WALLS`, with `jail` or a
//! kind of thread as walls, prints what it can do; `jail-prisoner UID live` does what a healthy VMM
//! has to be able to do; `jail-prisoner UID break-out` and `jail-prisoner UID abort` do not come back.
#![expect(clippy::print_stdout, reason = "its findings are its output")]
#![expect(clippy::unwrap_used, reason = "it is part of a test")]

mod attempts;
mod live;
mod look;
mod raw;

use std::env;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, exit};

use attempts::Judge;
use rustix::io::fcntl_dupfd_cloexec;
use vmm_jail::{JailSpec, KernelFiles, Limits, Thread, enter, install};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ([uid, task, ..], walls) = (arguments.as_slice(), arguments.get(2)) else {
        eprintln!("usage: jail-prisoner UID look | try WALLS | live | break-out | abort");
        exit(2);
    };
    let walls = match walls {
        None | Some(&"jail") => None,
        Some(&name) => {
            Some(Thread::ALL.into_iter().find(|thread| format!("{thread:?}") == name).unwrap())
        }
    };

    let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
    // What a careless parent leaves open: it must be gone inside, wherever its number is.
    let left_open = File::open("/").unwrap();
    let far_away = fcntl_dupfd_cloexec(&kvm, 900).unwrap();
    let memory_of_secret = look::find_secret();
    if arguments.get(3) == Some(&"covered") {
        look::live_below_a_shared_mount();
    }
    let jailed = enter(JailSpec {
        uid: uid.parse().unwrap(),
        gid: uid.parse().unwrap(),
        cgroup_procs: None,
        keep_fds: &[kvm.as_raw_fd()],
        limits: Limits::default(),
        require_pid_one: true,
    });
    let KernelFiles { userfaultfd, pagemap, smaps } = match jailed {
        Ok(jailed) => jailed.files,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            println!("not jailed: {error}: {}", source.unwrap_or_default());
            exit(1);
        }
    };
    // Their numbers were closed or taken over by others; nobody must close those again.
    let _ = (left_open.into_raw_fd(), far_away.into_raw_fd());

    match *task {
        "look" => look::print(memory_of_secret, &[&kvm, &pagemap, &smaps], &userfaultfd),
        "try" => {
            for attempt in attempts::all(&kvm) {
                let outcome = match (walls, attempt.refused_by) {
                    (None, Judge::Kernel) => "depends on the kernel".to_owned(),
                    _ => outcome(walls, &*attempt.action),
                };
                println!("{}|{outcome}", attempt.name);
            }
        }
        "live" => {
            let belongings = live::Belongings::new(userfaultfd, pagemap).unwrap();
            let control = Some(Thread::Control);
            println!("{}", outcome(control, &|| live::live(&belongings)));
        }
        // As the first process of its namespace, for which the kernel ignores most signals.
        "break-out" => {
            install(Thread::Control).unwrap();
            println!("opening / gave {:?}", File::open("/"));
        }
        "abort" => {
            install(Thread::Control).unwrap();
            std::process::abort();
        }
        other => {
            eprintln!("jail-prisoner: no task {other:?}");
            exit(2);
        }
    }
}

/// How `action` ends in a process of its own, behind `walls`: `yes`, `killed`, or the error.
fn outcome(walls: Option<Thread>, action: &dyn Fn() -> std::io::Result<()>) -> String {
    // A child has everything this process has; only it can end without ending the rest.
    let status = raw::in_child(&|| {
        if let Some(thread) = walls
            && install(thread).is_err()
        {
            return raw::NO_FILTER;
        }
        match action() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(raw::NO_ERRNO),
        }
    });
    let status = ExitStatus::from_raw(status.unwrap());
    match (status.code(), status.signal()) {
        (Some(0), _) => "yes".to_owned(),
        (Some(raw::NO_FILTER), _) => "the filter cannot be installed".to_owned(),
        (Some(code), _) => {
            let text = std::io::Error::from_raw_os_error(code).to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
        (None, Some(libc::SIGSYS)) => "killed".to_owned(),
        (None, other) => format!("signal {other:?}"),
    }
}
