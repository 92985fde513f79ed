//! Making a restored clone a machine of its own.
//!
//! A create waits for this, so it starts no process, syncs nothing, and writes to memory only: what
//! makes the identity lives in `/run/sandflare` (a tmpfs), and `/etc` has symbolic links to it. A user
//! who replaces such a link by a file keeps his file; the identity is written into that then.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use api_guest::{
    Answer, ENTROPY_BYTES_MAX, ENTROPY_BYTES_MIN, FailCode, GENERATION, HOSTNAME_BYTES_MAX,
    Healthy, Identified, Identify, SetClock,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::agent::Settings;
use crate::failure::Failure;
use crate::kernel;

/// LIMIT: a hosts file larger than this is the user's affair and left alone.
const HOSTS_BYTES_MAX: usize = 64 * 1024;
/// Where the files are, from the root.
const RUN: &str = "run/sandflare";
/// The host name's line in the hosts file starts with this, as Debian's does.
const HOSTS_MARK: &str = "127.0.1.1";
const HOSTS_BASE: &str = "127.0.0.1\tlocalhost\n";

/// The identity of this machine, and what is needed to change it fast.
#[derive(Debug)]
pub(crate) struct Identity {
    root: Option<PathBuf>,
    random: Option<File>,
    owns_machine: bool,
    /// What is mounted over the kernel's boot id.
    boot_id_file: Option<File>,
    boot_id: Mutex<[u8; 16]>,
}

impl Identity {
    /// Lays out the files, and opens what a later change would lose time opening.
    pub(crate) fn prepare(settings: &Settings) -> anyhow::Result<Self> {
        let boot_id_file = settings.identity_root.as_deref().map(lay_out).transpose()?;
        let random = settings
            .random_device
            .as_deref()
            .map(|path| {
                let opened = File::options().read(true).write(true).open(path);
                opened.with_context(|| format!("cannot open {}", path.display()))
            })
            .transpose()?;
        Ok(Self {
            root: settings.identity_root.clone(),
            random,
            owns_machine: settings.owns_machine,
            boot_id_file,
            boot_id: Mutex::new([0; 16]),
        })
    }

    /// Carries out [`Identify`]. After a failure the clone must not be served: it may share its
    /// random numbers with its siblings.
    pub(crate) fn renew(&self, request: &Identify) -> Result<Answer, Failure> {
        let start = Instant::now();
        check(request)?;
        let failed = |what: &str, why: String| {
            Failure::new(FailCode::IdentityFailed, format!("cannot {what}: {why}"))
        };
        if let Some(random) = &self.random {
            kernel::reseed(random, &request.entropy)
                .map_err(|error| failed("reseed the random generator", error.to_string()))?;
        }
        self.set_clock(request.wall_clock_ns)
            .map_err(|failure| Failure::new(FailCode::IdentityFailed, failure.message))?;
        if self.owns_machine {
            rustix::system::sethostname(request.hostname.as_bytes())
                .map_err(|error| failed("set the host name", error.to_string()))?;
        }
        if let Some(root) = &self.root {
            self.write_files(root, request)
                .map_err(|error| failed("write the identity's files", error.to_string()))?;
        }
        *self.boot_id.lock().unwrap_or_else(PoisonError::into_inner) = request.boot_id;
        let took_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        Ok(Answer::Identified(Identified { generation: GENERATION, took_us }))
    }

    fn write_files(&self, root: &Path, request: &Identify) -> io::Result<()> {
        let etc = root.join("etc");
        let hostname = &request.hostname;
        replace(&etc.join("hostname"), format!("{hostname}\n").as_bytes())?;
        replace(&etc.join("machine-id"), format!("{}\n", hex(&request.machine_id)).as_bytes())?;
        let id: String = request.sandbox_id.chars().filter(|c| !c.is_control()).take(64).collect();
        replace(&root.join(RUN).join("sandbox-id"), format!("{id}\n").as_bytes())?;
        if let Some(file) = &self.boot_id_file {
            file.write_all_at(format!("{}\n", uuid(&request.boot_id)).as_bytes(), 0)?;
        }
        let hosts = open_regular(&etc.join("hosts"))?;
        let mut before = vec![0; 1024];
        let mut length = hosts.read_at(&mut before, 0)?;
        if length == before.len() {
            before.resize(HOSTS_BYTES_MAX, 0);
            length = hosts.read_at(&mut before, 0)?;
            if length == before.len() {
                return Ok(());
            }
        }
        before.truncate(length);
        let after = with_hostname(&String::from_utf8_lossy(&before), hostname);
        put(&hosts, after.as_bytes())
    }

    /// Steps the wall clock. The monotonic clock is never touched.
    pub(crate) fn set_clock(&self, wall_clock_ns: i64) -> Result<(), Failure> {
        if self.owns_machine {
            let time = Timespec {
                tv_sec: wall_clock_ns.div_euclid(1_000_000_000),
                tv_nsec: wall_clock_ns.rem_euclid(1_000_000_000),
            };
            clock_settime(ClockId::Realtime, time)
                .map_err(|error| Failure::of("cannot set the clock", error))?;
        }
        Ok(())
    }

    /// Carries out [`SetClock`].
    pub(crate) fn adjust(&self, request: &SetClock) -> Result<Answer, Failure> {
        self.set_clock(request.wall_clock_ns).map(|()| Answer::Done)
    }

    /// Answers `Health`.
    pub(crate) fn health(&self) -> Answer {
        let uptime = clock_gettime(ClockId::Monotonic);
        let now = clock_gettime(ClockId::Realtime);
        let uptime_ms =
            uptime.tv_sec.saturating_mul(1000).saturating_add(uptime.tv_nsec / 1_000_000);
        Answer::Healthy(Healthy {
            generation: GENERATION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(uptime_ms).unwrap_or(0),
            boot_id: *self.boot_id.lock().unwrap_or_else(PoisonError::into_inner),
            wall_clock_ns: now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec),
        })
    }
}

fn check(request: &Identify) -> Result<(), Failure> {
    let entropy = request.entropy.len();
    if !(ENTROPY_BYTES_MIN..=ENTROPY_BYTES_MAX).contains(&entropy) {
        return Err(Failure::invalid(format!(
            "{entropy} bytes of entropy are outside {ENTROPY_BYTES_MIN} to {ENTROPY_BYTES_MAX}"
        )));
    }
    if !is_hostname(&request.hostname) {
        return Err(Failure::invalid(
            "the host name is not 1 to 64 of a-z, A-Z, 0-9, `-` and `.`, a letter or digit first",
        ));
    }
    Ok(())
}

/// Whether the text can be a host name without harm to the files it is written to.
pub(crate) fn is_hostname(text: &str) -> bool {
    text.len() <= HOSTNAME_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// Makes the files and the links to them; returns the boot id's.
fn lay_out(root: &Path) -> anyhow::Result<File> {
    let run = root.join(RUN);
    let etc = root.join("etc");
    for directory in [&run, &etc] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let hosts = fs::read_to_string(etc.join("hosts")).unwrap_or_else(|_| HOSTS_BASE.to_owned());
    for (name, content) in
        [("hosts", hosts.as_str()), ("hostname", "sandbox\n"), ("machine-id", "uninitialized\n")]
    {
        let file = run.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        let link = etc.join(name);
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
        }
        // Relative, so that the link is right under any root.
        symlink(Path::new("..").join(RUN).join(name), &link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    let boot_id = run.join("boot-id");
    replace(&boot_id, format!("{}\n", uuid(&[0; 16])).as_bytes())
        .and_then(|()| open_regular(&boot_id))
        .with_context(|| format!("cannot write {}", boot_id.display()))
}

/// Opens a file to be written in place, if it is a regular one.
fn open_regular(path: &Path) -> io::Result<File> {
    // Not waiting: the guest's root may have put a FIFO there.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = File::from(open(path, flags, mode)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let message = format!("{} is not a regular file", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(&open_regular(path)?, content)
}

/// Overwrites and then cuts, never the other way round: an emptied file is flushed to the disk when
/// it is closed.
fn put(file: &File, content: &[u8]) -> io::Result<()> {
    file.write_all_at(content, 0)?;
    let length = content.len() as u64;
    if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
}

/// The hosts file with the line of the machine's own name renewed, all others kept.
fn with_hostname(hosts: &str, hostname: &str) -> String {
    let mut after = String::with_capacity(hosts.len() + hostname.len() + 16);
    let is_mark = |line: &&str| line.split_ascii_whitespace().next() == Some(HOSTS_MARK);
    for line in hosts.lines().filter(|line| !is_mark(line)) {
        after.push_str(line);
        after.push('\n');
    }
    after.extend([HOSTS_MARK, "\t", hostname, "\n"]);
    after
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn uuid(bytes: &[u8; 16]) -> String {
    let groups = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]];
    groups.map(hex).join("-")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_the_own_line_of_the_hosts_file_changes() {
        let before = "127.0.0.1 localhost\n127.0.1.1 old\n# mine\n10.0.0.1 db";
        let after = with_hostname(before, "new");
        assert_eq!(after, "127.0.0.1 localhost\n# mine\n10.0.0.1 db\n127.0.1.1\tnew\n");
        assert_eq!(with_hostname(&after, "new"), after);
    }

    #[test]
    fn ids_have_the_form_their_readers_expect() {
        let bytes = [0, 1, 0x2a, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(hex(&bytes), "00012aff0405060708090a0b0c0d0e0f");
        assert_eq!(uuid(&bytes), "00012aff-0405-0607-0809-0a0b0c0d0e0f");
    }

    #[test]
    fn a_host_name_cannot_break_a_file() {
        assert!(is_hostname("sbx-0123") && is_hostname("a.b"));
        for wrong in ["", "-a", "a b", "a\nb", "ä", &"a".repeat(65)] {
            assert!(!is_hostname(wrong), "{wrong}");
        }
    }
}
