use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use api_guest::{
    Exec, FailCode, FileKind, Identify, List, MakeDir, Move, ReadFile, Remove, Request, Stat,
    WriteFile,
};
use node_host::{ExecEvent, GuestConnection, GuestError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    process: Child,
    socket: PathBuf,
    dir: TempDir,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, root) = (dir.path().join("agent"), dir.path().join("root"));
        fs::create_dir_all(root.join("etc")).unwrap();
        let random = dir.path().join("random");
        fs::write(&random, "").unwrap();
        let mut process = Command::new(crate::program("sandflare-agent"))
            .arg("--listen-unix")
            .arg(&socket)
            .args(["--user", "root", "--root"])
            .arg(root)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.ends_with("serving\n"), "{line}");
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::stderr()));
        Self { process, socket, dir }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) async fn connect(&self) -> GuestConnection {
        GuestConnection::over(UnixStream::connect(&self.socket).await.unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn shell(script: &str) -> Exec {
    Exec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        user: Some("root".to_owned()),
        time_limit_ms: None,
        stdin: false,
        pty: None,
    }
}

/// What a finished command printed and how it ended.
async fn outcome(agent: &Agent, exec: Exec, input: &[u8]) -> (String, String, api_guest::Exited) {
    let takes_input = exec.stdin;
    let (mut events, mut stdin) = agent.connect().await.exec(exec).await.unwrap();
    if takes_input {
        stdin.stdin(input).await.unwrap();
        stdin.close_stdin().await.unwrap();
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            ExecEvent::Started(pid) => assert!(pid > 1),
            ExecEvent::Stdout(data) => out.extend(data),
            ExecEvent::Stderr(data) => err.extend(data),
            ExecEvent::Exited(exited) => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(out), text(err), exited);
            }
        }
    }
}

#[tokio::test]
async fn an_agent_is_healthy_and_takes_an_identity() {
    let agent = Agent::start();
    let healthy = agent.connect().await.health(PATIENCE).await.unwrap();
    assert_eq!(healthy.generation, api_guest::GENERATION);
    let identify = Identify {
        sandbox_id: "sbx_0000000000000001".to_owned(),
        hostname: "sandbox-1".to_owned(),
        machine_id: [7; 16],
        boot_id: [8; 16],
        entropy: vec![9; 64],
        wall_clock_ns: 1_700_000_000_000_000_000,
    };
    let mut connection = agent.connect().await;
    connection.identify(identify).await.unwrap();
    connection.identified(PATIENCE).await.unwrap();
    let healthy = agent.connect().await.health(PATIENCE).await.unwrap();
    assert_eq!(healthy.boot_id, [8; 16]);
}

#[tokio::test]
async fn streams_stay_apart_and_the_exit_code_arrives() {
    let agent = Agent::start();
    let (out, err, exited) = outcome(&agent, shell("echo out; echo err >&2; exit 7"), b"").await;
    assert_eq!((out.as_str(), err.as_str(), exited.code), ("out\n", "err\n", Some(7)));
}

#[tokio::test]
async fn input_larger_than_any_frame_arrives_whole() {
    let agent = Agent::start();
    let input = vec![b'x'; 700_001];
    let exec = Exec { stdin: true, ..shell("wc -c") };
    let (out, _, exited) = outcome(&agent, exec, &input).await;
    assert_eq!((out.trim(), exited.code), ("700001", Some(0)));
}

#[tokio::test]
async fn a_time_limit_keeps_what_was_printed() {
    let agent = Agent::start();
    let exec = Exec { time_limit_ms: Some(300), ..shell("echo early; sleep 600") };
    let (out, _, exited) = outcome(&agent, exec, b"").await;
    assert_eq!((out.as_str(), exited.timed_out), ("early\n", true));
}

#[tokio::test]
async fn a_signal_reaches_the_command() {
    let agent = Agent::start();
    let connection = agent.connect().await;
    let (mut events, mut input) = connection.exec(shell("echo up; sleep 600")).await.unwrap();
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            ExecEvent::Stdout(_) => input.signal(15).await.unwrap(),
            ExecEvent::Exited(exited) => {
                assert_eq!(exited.signal, Some(15));
                break;
            }
            ExecEvent::Started(_) | ExecEvent::Stderr(_) => {}
        }
    }
}

#[tokio::test]
async fn leaving_a_command_kills_it() {
    let agent = Agent::start();
    let (mut events, input) = agent.connect().await.exec(shell("exec sleep 600")).await.unwrap();
    let ExecEvent::Started(pid) = events.next().await.unwrap() else { panic!("not started") };
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let command = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    drop((events, input));
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ended = rustix::event::poll(&mut [PollFd::new(&command, PollFlags::IN)], Some(&limit));
    assert_eq!(ended, Ok(1));
}

#[tokio::test]
async fn files_go_in_and_come_out_unchanged() {
    let agent = Agent::start();
    for length in [0_usize, 1, 65_536, 5_000_003] {
        let content: Vec<u8> = (0..length).map(|n| (n * 31 / 7) as u8).collect();
        let path = agent.path(&format!("dir/file-{length}"));
        let write = WriteFile { path: path.clone(), mode: Some(0o640), user: None, parents: true };
        let mut writer = agent.connect().await.write(write).await.unwrap();
        for piece in content.chunks(100_000) {
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap();

        let read = ReadFile { path: path.clone(), offset: 0, length: None };
        let (stat, mut reader) = agent.connect().await.read(read).await.unwrap();
        assert_eq!((stat.size, stat.mode), (length as u64, 0o640));
        let mut back = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            back.extend(piece);
        }
        assert!(back == content, "{length} bytes came back different");
    }
    let list = List { path: agent.path("dir") };
    let (entries, truncated) = agent.connect().await.list(list).await.unwrap();
    assert_eq!((entries.len(), truncated), (4, false));
}

#[tokio::test]
async fn a_file_left_half_written_is_never_seen() {
    let agent = Agent::start();
    let path = agent.path("half");
    fs::write(&path, "old").unwrap();
    let write = WriteFile { path: path.clone(), mode: None, user: None, parents: false };
    let mut writer = agent.connect().await.write(write).await.unwrap();
    writer.write(b"new but not all of it").await.unwrap();
    drop(writer);
    agent.connect().await.health(PATIENCE).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

#[tokio::test]
async fn directories_are_made_moved_and_removed() {
    let agent = Agent::start();
    let simple = async |request| agent.connect().await.simple(request).await;
    let (one, two) = (agent.path("one"), agent.path("two"));
    let make = MakeDir { path: one.clone(), mode: None, user: None, parents: false };
    simple(Request::MakeDir(make.clone())).await.unwrap();
    simple(Request::Move(Move { from: one.clone(), to: two.clone() })).await.unwrap();
    let stat = Stat { path: two.clone(), follow: false };
    let stat = agent.connect().await.stat(stat).await.unwrap();
    assert_eq!(stat.kind, FileKind::Directory);
    simple(Request::Remove(Remove { path: two.clone(), recursive: false })).await.unwrap();
    let error = simple(Request::Remove(Remove { path: two, recursive: false })).await.unwrap_err();
    assert!(matches!(error, GuestError::Failed { code: FailCode::NotFound, .. }), "{error}");
}

#[tokio::test]
async fn refusals_say_why() {
    let agent = Agent::start();
    let read = ReadFile { path: agent.path("missing"), offset: 0, length: None };
    let error = agent.connect().await.read(read).await.unwrap_err();
    assert!(matches!(error, GuestError::Failed { code: FailCode::NotFound, .. }), "{error}");
    let exec = Exec { user: Some("nobody-at-all".to_owned()), ..shell("true") };
    let (mut events, _input) = agent.connect().await.exec(exec).await.unwrap();
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, GuestError::Failed { code: FailCode::UnknownUser, .. }), "{error}");
    let write =
        WriteFile { path: agent.path("no/such/dir/file"), mode: None, user: None, parents: false };
    let mut writer = agent.connect().await.write(write).await.unwrap();
    // The refusal comes while data is still being sent, or at the end.
    let error = loop {
        if let Err(error) = writer.write(&[0; 100_000]).await {
            break error;
        }
    };
    assert!(matches!(error, GuestError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_guest_that_is_gone_or_talks_nonsense_is_an_error_not_a_hang() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = GuestConnection::over(ours).health(PATIENCE).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed), "{error}");

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut theirs, &[0xff; 64]).await.unwrap();
    let error = GuestConnection::over(ours).health(PATIENCE).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");

    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = GuestConnection::over(ours).health(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, GuestError::Silent(_)), "{error}");
}
