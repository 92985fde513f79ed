//! Commands on a terminal: the test holds the other end of one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use api_node::CreateSandbox;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::Child;

use crate::sandflare::Sandflare;

/// LIMIT: nothing a test waits for takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal, seen from where the person sits.
struct Desk {
    ours: File,
    theirs: OwnedFd,
    seen: Vec<u8>,
}

impl Desk {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let desk = Self { ours: ours.into(), theirs, seen: Vec::new() };
        desk.resize(24, 80);
        desk
    }

    fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.ours, size).unwrap();
    }

    /// Whether it collects lines and shows what is typed, as a shell leaves it.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.ours.write_all(keys).unwrap();
    }

    /// Waits until this is on the screen, after what was waited for before.
    fn see(&mut self, text: &str) {
        loop {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(place) = seen.find(text) {
                self.seen.drain(..place + text.len());
                return;
            }
            let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let mut polled = [PollFd::new(&self.ours, PollFlags::IN)];
            assert_eq!(poll(&mut polled, Some(&limit)).unwrap(), 1, "never: {text} in {seen}");
            let mut piece = [0; 4096];
            let count = self.ours.read(&mut piece).unwrap();
            self.seen.extend_from_slice(&piece[..count]);
        }
    }

    /// Starts the program with this as its controlling terminal.
    fn start(&self, sandflare: &Sandflare, args: &[&str]) -> Child {
        let mut words = vec!["--ctty", env!("CARGO_BIN_EXE_sandflare")];
        words.extend(args);
        let end = || Stdio::from(self.theirs.try_clone().unwrap());
        let mut command = sandflare.command_of("setsid", &words);
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "vt100");
        command.spawn().unwrap()
    }
}

async fn sandbox(sandflare: &Sandflare) -> String {
    let client = sandflare.client();
    client.sandbox_create(&CreateSandbox::default()).await.unwrap().id.to_string()
}

async fn ended(mut child: Child) -> ExitStatus {
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_this_terminal_and_gives_it_back() {
    let sandflare = Sandflare::new().await;
    let id = sandbox(&sandflare).await;
    let mut desk = Desk::new();
    let child = desk.start(&sandflare, &["exec", "-t", &id, "terminal"]);
    desk.see("24 80\r\n");
    assert!(!desk.is_cooked());
    // A key that would end a program here goes there; the command gives it back as it came.
    desk.type_in(b"hi\x03\x1b[A");
    desk.see("hi\u{3}\u{1b}[A");
    desk.resize(50, 132);
    desk.see("50 132\r\n");
    desk.type_in(b"\x04");
    assert_eq!(ended(child).await.code(), Some(5));
    assert!(desk.is_cooked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_given_back_when_the_program_is_asked_to_end() {
    let sandflare = Sandflare::new().await;
    let id = sandbox(&sandflare).await;
    let mut desk = Desk::new();
    let child = desk.start(&sandflare, &["exec", "-t", &id, "terminal"]);
    desk.see("24 80\r\n");
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(ended(child).await.code(), Some(128 + 15));
    assert!(desk.is_cooked());
    // The command learns that nobody sees it any more.
    let processes = sandflare.client().process_list(id.parse().unwrap()).await.unwrap();
    assert_eq!(processes.processes[0].exit.unwrap().signal, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_given_back_when_the_node_goes_away() {
    let mut sandflare = Sandflare::new().await;
    let id = sandbox(&sandflare).await;
    let mut desk = Desk::new();
    let child = desk.start(&sandflare, &["exec", "-t", &id, "terminal"]);
    desk.see("24 80\r\n");
    sandflare.served = Sandflare::new().await.served;
    assert_eq!(ended(child).await.code(), Some(125));
    assert!(desk.is_cooked());
    desk.see("error: ");
}

#[tokio::test]
async fn without_a_terminal_there_is_nothing_to_give() {
    let sandflare = Sandflare::new().await;
    let id = sandbox(&sandflare).await;
    for args in [&["shell", &id][..], &["exec", "-t", &id, "terminal"]] {
        let shown = sandflare.shown(args).await;
        assert!(shown.starts_with("exit code: 125\n"), "{shown}");
        assert!(shown.contains("error: standard input is not a terminal\n"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_the_users_own() {
    let sandflare = Sandflare::new().await;
    let id = sandbox(&sandflare).await;
    let mut desk = Desk::new();
    // This node knows no shell, and says so as one would.
    let child = desk.start(&sandflare, &["shell", "-u", "root", &id]);
    desk.see("`sh` is not in the sandbox");
    assert_eq!(ended(child).await.code(), Some(127));
    let processes = sandflare.client().process_list(id.parse().unwrap()).await.unwrap();
    let shell = &processes.processes[0];
    assert_eq!((shell.user.as_str(), shell.pty), ("root", true));
    assert_eq!(shell.argv, ["sh", "-c", "exec \"${SHELL:-/bin/sh}\" -l"]);
}
