//! A running agent and conversations with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use api_guest::{Answer, Decoder, Exec, Exited, FailCode, Input, Message, Request};
use tempfile::TempDir;

/// A user every Debian has, whose home exists.
pub(crate) const USER: &str = "daemon";
const AGENT: &str = env!("CARGO_BIN_EXE_sandflare-agent");
/// LIMIT: nothing a test waits for takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent of the test's own, and a directory for its files.
pub(crate) struct Guest {
    process: Child,
    socket: PathBuf,
    pub(crate) directory: TempDir,
}

impl Guest {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::launch(Command::new(AGENT), arguments)
    }

    /// An agent that was started with these signals ignored.
    pub(crate) fn start_ignoring(signals: &[&str]) -> Self {
        let mut command = Command::new("bash");
        let script = format!("trap '' {}; exec \"$0\" \"$@\"", signals.join(" "));
        command.args(["-c", &script, AGENT]);
        Self::launch(command, &[])
    }

    fn launch(mut command: Command, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.socket");
        let mut process = command
            .arg("--listen-unix")
            .arg(&socket)
            .args(["--user", USER])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.ends_with("serving\n"), "{line}");
        // Somebody must go on reading, or the agent would be stopped by its own complaints.
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::stderr()));
        Self { process, socket, directory }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The most memory the agent ever had.
    pub(crate) fn memory_peak_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn connect(&self) -> Talk {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk { stream, decoder: Decoder::new() }
    }

    /// Opens a connection with this request.
    pub(crate) fn ask(&self, request: &Request) -> Talk {
        let mut talk = self.connect();
        talk.send(request);
        talk
    }

    /// The only answer to a request.
    pub(crate) fn one(&self, request: &Request) -> Answer {
        let mut talk = self.ask(request);
        let answer = talk.next();
        assert!(talk.is_over(), "another answer after {answer:?}");
        answer
    }

    pub(crate) fn fails(&self, request: &Request, code: FailCode) -> String {
        match self.one(request) {
            Answer::Failed(failed) if failed.code == code => failed.message,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn run(&self, exec: &Exec) -> Outcome {
        self.ask(&Request::Exec(exec.clone())).outcome()
    }

    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.run(&shell(script))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One connection.
pub(crate) struct Talk {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
}

/// All that a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exited: Exited,
}

impl Outcome {
    pub(crate) fn code(&self) -> i32 {
        self.exited.code.unwrap_or_else(|| panic!("{self:?}"))
    }
}

impl Talk {
    pub(crate) fn send(&mut self, message: &impl Message) {
        self.stream.write_all(&message.encode().unwrap()).unwrap();
    }

    pub(crate) fn try_next(&mut self) -> Option<Answer> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(answer) = self.decoder.take().unwrap() {
                return Some(answer);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    assert!(self.decoder.is_empty(), "the stream ends inside a frame");
                    return None;
                }
                Ok(count) => self.decoder.push(&buffer[..count]).unwrap(),
                // Closed with data of ours unread.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    pub(crate) fn next(&mut self) -> Answer {
        self.try_next().expect("the agent closed the connection")
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.try_next().is_none()
    }

    pub(crate) fn started(&mut self) -> u32 {
        match self.next() {
            Answer::Started(started) => started.pid,
            other => panic!("{other:?}"),
        }
    }

    /// The next line of standard output, which the command writes at once.
    pub(crate) fn line(&mut self) -> String {
        match self.next() {
            Answer::Stdout(data) => String::from_utf8(data).unwrap().trim_end().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn outcome(mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                Answer::Started(_) => {}
                Answer::Stdout(data) => stdout.extend(data),
                Answer::Stderr(data) => stderr.extend(data),
                Answer::Exited(exited) => {
                    assert!(self.is_over());
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return Outcome { stdout: text(stdout), stderr: text(stderr), exited };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends a file's content and reads the last answer.
    pub(crate) fn content(mut self, content: &[u8]) -> Answer {
        for chunk in content.chunks(64 * 1024) {
            self.send(&Input::Chunk(chunk.to_vec()));
        }
        self.send(&Input::End);
        self.next()
    }
}

pub(crate) fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        time_limit_ms: None,
        stdin: false,
        pty: None,
    }
}

pub(crate) fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

/// For what dash cannot do without a terminal.
pub(crate) fn bash(script: &str) -> Exec {
    exec(&["bash", "-c", script])
}

/// Waits for a level, not for a time.
pub(crate) fn reaches(what: &str, mut level: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !level() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

pub(crate) fn is_gone(pid: &str) -> bool {
    assert!(pid.parse::<u32>().is_ok(), "{pid}");
    !Path::new("/proc").join(pid).exists()
}

/// The state letter of a process, if there is one.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
