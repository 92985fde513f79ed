use std::thread;
use std::time::{Duration, Instant};

use api_guest::{Answer, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, FailCode, Input, Request, Signal};

use crate::guest::{Guest, USER, bash, exec, is_gone, reaches, shell, state};

#[test]
fn streams_are_kept_apart_and_the_code_comes_back() {
    let outcome = Guest::start().shell("echo out; echo err >&2; exit 7");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((outcome.code(), outcome.exited.timed_out), (7, false));
}

#[test]
fn a_command_is_at_home_as_the_default_user() {
    let guest = Guest::start();
    let outcome = guest.shell("id -un; pwd; echo $HOME $USER $LOGNAME $LANG; echo $PATH; umask");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected = format!("{USER}\n/usr/sbin\n/usr/sbin {USER} {USER} C.UTF-8\n{path}\n0022\n");
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn user_directory_and_environment_are_as_asked() {
    let guest = Guest::start();
    let mut exec = shell("id -u; id -G; pwd; echo $GREETING $LANG");
    exec.user = Some("root".into());
    exec.cwd = Some("/proc/self/..".into());
    exec.env = vec![("GREETING".into(), "good day".into()), ("LANG".into(), "C".into())];
    assert_eq!(guest.run(&exec).stdout, "0\n0\n/proc\ngood day C\n");
    exec.user = Some("4242".into());
    assert_eq!(guest.run(&exec).stdout, "4242\n4242\n/proc\ngood day C\n");
    exec.user = Some("nobody-at-all".into());
    guest.fails(&Request::Exec(exec.clone()), FailCode::UnknownUser);
    exec.user = None;
    exec.cwd = Some("/not/there".into());
    let message = guest.fails(&Request::Exec(exec.clone()), FailCode::NotFound);
    assert_eq!(message, "cannot enter directory `/not/there`: no such file or directory");
    exec.cwd = Some("/root".into());
    guest.fails(&Request::Exec(exec), FailCode::PermissionDenied);
}

#[test]
fn nothing_of_the_agent_leaks_into_a_command() {
    // As it comes, and as `nohup` and others start it.
    for guest in [Guest::start(), Guest::start_ignoring(&["HUP", "INT", "USR1", "34", "64"])] {
        // The listing itself needs one descriptor more.
        assert_eq!(guest.run(&exec(&["ls", "/proc/self/fd"])).stdout, "0\n1\n2\n3\n");
        let status = guest.run(&exec(&["cat", "/proc/self/status"])).stdout;
        for set in ["SigBlk:\t", "SigIgn:\t"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            assert_eq!(u64::from_str_radix(line, 16).unwrap(), 0, "{set}{line}");
        }
    }
}

#[test]
fn an_unknown_command_exits_127_and_one_that_may_not_run_126() {
    let guest = Guest::start();
    let outcome = guest.run(&exec(&["no-such-command"]));
    assert_eq!(outcome.code(), EXIT_NOT_FOUND);
    assert_eq!(outcome.stderr, "sandflare: no-such-command: command not found\n");
    assert_eq!(guest.run(&exec(&["/no/such/command"])).code(), EXIT_NOT_FOUND);
    for present in ["/etc/passwd", "/etc"] {
        let outcome = guest.run(&exec(&[present]));
        assert_eq!(outcome.code(), EXIT_NOT_EXECUTABLE);
        assert_eq!(outcome.stderr, format!("sandflare: {present}: permission denied\n"));
    }
    let script = guest.path("script");
    std::fs::write(&script, "echo no interpreter").unwrap();
    assert_eq!(guest.shell(&format!("chmod 755 {script}")).code(), 1, "the user owns nothing here");
    let mut chmod = exec(&["chmod", "755", &script, &guest.path("")]);
    chmod.user = Some("root".into());
    assert_eq!(guest.run(&chmod).code(), 0);
    assert_eq!(guest.run(&exec(&[&script])).code(), EXIT_NOT_EXECUTABLE);
}

#[test]
fn input_reaches_the_command_and_ends() {
    let guest = Guest::start();
    let mut exec = exec(&["cat"]);
    exec.stdin = true;
    let mut talk = guest.ask(&Request::Exec(exec));
    let text = "0123456789abcdef".repeat(64 * 1024);
    let mut sender = talk.stream.try_clone().unwrap();
    let bytes = text.clone();
    let sending = thread::spawn(move || {
        use std::io::Write;

        use api_guest::Message;
        for chunk in bytes.as_bytes().chunks(50_000) {
            sender.write_all(&Input::Stdin(chunk.to_vec()).encode().unwrap()).unwrap();
        }
        sender.write_all(&Input::CloseStdin.encode().unwrap()).unwrap();
    });
    talk.started();
    let outcome = talk.outcome();
    sending.join().unwrap();
    assert!(outcome.stdout == text, "{} bytes of {}", outcome.stdout.len(), text.len());
    assert_eq!(outcome.code(), 0);
}

#[test]
fn without_input_a_command_reads_its_end_at_once() {
    let guest = Guest::start();
    assert_eq!(guest.run(&exec(&["cat"])).code(), 0);
}

#[test]
fn a_command_that_does_not_read_its_input_still_ends_and_still_gets_signals() {
    let guest = Guest::start();
    let mut exec = shell("echo ready; sleep 1000");
    exec.stdin = true;
    let mut talk = guest.ask(&Request::Exec(exec));
    talk.started();
    assert_eq!(talk.line(), "ready");
    for _ in 0..3 {
        talk.send(&Input::Stdin(vec![b'x'; 64 * 1024]));
    }
    talk.send(&Input::Signal(Signal { number: 15 }));
    assert_eq!(talk.outcome().exited.signal, Some(15));
}

#[test]
fn a_command_can_catch_a_signal() {
    let guest = Guest::start();
    let script = "trap 'echo caught; exit 3' USR1; sleep 1000 & echo ready; wait";
    let mut talk = guest.ask(&Request::Exec(shell(script)));
    talk.started();
    assert_eq!(talk.line(), "ready");
    talk.send(&Input::Signal(Signal { number: 10 }));
    let outcome = talk.outcome();
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("caught\n", 3));
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let guest = Guest::start();
    let mut talk = guest.ask(&Request::Exec(shell("sleep 1000 & echo $!; wait")));
    talk.started();
    let inner = talk.line();
    talk.send(&Input::Signal(Signal { number: 15 }));
    assert_eq!(talk.outcome().exited.signal, Some(15));
    reaches("the inner command is gone", || is_gone(&inner));
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let guest = Guest::start();
    let mut talk = guest.ask(&Request::Exec(exec(&["sleep", "1000"])));
    let pid = talk.started().to_string();
    talk.send(&Input::Signal(Signal { number: 65 }));
    assert!(
        matches!(talk.next(), Answer::Failed(failed) if failed.code == FailCode::InvalidRequest)
    );
    reaches("the command is killed", || is_gone(&pid));
}

#[test]
fn the_time_limit_kills_all_of_it_and_keeps_what_was_printed() {
    let guest = Guest::start();
    // One child in the group, one in a group of its own, and a main process that ignores SIGTERM.
    let mut exec = bash(
        "trap '' TERM; sleep 1000 & echo $!; set -m; sleep 1000 & echo $!; echo partial >&2; wait",
    );
    exec.time_limit_ms = Some(700);
    let start = Instant::now();
    let outcome = guest.run(&exec);
    assert!(outcome.exited.timed_out);
    assert_eq!((outcome.exited.code, outcome.exited.signal), (None, Some(9)));
    assert_eq!(outcome.stderr, "partial\n");
    assert!(start.elapsed() >= Duration::from_millis(700));
    let children: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(children.len(), 2);
    for pid in children {
        reaches("the child is gone", || is_gone(pid));
    }
}

#[test]
fn a_time_limit_that_is_not_reached_changes_nothing() {
    let mut exec = shell("exit 4");
    exec.time_limit_ms = Some(3_600_000);
    let outcome = Guest::start().run(&exec);
    assert_eq!((outcome.code(), outcome.exited.timed_out), (4, false));
}

#[test]
fn the_time_limit_holds_while_nobody_reads() {
    let guest = Guest::start();
    let mut exec = exec(&["cat", "/dev/zero"]);
    exec.time_limit_ms = Some(300);
    let mut talk = guest.ask(&Request::Exec(exec));
    let pid = talk.started();
    reaches("the command is killed", || is_gone(&pid.to_string()));
    assert!(talk.outcome().exited.timed_out);
}

#[test]
fn a_closed_connection_kills_the_command() {
    let guest = Guest::start();
    let mut talk = guest.ask(&Request::Exec(shell("sleep 1000 & echo $!; wait")));
    let pids = [talk.started().to_string(), talk.line()];
    drop(talk);
    for pid in pids {
        reaches("the command is gone", || is_gone(&pid));
    }
}

#[test]
fn what_stays_in_the_background_does_not_hold_the_answer() {
    let guest = Guest::start();
    let outcome = guest.shell("sleep 1000 & echo $!; exit 5");
    assert_eq!(outcome.code(), 5);
    let left = outcome.stdout.trim_end();
    assert!(!is_gone(left), "a command may leave a server running");
    let mut kill = exec(&["kill", "-9", left]);
    kill.user = Some("root".into());
    guest.run(&kill);
    reaches("it is reaped", || is_gone(left));
}

#[test]
fn orphans_are_reaped() {
    let guest = Guest::start();
    let outcome = guest.shell("for i in 1 2 3; do ( sh -c 'echo $$' & ); done; exec sleep 0.1");
    assert_eq!(outcome.code(), 0);
    let orphans: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(orphans.len(), 3);
    for pid in orphans {
        reaches("the orphan is reaped", || is_gone(pid));
    }
}

#[test]
fn many_commands_at_once_each_get_their_own() {
    let guest = Guest::start();
    thread::scope(|scope| {
        for number in 0..20 {
            let guest = &guest;
            scope.spawn(move || {
                for round in 0..5 {
                    let outcome = guest.shell(&format!("echo {number} {round}; exit {number}"));
                    assert_eq!(outcome.stdout, format!("{number} {round}\n"));
                    assert_eq!(outcome.code(), number);
                }
            });
        }
    });
    let threads = || std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap().count();
    reaches("the workers made for it are gone", || threads() <= 8);
}

#[test]
fn a_slow_reader_slows_the_command_and_costs_no_memory() {
    let guest = Guest::start();
    let bytes = 64 * 1024 * 1024;
    let mut talk = guest.ask(&Request::Exec(shell(&format!("exec head -c {bytes} /dev/zero"))));
    let pid = talk.started();
    reaches("the command waits", || state(pid) == Some('S'));
    let mut got = 0;
    loop {
        match talk.next() {
            Answer::Stdout(data) => got += data.len(),
            Answer::Exited(exited) => break assert_eq!(exited.code, Some(0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, bytes);
    let peak_kib = guest.memory_peak_kib();
    assert!(peak_kib < 12 * 1024, "{peak_kib} KiB");
}

#[test]
fn a_terminal_is_refused_by_this_generation() {
    let mut exec = exec(&["true"]);
    exec.pty = Some(api_guest::PtySize { rows: 24, columns: 80 });
    Guest::start().fails(&Request::Exec(exec), FailCode::Unsupported);
}
