//! A node to break, and its command line.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use api_node::{
    BuildBody, CreateSandbox, ExecBody, ExecEvent, ExecRequest, Failure, Sandbox, SandboxState,
};
use base_types::{SandboxId, Size, TemplateName};
use client::{Client, ClientError, Credentials, Events};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::left::{processes, sandboxes, until, vmms};

/// LIMIT: the longest a single request or program may take; what runs into it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// LIMIT: the same of a template, the largest of which boots a database server and tries it.
const BUILD_PATIENCE: Duration = Duration::from_secs(480);
const ADDRESS: &str = "127.0.0.1:7878";
/// How many databases it makes ahead; none, unless a scenario says so.
pub(crate) const AHEAD: &str = "--databases-ahead";
const URL: &str = "http://127.0.0.1:7878";
const LOG: &str = "/data/log";
/// What fills the disk.
pub(crate) const BALLAST: &str = "/data/ballast";

/// A running `sandflared`.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) client: Client,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) failure: Option<Failure>,
}

impl Daemon {
    /// Starts it on the usual images and data, with `args` as well, and waits until it serves.
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_on("/images", args).await
    }

    /// As [`Self::start`], with other images.
    pub(crate) async fn start_on(images: &str, args: &[&str]) -> Self {
        let args = [&["--no-auth"], args].concat();
        Self::serve(Command::new("/bin/sandflared"), images, &args).await
    }

    /// One with debug assertions, which aborts at `step`.
    pub(crate) async fn start_to_die_at(step: &str) -> Self {
        Self::start_to_die_with(step, &[]).await
    }

    /// As [`Self::start_to_die_at`], with `args` as well.
    pub(crate) async fn start_to_die_with(step: &str, args: &[&str]) -> Self {
        let mut program = Command::new("/bin/debug/sandflared");
        program.env("SANDFLARE_ABORT_AT", step).args(["--vmm", "/bin/sandflare-vmm"]);
        let args = [&["--no-auth", "--pool", "nano=0"], args].concat();
        Self::serve(program, "/images", &args).await
    }

    /// One that asks for keys, and a client with an administrator's.
    pub(crate) async fn start_with_keys(args: &[&str]) -> Self {
        let args = [&["--pool", "nano=0"], args].concat();
        let mut daemon = Self::serve(Command::new("/bin/sandflared"), "/images", &args).await;
        daemon.client = client_with(&fs::read_to_string("/data/admin.key").unwrap());
        daemon
    }

    async fn serve(mut program: Command, images: &str, args: &[&str]) -> Self {
        let log = File::create(LOG).unwrap();
        if !args.contains(&AHEAD) {
            // What is looked for afterwards is what was asked for.
            program.args([AHEAD, "0"]);
        }
        let child = program
            .args(["--images", images, "--data", "/data", "--listen", ADDRESS])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, client: Client::new(URL).unwrap() };
        let serving = async {
            while !daemon.client.health().await.is_ok_and(|health| health.ready) {
                let ended = daemon.child.try_wait().unwrap();
                assert!(ended.is_none(), "the daemon ended: {}", log_text());
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, serving).await.unwrap();
        daemon
    }

    /// As if the machine's memory ran out: no chance to clean up.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it has aborted where it was told to.
    pub(crate) async fn died(mut self) {
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{}", log_text());
    }

    /// Ends it as its user would, and checks that it ended well and left nothing.
    pub(crate) async fn stop(self) {
        self.leave().await;
        crate::left::until_nothing().await;
    }

    /// Ends it as its user would, and checks that it ended well. What is paused stays.
    pub(crate) async fn leave(mut self) {
        let pid = self.pid();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}: {}", log_text());
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }

    /// Makes sure the snapshot of `base` at nano is there.
    pub(crate) async fn snapshot(&self) {
        let outcome = self.build(Size::Nano).await;
        assert!(outcome.is_ok(), "{outcome:?}: {}", log_text());
    }

    pub(crate) async fn build(&self, size: Size) -> Result<(), Box<Failure>> {
        self.build_of(&base(), size).await
    }

    pub(crate) async fn build_of(
        &self,
        template: &TemplateName,
        size: Size,
    ) -> Result<(), Box<Failure>> {
        let building = async {
            let mut events = self.client.template_build(template, size).await.unwrap();
            while let Some(event) = events.next().await.unwrap() {
                match event.body {
                    BuildBody::Done { .. } => return Ok(()),
                    BuildBody::Error { failure } => return Err(Box::new(failure)),
                    _ => {}
                }
            }
            panic!("the build has no end");
        };
        timeout(BUILD_PATIENCE, building).await.unwrap()
    }

    pub(crate) async fn create(&self) -> Result<Sandbox, ClientError> {
        self.create_as(&request()).await
    }

    pub(crate) async fn create_as(&self, request: &CreateSandbox) -> Result<Sandbox, ClientError> {
        timeout(PATIENCE, self.client.sandbox_create(request)).await.unwrap()
    }

    /// A sandbox that must come to be and work.
    pub(crate) async fn sandbox(&self) -> SandboxId {
        let made = self.create().await;
        let made = made.unwrap_or_else(|error| panic!("create: {error}: {}", log_text()));
        self.works(made.id).await;
        made.id
    }

    /// Checks that a sandbox does what it should.
    pub(crate) async fn works(&self, id: SandboxId) {
        let done = self.shell(id, "echo $((6 * 7))").await;
        assert_eq!((done.code, done.stdout.as_str()), (0, "42\n"), "{done:?}");
    }

    pub(crate) async fn start_command(&self, id: SandboxId, script: &str) -> Events<ExecEvent> {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let exec = ExecRequest { argv, user: Some("root".to_owned()), ..ExecRequest::default() };
        let started = timeout(PATIENCE, self.client.process_exec(id, &exec)).await.unwrap();
        started.unwrap_or_else(|error| panic!("exec: {error}: {}", log_text()))
    }

    /// Runs a script as root to its end.
    pub(crate) async fn shell(&self, id: SandboxId, script: &str) -> Done {
        follow(self.start_command(id, script).await).await
    }

    pub(crate) async fn kill_sandbox(&self, id: SandboxId) {
        timeout(PATIENCE, self.client.sandbox_kill(id)).await.unwrap().unwrap();
    }

    /// The ids of the sandboxes there are.
    pub(crate) async fn listed(&self) -> Vec<SandboxId> {
        let list = self.client.sandbox_list().await.unwrap();
        list.sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
    }

    /// Kills every sandbox that a daemon before this one left. Each must work or say why it failed,
    /// and beside them there is nothing: no machine, group or directory.
    pub(crate) async fn empty(&self) {
        let ids = self.listed().await;
        let directories: Vec<_> = ids.iter().map(ToString::to_string).collect();
        until("directories", directories.len(), || sandboxes().len()).await;
        for id in ids {
            let sandbox = self.client.sandbox_get(id).await.unwrap();
            println!("left: {id} {:?} {:?}", sandbox.state, sandbox.reason);
            match sandbox.state {
                SandboxState::Running => self.works(id).await,
                _ => assert!(sandbox.reason.is_some(), "{sandbox:?}"),
            }
            self.kill_sandbox(id).await;
        }
        until("sandboxes", vec![], sandboxes).await;
    }

    /// Runs the command line to its end.
    pub(crate) async fn sandflare(&self, args: &[&str]) -> Done {
        let output = Command::new("/bin/sandflare")
            .args(args)
            .env("SANDFLARE_API_URL", URL)
            .env("SANDFLARE_HOME", "/tmp/none")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, output).await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        println!("sandflare {}: {} {stdout}{stderr}", args.join(" "), output.status);
        Done { code: output.status.code().unwrap(), stdout, stderr, failure: None }
    }
}

/// A client of the node with this key.
pub(crate) fn client_with(key: &str) -> Client {
    let key = Some(key.trim().parse().unwrap());
    Client::with(URL, &Credentials { key, ..Credentials::default() }).unwrap()
}

/// What a request got: its status and body; `None` when the daemon died of it.
pub(crate) async fn raw(
    request: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    let mut text = format!("{request} HTTP/1.1\r\nhost: {ADDRESS}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = body.len();
    text.push_str(&format!(
        "content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    let mut stream = TcpStream::connect(ADDRESS).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    read.ok()?;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, body.to_owned()))
}

/// What a create with an idempotency key got: its status and JSON; `None` when the daemon died of it.
pub(crate) async fn post_once(
    path: &str,
    body: &serde_json::Value,
    idempotency_key: &str,
) -> Option<(u16, serde_json::Value)> {
    let headers = [("idempotency-key", idempotency_key)];
    let (status, body) = raw(&format!("POST {path}"), &headers, &body.to_string()).await?;
    Some((status, serde_json::from_str(&body).unwrap()))
}

/// Follows a command to its end.
pub(crate) async fn follow(mut events: Events<ExecEvent>) -> Done {
    let mut done = Done { code: 0, stdout: String::new(), stderr: String::new(), failure: None };
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap();
        let event = event.unwrap().unwrap_or_else(|| panic!("no end: {done:?}"));
        match event.body {
            ExecBody::Stdout { data } => done.stdout.push_str(&String::from_utf8_lossy(&data)),
            ExecBody::Stderr { data } => done.stderr.push_str(&String::from_utf8_lossy(&data)),
            ExecBody::Exit { exit_code, .. } => {
                done.code = exit_code.into();
                return done;
            }
            ExecBody::Error { failure, exit_code } => {
                done.code = exit_code.into();
                println!("exec: {}", failure.message);
                done.failure = Some(failure);
                return done;
            }
            _ => {}
        }
    }
}

/// What a refused request said, as one line.
pub(crate) fn said<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    let error = outcome.unwrap_err().to_string();
    println!("refused: {error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

pub(crate) fn base() -> TemplateName {
    "base".parse().unwrap()
}

/// A sandbox of `base` at nano.
pub(crate) fn request() -> CreateSandbox {
    CreateSandbox { template: base(), ..CreateSandbox::default() }
}

/// Everything the last daemon logged.
pub(crate) fn log_text() -> String {
    fs::read_to_string(LOG).unwrap_or_default()
}

/// Takes from the next scenario what a failed one left: sandboxes outlive their daemon.
pub(crate) async fn forget_all() {
    end_all().await;
    for pid in vmms() {
        let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    until("VMM processes", vec![], vmms).await;
    let _ = fs::remove_dir_all("/data/sandboxes");
    for file in ["node.db", "node.db-wal", "node.db-shm", "admin.key"] {
        let _ = fs::remove_file(format!("/data/{file}"));
    }
}

/// Ends whatever a failed scenario left running, and removes what it made beside the node.
pub(crate) async fn end_all() {
    for name in ["sandflared", "sandflare"] {
        for pid in processes(name) {
            let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
    until("daemons", vec![], || processes("sandflared")).await;
    for pid in vmms() {
        // A machine that was stopped does not see the end of its daemon.
        let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT);
    }
    let _ = fs::remove_file(BALLAST);
    for dir in ["images", "second", "third"] {
        let _ = fs::remove_dir_all(format!("/data/{dir}"));
    }
}
