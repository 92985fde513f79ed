use std::thread;
use std::time::{Duration, Instant};

use api_guest::{
    Answer, Attach, Control, ENDED_KEPT_MAX, EXIT_NOT_FOUND, Exec, Exited, FailCode, Input, Mark,
    OUTPUT_KEPT_BYTES, PROCESSES_MAX, Process, ProcessBounds, PtySize, READER_WAIT_SECS, Request,
    Resize, Signal, Spawn, SpawnWithin,
};

use crate::guest::{Guest, Talk, bash, exec, is_gone, reaches, shell, state};

impl Guest {
    fn spawn(&self, exec: &Exec) -> Process {
        match self.one(&Request::Spawn(Spawn { exec: exec.clone() })) {
            Answer::Process(process) => process,
            other => panic!("{other:?}"),
        }
    }

    fn attach(&self, process: u32, after: Option<u64>) -> Talk {
        let mut talk = self.ask(&Request::Attach(Attach { process, after }));
        assert!(matches!(talk.next(), Answer::Process(shown) if shown.id == process));
        talk
    }

    fn processes(&self) -> Vec<Process> {
        let mut talk = self.ask(&Request::Processes);
        let mut all = Vec::new();
        loop {
            match talk.next() {
                Answer::Process(process) => all.push(process),
                Answer::Done => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    fn is_over(&self, id: u32) -> bool {
        self.processes().iter().any(|process| process.id == id && process.exited.is_some())
    }

    fn control(&self, process: u32, inputs: &[Input]) -> Answer {
        let mut talk = self.ask(&Request::Control(Control { process }));
        for input in inputs {
            talk.send(input);
        }
        talk.send(&Input::End);
        talk.next()
    }
}

/// Events of a process as a reader got them.
#[derive(Debug, Default)]
struct Heard {
    last_seq: Option<u64>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: u64,
    exited: Option<Exited>,
}

impl Heard {
    /// Takes one event and checks that its number follows.
    fn hear(&mut self, talk: &mut Talk) -> Answer {
        let Answer::Mark(Mark { seq, at_ns }) = talk.next() else { panic!("no mark") };
        assert!(at_ns > 1_700_000_000_000_000_000);
        let event = talk.next();
        let missing = if let Answer::Dropped(dropped) = &event { dropped.events } else { 1 };
        if let Some(last) = self.last_seq {
            assert_eq!(seq, last + missing, "{event:?}");
        }
        self.last_seq = Some(seq);
        match &event {
            Answer::Started(_) => {}
            Answer::Stdout(data) => self.stdout.extend(data),
            Answer::Stderr(data) => self.stderr.extend(data),
            Answer::Dropped(dropped) => self.dropped += dropped.events,
            Answer::Exited(exited) => {
                self.exited = Some(exited.clone());
                assert!(talk.is_over());
            }
            other => panic!("{other:?}"),
        }
        event
    }

    fn all(mut self, talk: &mut Talk) -> Self {
        while self.exited.is_none() {
            self.hear(talk);
        }
        self
    }

    fn until(&mut self, talk: &mut Talk, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            assert!(!matches!(self.hear(talk), Answer::Exited(_)), "{self:?}");
        }
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }
}

fn with_stdin(mut exec: Exec) -> Exec {
    exec.stdin = true;
    exec
}

fn with_terminal(mut exec: Exec) -> Exec {
    exec.pty = Some(PtySize { rows: 24, columns: 80 });
    exec
}

#[test]
fn a_process_outlives_every_connection_and_nothing_it_says_is_missed() {
    let guest = Guest::start();
    let script = "echo one; read x; echo two $x; read x; echo three $x >&2; exit 9";
    let spawned = guest.spawn(&with_stdin(shell(script)));
    assert_eq!((spawned.id, spawned.exited.clone(), spawned.pty), (1, None, false));
    let mut first = guest.attach(1, None);
    let mut heard = Heard::default();
    heard.until(&mut first, "one\n");
    drop(first);
    assert_eq!(guest.control(1, &[Input::Stdin(b"in\n".to_vec())]), Answer::Done);
    reaches("it has said more", || guest.processes()[0].last_seq > heard.last_seq.unwrap());
    // Leaving does not end it, and what was said meanwhile is there.
    let mut second = guest.attach(1, heard.last_seq);
    heard.until(&mut second, "two in\n");
    let mut third = guest.attach(1, heard.last_seq);
    // Input goes over an attached connection as well.
    second.send(&Input::Stdin(b"more\n".to_vec()));
    for talk in [&mut second, &mut third] {
        let rest = Heard { last_seq: heard.last_seq, ..Heard::default() }.all(talk);
        assert_eq!((rest.text(), rest.stderr.as_slice()), ("", &b"three more\n"[..]));
        assert_eq!(rest.exited.unwrap().code, Some(9));
    }
    // A late one gets all of it.
    let late = Heard::default().all(&mut guest.attach(1, None));
    assert_eq!((late.text(), late.dropped), ("one\ntwo in\n", 0));
    let shown = &guest.processes()[0];
    assert_eq!(shown.exited.as_ref().unwrap().code, Some(9));
    assert_eq!(Some(shown.last_seq), late.last_seq);
    assert!(shown.ended_ns.unwrap() >= shown.started_ns);
}

#[test]
fn the_end_is_told_however_far_a_reader_says_it_is() {
    let guest = Guest::start();
    let id = guest.spawn(&shell("exit 3")).id;
    reaches("it is over", || guest.is_over(id));
    for after in [None, Some(0), Some(1), Some(u64::MAX)] {
        let heard = Heard::default().all(&mut guest.attach(id, after));
        assert_eq!((heard.exited.unwrap().code, heard.last_seq), (Some(3), Some(1)), "{after:?}");
    }
    guest.fails(&Request::Attach(Attach { process: 7, after: None }), FailCode::ProcessUnknown);
}

#[test]
fn a_process_nobody_reads_goes_on_and_its_newest_output_is_kept() {
    let guest = Guest::start();
    let id = guest.spawn(&shell("seq 1 2000000; exit 4")).id;
    reaches("it is over", || guest.is_over(id));
    let heard = Heard::default().all(&mut guest.attach(id, Some(0)));
    assert_eq!(heard.exited.as_ref().unwrap().code, Some(4));
    assert!(heard.dropped > 0);
    assert!(heard.text().ends_with("1999999\n2000000\n"));
    let kept = OUTPUT_KEPT_BYTES as usize;
    assert!((kept * 9 / 10..=kept).contains(&heard.stdout.len()));
}

#[test]
fn as_much_output_is_kept_and_as_many_run_as_the_host_chooses() {
    let guest = Guest::start();
    let within = |exec: Exec, processes, output_kept_bytes| {
        let bounds = ProcessBounds { processes, output_kept_bytes };
        Request::SpawnWithin(SpawnWithin { exec, bounds })
    };
    let started = |request: &Request| match guest.one(request) {
        Answer::Process(process) => process.id,
        other => panic!("{other:?}"),
    };
    for kept in [256 << 10, 4 << 20] {
        let id = started(&within(shell("head -c 8M /dev/zero"), 1, kept));
        reaches("it is over", || guest.is_over(id));
        let heard = Heard::default().all(&mut guest.attach(id, None));
        let kept = kept as usize;
        assert!((kept * 7 / 10..=kept).contains(&heard.stdout.len()), "{}", heard.stdout.len());
    }
    let sleep = || exec(&["sleep", "1000"]);
    let sleeping = started(&within(sleep(), 1, OUTPUT_KEPT_BYTES));
    let full = guest.fails(&within(sleep(), 1, OUTPUT_KEPT_BYTES), FailCode::Busy);
    assert!(full.starts_with("1 processes run"), "{full}");
    // What counts is what the request says: a node that was set otherwise needs no new guest.
    let another = started(&within(sleep(), 2, OUTPUT_KEPT_BYTES));
    for (processes, kept) in
        [(0, OUTPUT_KEPT_BYTES), (513, OUTPUT_KEPT_BYTES), (9, 0), (9, 1 << 30)]
    {
        guest.fails(&within(sleep(), processes, kept), FailCode::InvalidRequest);
    }
    for id in [sleeping, another] {
        guest.control(id, &[Input::Signal(Signal { number: 9 })]);
    }
}

#[test]
fn a_reader_that_reads_misses_nothing_of_a_process_that_is_faster() {
    let guest = Guest::start();
    let bytes = 16 * OUTPUT_KEPT_BYTES as usize;
    let spawned = guest.spawn(&with_stdin(bash(&format!("read; exec head -c {bytes} /dev/zero"))));
    let mut talk = guest.attach(spawned.id, None);
    let mut heard = Heard::default();
    heard.hear(&mut talk);
    talk.send(&Input::Stdin(b"\n".to_vec()));
    // Nothing is read until the process waits for this reader.
    let pid = spawned.pid.unwrap();
    reaches("it waits", || guest.processes()[0].last_seq > 10 && state(pid) == Some('S'));
    let heard = heard.all(&mut talk);
    assert_eq!((heard.stdout.len(), heard.dropped), (bytes, 0));
}

#[test]
fn a_reader_that_takes_nothing_does_not_hold_a_process_up_for_ever() {
    let guest = Guest::start();
    let bytes = 16 * OUTPUT_KEPT_BYTES as usize;
    let id = guest.spawn(&with_stdin(bash(&format!("read; head -c {bytes} /dev/zero")))).id;
    let mut stuck = guest.attach(id, None);
    let mut heard = Heard::default();
    heard.hear(&mut stuck);
    let begin = Instant::now();
    stuck.send(&Input::Stdin(b"\n".to_vec()));
    reaches("it is over", || guest.is_over(id));
    assert!(begin.elapsed() >= Duration::from_secs(READER_WAIT_SECS));
    let heard = heard.all(&mut stuck);
    assert!(heard.dropped > 0 && heard.stdout.len() < bytes);
}

#[test]
fn signals_end_a_process_and_an_ended_one_takes_none() {
    let guest = Guest::start();
    let spawned = guest.spawn(&shell("sleep 1000 & echo $!; wait"));
    let mut talk = guest.attach(spawned.id, None);
    let mut heard = Heard::default();
    heard.until(&mut talk, "\n");
    let inner = heard.text().trim().to_owned();
    let signal = Input::Signal(Signal { number: 15 });
    assert_eq!(guest.control(spawned.id, std::slice::from_ref(&signal)), Answer::Done);
    let exited = heard.all(&mut talk).exited.unwrap();
    assert_eq!((exited.code, exited.signal, exited.timed_out), (None, Some(15), false));
    reaches("its child is gone", || is_gone(&inner));
    let late = guest.control(spawned.id, &[signal]);
    assert!(matches!(&late, Answer::Failed(failed) if failed.code == FailCode::ProcessOver));
    let late = guest.control(spawned.id, &[Input::Stdin(b"x".to_vec())]);
    assert!(matches!(&late, Answer::Failed(failed) if failed.code == FailCode::ProcessOver));
}

#[test]
fn input_waits_for_room_and_arrives_whole() {
    let guest = Guest::start();
    let bytes = 64 * 1024 * 1024;
    let id = guest.spawn(&with_stdin(bash("read; kill -STOP $$; exec wc -c"))).id;
    thread::scope(|scope| {
        let giving = scope.spawn(|| {
            let mut talk = guest.ask(&Request::Control(Control { process: id }));
            talk.send(&Input::Stdin(b"\n".to_vec()));
            for _ in 0..bytes / (64 * 1024) {
                talk.send(&Input::Stdin(vec![b'x'; 64 * 1024]));
            }
            talk.send(&Input::CloseStdin);
            talk.send(&Input::End);
            talk.next()
        });
        let pid = guest.processes()[0].pid.unwrap();
        reaches("it has stopped", || state(pid) == Some('T'));
        assert!(!giving.is_finished());
        let goes_on = Input::Signal(Signal { number: 18 });
        assert_eq!(guest.control(id, &[goes_on]), Answer::Done);
        assert_eq!(giving.join().unwrap(), Answer::Done);
    });
    let heard = Heard::default().all(&mut guest.attach(id, None));
    assert_eq!(heard.text(), format!("{bytes}\n"));
    assert!(guest.memory_peak_kib() < 12 * 1024);
}

#[test]
fn input_is_refused_where_there_is_none() {
    let guest = Guest::start();
    let id = guest.spawn(&exec(&["sleep", "1000"])).id;
    let answer = guest.control(id, &[Input::Stdin(b"x".to_vec())]);
    assert!(matches!(&answer, Answer::Failed(failed) if failed.code == FailCode::InvalidRequest));
    let answer = guest.control(99, &[Input::Stdin(vec![b'x'; 64 * 1024])]);
    assert!(matches!(&answer, Answer::Failed(failed) if failed.code == FailCode::ProcessUnknown));
}

#[test]
fn a_terminal_is_one_with_its_size_and_its_keys() {
    let guest = Guest::start();
    let script = "tty; stty -echo; stty size; echo $TERM; trap 'echo winch' WINCH; \
                  trap 'echo int' INT; echo ready; while :; do read -r line && stty size; done";
    let id = guest.spawn(&with_terminal(bash(script))).id;
    let mut talk = guest.attach(id, None);
    let mut heard = Heard::default();
    heard.until(&mut talk, "ready\r\n");
    let text = heard.text().to_owned();
    assert!(text.starts_with("/dev/pts/"), "{text}");
    assert!(text.contains("24 80\r\nxterm-256color\r\n"), "{text}");
    talk.send(&Input::Resize(Resize { size: PtySize { rows: 50, columns: 132 } }));
    // The shell runs its traps between lines.
    talk.send(&Input::Stdin(b"\n".to_vec()));
    heard.until(&mut talk, "winch\r\n");
    heard.until(&mut talk, "50 132\r\n");
    let smaller = Input::Resize(Resize { size: PtySize { rows: 10, columns: 20 } });
    assert_eq!(guest.control(id, &[smaller]), Answer::Done);
    talk.send(&Input::Stdin(b"\n".to_vec()));
    heard.until(&mut talk, "10 20\r\n");
    // The interrupt key, as a person types it.
    talk.send(&Input::Stdin(b"\x03\n".to_vec()));
    heard.until(&mut talk, "int\r\n");
    assert_eq!(guest.control(id, &[Input::Signal(Signal { number: 9 })]), Answer::Done);
    assert_eq!(heard.all(&mut talk).exited.unwrap().signal, Some(9));
}

#[test]
fn a_shell_on_a_terminal_controls_jobs_and_ends_with_its_input() {
    let guest = Guest::start();
    let mut shell = with_terminal(exec(&["bash", "--norc", "--noprofile", "-i"]));
    shell.env = vec![("PS1".into(), "$ ".into()), ("TERM".into(), "dumb".into())];
    let id = guest.spawn(&shell).id;
    let mut talk = guest.attach(id, None);
    let mut heard = Heard::default();
    heard.until(&mut talk, "$ ");
    talk.send(&Input::Stdin(b"echo $TERM$((40+2))\n".to_vec()));
    // The next prompt: a key for the end of input counts for who reads when it comes.
    heard.until(&mut talk, "dumb42\r\n$ ");
    assert!(!heard.text().contains("job control"), "{heard:?}");
    talk.send(&Input::CloseStdin);
    assert_eq!(heard.all(&mut talk).exited.unwrap().code, Some(0));
}

#[test]
fn a_terminal_gives_all_output_before_its_end() {
    let guest = Guest::start();
    let id = guest.spawn(&with_terminal(shell("seq 1 20000"))).id;
    let heard = Heard::default().all(&mut guest.attach(id, None));
    let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
    assert!(heard.text() == expected, "{} of {}", heard.stdout.len(), expected.len());
}

#[test]
fn a_program_that_cannot_start_is_told_like_any_other_end() {
    let guest = Guest::start();
    let spawned = guest.spawn(&exec(&["no-such-command"]));
    assert_eq!((spawned.pid, spawned.exited.unwrap().code), (None, Some(EXIT_NOT_FOUND)));
    let heard = Heard::default().all(&mut guest.attach(spawned.id, None));
    assert_eq!(heard.stderr, b"sandflare: no-such-command: command not found\n");
    let mut wrong = exec(&["true"]);
    wrong.cwd = Some("/not/there".into());
    guest.fails(&Request::Spawn(Spawn { exec: wrong }), FailCode::NotFound);
}

#[test]
fn the_time_limit_ends_a_process_nobody_follows() {
    let guest = Guest::start();
    let mut exec = shell("sleep 1000 & wait");
    exec.time_limit_ms = Some(200);
    let id = guest.spawn(&exec).id;
    reaches("it is over", || guest.is_over(id));
    let exited = Heard::default().all(&mut guest.attach(id, None)).exited.unwrap();
    assert_eq!((exited.signal, exited.timed_out), (Some(9), true));
}

#[test]
fn what_is_left_in_the_background_does_not_hold_the_end() {
    let guest = Guest::start();
    for exec in [shell("sleep 1000 & echo $!"), with_terminal(shell("sleep 1000 & echo $!"))] {
        let id = guest.spawn(&exec).id;
        let heard = Heard::default().all(&mut guest.attach(id, None));
        assert_eq!(heard.exited.as_ref().unwrap().code, Some(0));
        let mut kill = bash(&format!("kill -9 {} || true", heard.text().trim()));
        kill.user = Some("root".into());
        guest.run(&kill);
    }
}

#[test]
fn as_many_run_and_are_remembered_as_is_promised() {
    let guest = Guest::start();
    let sleeping: Vec<u32> =
        (0..PROCESSES_MAX).map(|_| guest.spawn(&exec(&["sleep", "1000"])).id).collect();
    let one_more = Spawn { exec: exec(&["true"]) };
    guest.fails(&Request::Spawn(one_more), FailCode::Busy);
    for id in &sleeping {
        let killed = guest.control(*id, &[Input::Signal(Signal { number: 9 })]);
        assert_eq!(killed, Answer::Done);
    }
    reaches("only the last are known", || {
        let known = guest.processes();
        known.len() == ENDED_KEPT_MAX && known.iter().all(|process| process.exited.is_some())
    });
    let newest = guest.spawn(&exec(&["true"]));
    assert_eq!(newest.id, PROCESSES_MAX + 1, "numbers are never used twice");
    let threads = || std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap().count();
    reaches("the threads made for them are gone", || threads() <= 8);
}
