//! Where a test runs.
//!
//! [`shared`] is the one portable host of this test process, started at the first call. Tests on it
//! look only at what they made themselves, because others run beside them. [`private`] is one more,
//! for a test that breaks or stops it; while it is there, nothing else runs.
//!
//! Both are homes of the real `sandflare up` in a directory of their own. Each has a guardian (see
//! [`crate::teardown`]), so that nothing of them outlives this process however it ends.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use api_node::{BuildBody, CreateSandbox};
use base_types::Size;
use client::{Client, Credentials};
use portable_host::{PortableHost, Status};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::sandbox::Sandbox;
use crate::teardown::Guardian;

/// Tests at once on the shared host: it has two processors, and tests of time limits need some.
const PLACES: u32 = 2;
/// LIMIT: the longest a single program or request may take. Far above what a loaded machine needs,
/// so that what runs into it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How much of each log a failure shows.
const LAST_WORDS_BYTES: u64 = 4000;

/// Loopback of the machine around, as QEMU shows it inside of the portable host. Sandboxes of every host
/// here may reach it, if their policy says so.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

static PLACE: Semaphore = Semaphore::const_new(PLACES as usize);
static SHARED: OnceCell<Host> = OnceCell::const_new();
static GIVEN: LazyLock<Given> = LazyLock::new(Given::find);

/// What the tests are given from outside.
struct Given {
    images: PathBuf,
    programs: PathBuf,
    /// A home of a node that is down, for the shared host: its templates need not be made again.
    home: Option<PathBuf>,
}

impl Given {
    fn find() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let images = variable("SANDFLARE_TEST_IMAGES").unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| {
                variable("HOME").unwrap_or_else(|| "/var/tmp".into()).join(".cache")
            });
            cache.join("sandflare/images")
        });
        let programs = variable("SANDFLARE_TEST_PROGRAMS").unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap();
            own.ancestors().nth(3).unwrap().join("release")
        });
        let needed = [
            programs.join("sandflare"),
            programs.join("sandflared"),
            programs.join("sandflare-vmm"),
            programs.join("sandflare-agent"),
            programs.join("sandflare-portable-init"),
            images.join("kernel/vmlinux"),
            images.join("templates/base/root.ext4"),
            images.join("templates/agent/root.ext4"),
            images.join("templates/postgres/root.ext4"),
        ];
        for path in &needed {
            assert!(
                path.exists(),
                "the system tests need {}, which is not there; run `scripts/test`, which makes it \
                 and sets SANDFLARE_TEST_IMAGES and SANDFLARE_TEST_PROGRAMS",
                path.display(),
            );
        }
        Self { images, programs, home: variable("SANDFLARE_TEST_HOME") }
    }
}

/// The images directory the tests were given.
pub(crate) fn images() -> &'static Path {
    &GIVEN.images
}

/// One of our programs, as built for users.
pub(crate) fn program(name: &str) -> PathBuf {
    GIVEN.programs.join(name)
}

/// A home of `sandflare up`, and a node in the portable host while it is up.
#[derive(Debug)]
pub(crate) struct Host {
    home: PathBuf,
    port: u16,
    _guardian: Guardian,
}

/// A host a test may use now; keep it to the end of the test.
#[derive(Debug)]
pub(crate) struct Session {
    // In this order: the place is given back when the host is gone.
    host: Kind,
    _place: SemaphorePermit<'static>,
}

#[derive(Debug)]
enum Kind {
    Shared(&'static Host),
    Private(Host),
}

/// The portable host all tests share, with a place on it.
pub(crate) async fn shared() -> Session {
    shared_with(PLACE.acquire().await.unwrap()).await
}

/// The portable host all tests share, while no other test of this process uses it: for one that breaks it
/// and brings it up again.
pub(crate) async fn alone() -> Session {
    shared_with(PLACE.acquire_many(PLACES).await.unwrap()).await
}

async fn shared_with(place: SemaphorePermit<'static>) -> Session {
    let host = SHARED
        .get_or_init(async || {
            let host = match &GIVEN.home {
                Some(home) => Host::at(home.clone()),
                None => Host::new(),
            };
            Guardian::stops_at_exit(&host._guardian);
            host.up().await;
            host
        })
        .await;
    Session { host: Kind::Shared(host), _place: place }
}

/// A home of its own for a test that stops or breaks its host. Nothing runs in it until
/// [`Host::up`], and no other test of this process runs beside it.
pub(crate) async fn private() -> Session {
    let place = PLACE.acquire_many(PLACES).await.unwrap();
    let host = Host::new();
    if let Some(shared) = SHARED.get() {
        // The same images make the same disk; it is only read.
        fs::create_dir_all(host.state()).unwrap();
        for file in ["images.ext4", "images.key"] {
            fs::hard_link(shared.state().join(file), host.state().join(file)).unwrap();
        }
    }
    Session { host: Kind::Private(host), _place: place }
}

impl Deref for Session {
    type Target = Host;

    fn deref(&self) -> &Host {
        match &self.host {
            Kind::Shared(host) => host,
            Kind::Private(host) => host,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the host's logs:\n{}", self.last_words());
        }
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Said {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout(), self.stderr());
        self.stdout()
    }
}

/// What names that the resolver of tests knows end in; all of them lead to [`OUTSIDE`].
pub(crate) const OUTSIDE_DOMAIN: &str = "sandflare.test";

/// The port of a resolver on loopback, which every host asks for the names of its sandboxes: tests need no
/// other names than theirs, and no way out of this machine.
static RESOLVER: LazyLock<u16> = LazyLock::new(|| {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..count]) {
                // Whoever asked asks again.
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    port
});

/// The answer to a question of DNS: the address for names of tests, and that there is no other name.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = question.split_at_checked(12)?;
    let (mut at, mut labels) = (0, Vec::new());
    while *rest.get(at)? != 0 {
        let end = at + 1 + usize::from(rest[at]);
        labels.push(String::from_utf8_lossy(rest.get(at + 1..end)?).to_lowercase());
        at = end;
    }
    let is_address = rest.get(at + 1..at + 3)? == [0, 1];
    let is_known = labels.join(".").ends_with(OUTSIDE_DOMAIN);
    let mut answer = head.to_vec();
    answer[2] |= 0x80;
    answer[3] = if is_known { 0x80 } else { 0x83 };
    answer[6..12].fill(0);
    answer[7] = u8::from(is_known && is_address);
    answer.extend_from_slice(rest.get(..at + 5)?);
    if is_known && is_address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&OUTSIDE.octets());
    }
    Some(answer)
}

/// A port on 127.0.0.1 that no connection takes while its host is down: one below those that Linux gives to
/// connections by itself, which begin at 32768.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes beside each other begin apart.
    let begin = std::process::id() % 1000 * 16;
    let mut ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|next| 16000 + (begin as u16 + next) % 16000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Host {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("sf").tempdir().unwrap().keep();
        std::os::unix::fs::symlink(&GIVEN.images, home.join("images")).unwrap();
        Self::at(home)
    }

    fn at(home: PathBuf) -> Self {
        let port = free_port();
        let guardian = Guardian::start(&program("sandflare"), &home);
        Self { home, port, _guardian: guardian }
    }

    /// `sandflare up`, in the portable host; panics with the host's last words when it does not.
    pub(crate) async fn up(&self) {
        let port = self.port.to_string();
        let allowance = format!("{OUTSIDE}/32");
        let resolver = format!("{OUTSIDE}:{}", *RESOLVER);
        let options = ["--", "--gateway-allow", &allowance, "--gateway-resolver", &resolver];
        // Two hosts share the processors: what has much memory to read back wakes late.
        let patient = ["--ready-timeout-ms", "60000"];
        let up = [&["up", "--portable", "--port", &port][..], &options, &patient].concat();
        let said = self.sandflare(&up).await;
        assert_eq!(
            said.code,
            Some(0),
            "sandflare up failed:\n{}\n--- the end of its logs:\n{}",
            said.stderr(),
            self.last_words(),
        );
    }

    /// SANDFLARE_HOME.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The directory of the portable host: disks, logs, sockets.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("portable")
    }

    /// The port on 127.0.0.1 that `up` uses.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The node's address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process id of the portable host's QEMU, when it runs.
    pub(crate) fn qemu(&self) -> Option<i32> {
        match PortableHost::at(&self.state()).status() {
            Status::Running(running) => Some(running.pid),
            Status::Stopped => None,
        }
    }

    /// The end of the daemon's and the portable kernel's log.
    pub(crate) fn last_words(&self) -> String {
        PortableHost::at(&self.state()).last_words(LAST_WORDS_BYTES)
    }

    /// A client of the node.
    pub(crate) fn client(&self) -> Client {
        let key = std::fs::read_to_string(self.home.join("api-key")).unwrap();
        let key = Some(key.trim().parse().unwrap());
        Client::with(&self.url(), &Credentials { key, ..Credentials::default() }).unwrap()
    }

    /// The command line, ready to be started with `args` on this home and node.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("sandflare"));
        command
            .args(args)
            .env("SANDFLARE_HOME", &self.home)
            .env("SANDFLARE_API_URL", self.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the command line to its end, without input.
    pub(crate) async fn sandflare(&self, args: &[&str]) -> Said {
        finish(self.command(args), args).await
    }

    /// Runs the command line to its end, with `input` as its standard input.
    pub(crate) async fn sandflare_with(&self, args: &[&str], input: Vec<u8>) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeding = tokio::spawn(async move {
            // A command that does not read to the end breaks this pipe, which is its right.
            let _ = stdin.write_all(&input).await;
        });
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        feeding.abort();
        let output = output.unwrap_or_else(|_| panic!("sandflare {args:?} hangs")).unwrap();
        Said { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
    }

    /// Makes sure the snapshot of `template` at `size` is there.
    pub(crate) async fn snapshot(&self, template: &str, size: Size) {
        let client = self.client();
        let name = template.parse().unwrap();
        let building = async {
            let mut events = client.template_build(&name, size).await.unwrap();
            while let Some(event) = events.next().await.unwrap() {
                match event.body {
                    BuildBody::Done { .. } => return,
                    BuildBody::Error { failure } => panic!("{template} {size}: {failure}"),
                    _ => {}
                }
            }
            panic!("the build of {template} {size} has no end");
        };
        // The largest boots a database server and tries it, beside whatever else runs.
        timeout(2 * PATIENCE, building).await.unwrap();
    }

    /// A sandbox that is gone when the value is dropped.
    pub(crate) async fn sandbox(&self, template: &str) -> Sandbox<'_> {
        let create =
            CreateSandbox { template: template.parse().unwrap(), ..CreateSandbox::default() };
        self.sandbox_of(&create).await
    }

    /// As [`Self::sandbox`], of a kind.
    pub(crate) async fn sandbox_of(&self, create: &CreateSandbox) -> Sandbox<'_> {
        self.snapshot(create.template.as_str(), create.size).await;
        let sandbox = timeout(PATIENCE, self.client().sandbox_create(create)).await.unwrap();
        Sandbox::new(self, sandbox.unwrap_or_else(|error| panic!("create: {error}")))
    }
}

async fn finish(mut command: Command, args: &[&str]) -> Said {
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("sandflare {args:?} hangs")).unwrap();
    Said { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
}
