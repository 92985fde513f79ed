use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::{KvmKind, Secret};
use client::{Client, ClientError, Credentials};
use image_build::{Inputs, PortableInputs};
use portable_host::{Config, PortableHost, Start, Status};
use rustix::fs::FlockOperation;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::args::Up;
use crate::complaint::{End, SIGNAL_BASE, advise};
use crate::doctor::{KvmVerdict, probe_kvm};
use crate::key_file;
use crate::launch::down::stop;
use crate::launch::native::Process;
use crate::launch::record::{Record, Way, portable_state};
use crate::place::{PORT_DEFAULT, Place};
use crate::programs::{self, AGENT, PORTABLE_INIT, SANDFLARED, VMM};
use crate::signals::Signals;
use crate::steps::Steps;
use crate::table::print_json;

/// LIMIT: a native node serves within a second; a machine under load may take some.
const NATIVE_READY: Duration = Duration::from_secs(60);
/// LIMIT: the portable host boots in some seconds on a quiet machine, in tens on a busy one.
const PORTABLE_READY: Duration = Duration::from_secs(300);
/// How often a node that starts is asked whether it serves.
const ASK: Duration = Duration::from_millis(200);
/// LIMIT: how much of a log is shown when the node does not come up.
const LAST_WORDS_BYTES: u64 = 2000;
/// Options of the daemon that `up` decides by itself: it serves this machine, with this machine's key.
const DECIDED: [&str; 9] = [
    "--admin-key-hash",
    "--check-roots",
    "--data",
    "--images",
    "--listen",
    "--no-auth",
    "--tls-cert",
    "--tls-key",
    "--trust-network",
];
/// Templates whose root images `up` makes: sandboxes and databases.
const TEMPLATES: [&str; 2] = ["agent", "postgres"];

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Host {
    Native,
    Portable,
}

/// What `up -o json` prints.
#[derive(Serialize)]
struct Serving {
    url: String,
    version: String,
    /// How it runs, where this program started it.
    host: Option<Host>,
    /// Whether it was this call that started it.
    started: bool,
}

/// `sandflare up`
pub(crate) async fn up(place: &Place, args: &Up) -> Result<End> {
    check_node_options(&args.node_options)?;
    let port = match args.port {
        Some(port) => port,
        None => port_of(&place.url)?,
    };
    let url = format!("http://127.0.0.1:{port}");
    fs::create_dir_all(&place.home).with_context(|| format!("create {}", place.home.display()))?;
    let key = key_file::ensure(&place.home)?;
    let credentials = Credentials { key: Some(key.clone()), ca: None };
    let client = Client::with(&url, &credentials)?;
    let _lock = lock(&place.home)?;
    PortableHost::at(&portable_state(place)).settle()?;
    match client.health().await {
        Ok(health) => {
            eprintln!("a node (version {}) is already running at {url}", health.version);
            if !args.node_options.is_empty() {
                eprintln!("its options stay as they are; `sandflare down` first to change them");
            }
            if args.format.is_json() {
                let record = Record::read(place)?.filter(|record| record.port == port);
                let host = record.map(|record| match record.way {
                    Way::Native { .. } => Host::Native,
                    Way::Portable => Host::Portable,
                });
                print_json(&Serving { url, version: health.version, host, started: false })?;
            }
            return Ok(End::Done);
        }
        Err(ClientError::NoNode { .. }) => {}
        Err(_) => {
            return Err(advise(
                format!("port {port} is taken by a program that is not a sandflare node"),
                "choose another with --port, or stop that program",
            ));
        }
    }
    already_elsewhere(place)?;

    let steps = Steps::new();
    let verdict = if args.portable { None } else { Some(probe_kvm().await?) };
    let host = choose(args, verdict.as_ref())?;
    if host == Host::Portable {
        // Said now, and not after minutes of building images.
        portable_host::check_qemu()?;
    }
    // Until here a signal simply ends this program; what a build left half made, the next one mends.
    build_images(place, host, &steps).await?;
    let mut signals = Signals::take()?;
    let started = tokio::select! {
        signal = signals.next() => Err(signal),
        started = start(place, host, args, port, &key, &client, &steps) => Ok(started),
    };
    let version = match started {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => {
            stop(place, &client).await?;
            return Err(error);
        }
        Err(signal) => {
            stop(place, &client).await?;
            return Ok(End::Code(SIGNAL_BASE + signal));
        }
    };
    eprintln!("the node serves at {url}; try: sandflare run -- uname -a");
    if port != PORT_DEFAULT {
        eprintln!("for the other commands: export SANDFLARE_API_URL={url}");
    }
    if args.format.is_json() {
        print_json(&Serving { url, version, host: Some(host), started: true })?;
    }
    if args.foreground {
        foreground(place, &client, &mut signals).await?;
    }
    Ok(End::Done)
}

async fn start(
    place: &Place,
    host: Host,
    args: &Up,
    port: u16,
    key: &Secret,
    client: &Client,
    steps: &Steps,
) -> Result<String> {
    match host {
        Host::Native => start_native(place, &args.node_options, port, key)?,
        Host::Portable => start_portable(place, args, port, key, steps).await?,
    }
    wait_until_it_serves(place, host, client, steps).await
}

fn choose(args: &Up, verdict: Option<&KvmVerdict>) -> Result<Host> {
    match verdict {
        None => Ok(Host::Portable),
        Some(verdict) if verdict.usable => {
            eprintln!("KVM runs Linux here: the node runs natively");
            Ok(Host::Native)
        }
        Some(verdict) if args.native => {
            let hint = match verdict.kind {
                KvmKind::NoPermission => "run the same command with sudo",
                _ => "leave --native out to run the node in the portable host",
            };
            Err(advise(format!("KVM cannot be used: {}", verdict.reason), hint))
        }
        Some(verdict) => {
            eprintln!("KVM cannot be used ({}): the node runs in QEMU", verdict.reason);
            Ok(Host::Portable)
        }
    }
}

async fn build_images(place: &Place, host: Host, steps: &Steps) -> Result<()> {
    let portable = match host {
        Host::Native => None,
        Host::Portable => Some(PortableInputs {
            init: programs::beside(PORTABLE_INIT)?,
            sandflared: programs::beside(SANDFLARED)?,
            vmm: programs::beside(VMM)?,
            extra: Vec::new(),
        }),
    };
    let templates = TEMPLATES.map(|name| name.parse().expect("the name is legal")).to_vec();
    let inputs = Inputs { agent: programs::beside(AGENT)?, portable, templates };
    let images = place.images();
    // Building uses the machine's own tools and threads; it is no work for this runtime. The steps
    // outlive the borrow because the scope ends before this returns.
    tokio::task::block_in_place(|| image_build::ensure(&images, &inputs, steps))
        .context("build the images")
}

/// The node is told the hash of the key and never sees the key; a hash of 32 random bytes may be seen
/// by everybody.
fn node_args(
    listen: &str,
    images: &Path,
    data: &Path,
    key: &Secret,
    options: &[String],
) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let hash = key.hash().to_string();
    let (images, data) = (text(images), text(data));
    ["--listen", listen, "--images", &images, "--data", &data, "--admin-key-hash", &hash]
        .map(str::to_owned)
        .into_iter()
        .chain(options.iter().cloned())
        .collect()
}

/// Refuses options of the daemon with which it would not be the node that `up` waits for.
fn check_node_options(options: &[String]) -> Result<()> {
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let decided = options.iter().map(|one| name(one)).find(|one| DECIDED.contains(&&**one));
    decided.map_or(Ok(()), |option| {
        Err(advise(
            format!("`{option}` cannot be given to `sandflare up`, which decides it by itself"),
            "for a node that serves others than this machine, start sandflared itself: see \
             docs/guides/operations.md",
        ))
    })
}

fn start_native(place: &Place, options: &[String], port: u16, key: &Secret) -> Result<()> {
    let program = programs::beside(SANDFLARED)?;
    let data = place.data();
    fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    let log = place.log();
    let aside = place.home.join("node.log.1");
    if log.exists() {
        fs::rename(&log, aside).context("put the old log aside")?;
    }
    let args = node_args(&format!("127.0.0.1:{port}"), &place.images(), &data, key, options);
    let process = Process::start(&program, &args, &log)?;
    Record { port, way: Way::Native { process } }.write(place)
}

async fn start_portable(
    place: &Place,
    up: &Up,
    port: u16,
    key: &Secret,
    steps: &Steps,
) -> Result<()> {
    let inside = format!("{}:7878", portable_host::ADDRESS);
    let mut args = node_args(
        &inside,
        portable_host::IMAGES_DIR.as_ref(),
        portable_host::DATA_DIR.as_ref(),
        key,
        &up.node_options,
    );
    // They were checked when the images disk was made, and emulated reading takes minutes.
    args.extend(["--check-roots", "off"].map(str::to_owned));
    // What it listens on is a network of QEMU that has one door, a port of 127.0.0.1.
    args.push("--trust-network".to_owned());
    let mut config = Config::new(portable_state(place), place.images(), port, args);
    config.memory_mib = up.memory;
    Record { port, way: Way::Portable }.write(place)?;
    let step = Mutex::new(steps.begin("portable host"));
    let started = tokio::task::block_in_place(|| {
        PortableHost::start(&config, &|part| {
            step.lock().unwrap_or_else(PoisonError::into_inner).note(&part.to_string());
        })
    });
    let step = step.into_inner().unwrap_or_else(PoisonError::into_inner);
    match started.context("start the portable host")? {
        Start::Started(_) => step.done("started"),
        Start::AlreadyRunning(running) => {
            step.quietly();
            Record { port: running.port, way: Way::Portable }.write(place)?;
            if running.port != port {
                return Err(advise(
                    format!("the portable host is already running, on port {}", running.port),
                    "stop it with `sandflare down` first",
                ));
            }
        }
    }
    Ok(())
}

/// Its version.
async fn wait_until_it_serves(
    place: &Place,
    host: Host,
    client: &Client,
    steps: &Steps,
) -> Result<String> {
    let limit = if host == Host::Native { NATIVE_READY } else { PORTABLE_READY };
    let mut step = steps.begin("waiting for the node");
    step.announce();
    let end = Instant::now() + limit;
    loop {
        match client.health().await {
            Ok(health) if health.ready => {
                step.done(&format!("version {}", health.version));
                return Ok(health.version);
            }
            Ok(_) | Err(_) if !is_running(place)? => {
                return Err(did_not_start("the node ended before it served", place, host));
            }
            Ok(_) | Err(_) if Instant::now() >= end => {
                let seconds = limit.as_secs();
                let message = format!("the node did not serve within {seconds} s");
                return Err(did_not_start(&message, place, host));
            }
            Ok(_) | Err(_) => sleep(ASK).await,
        }
    }
}

fn is_running(place: &Place) -> Result<bool> {
    Ok(match Record::read(place)?.map(|record| record.way) {
        Some(Way::Native { process }) => process.is_alive(),
        Some(Way::Portable) => {
            let status = PortableHost::at(&portable_state(place)).status();
            matches!(status, Status::Running(_))
        }
        None => false,
    })
}

fn did_not_start(message: &str, place: &Place, host: Host) -> anyhow::Error {
    let last = match host {
        Host::Native => crate::launch::logs::tail(&place.log(), LAST_WORDS_BYTES),
        Host::Portable => PortableHost::at(&portable_state(place)).last_words(LAST_WORDS_BYTES),
    };
    let last = last.trim();
    let last = if last.is_empty() { "nothing" } else { last };
    advise(
        format!("{message}; it last wrote:\n{last}"),
        "see `sandflare logs` for all of it, and `sandflare doctor` for this machine",
    )
}

async fn foreground(place: &Place, client: &Client, signals: &mut Signals) -> Result<()> {
    eprintln!("Ctrl-C stops it");
    loop {
        tokio::select! {
            _ = signals.next() => {
                eprintln!("stopping the node ...");
                return stop(place, client).await.map(|_| ());
            }
            () = sleep(Duration::from_secs(1)) => {
                if !is_running(place)? {
                    Record::remove(place)?;
                    return Err(advise("the node ended by itself", "see `sandflare logs`"));
                }
            }
        }
    }
}

/// Refuses to start a second node over the data of one that runs on another port.
fn already_elsewhere(place: &Place) -> Result<()> {
    match Record::read(place)? {
        Some(record) if is_running(place)? => Err(advise(
            format!("this machine's node is already running, on port {}", record.port),
            "use that one (SANDFLARE_API_URL), or stop it with `sandflare down` first",
        )),
        Some(_) => Record::remove(place),
        None => Ok(()),
    }
}

fn port_of(url: &str) -> Result<u16> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    match rest.rsplit_once(':') {
        Some((_, port)) => port
            .parse()
            .map_err(|_| advise(format!("`{url}` has no port number"), "give one with --port")),
        None => Ok(PORT_DEFAULT),
    }
}

/// One `up` at a time; the lock goes with the process.
fn lock(home: &Path) -> Result<File> {
    let path = home.join("up.lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        advise("another `sandflare up` is at work", "wait for it, or stop it with Ctrl-C")
    })?;
    Ok(file)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_port_is_that_of_the_address() {
        assert_eq!(port_of("http://127.0.0.1:9000/").unwrap(), 9000);
        assert_eq!(port_of("http://127.0.0.1").unwrap(), PORT_DEFAULT);
        assert!(port_of("http://127.0.0.1:x").is_err());
    }

    #[test]
    fn what_up_decides_by_itself_is_refused_and_other_options_are_passed_on() {
        let check = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&one| one.to_owned()).collect();
            check_node_options(&options).map(|()| {
                let key = Secret::from_random([7; 32]);
                node_args("127.0.0.1:1", "/i".as_ref(), "/d".as_ref(), &key, &options)
            })
        };
        let passed = check(&["--sandbox-domain", "a.example", "--max-sandboxes=9"]).unwrap();
        assert!(passed.ends_with(&["a.example".to_owned(), "--max-sandboxes=9".to_owned()]));
        for refused in ["--listen=0.0.0.0:1", "--no-auth", "--data"] {
            let name = refused.split('=').next().unwrap();
            let error = check(&[refused]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_second_up_is_refused_while_one_is_at_work() {
        let home = tempfile::tempdir().unwrap();
        let held = lock(home.path()).unwrap();
        assert!(lock(home.path()).is_err());
        drop(held);
        lock(home.path()).unwrap();
    }
}
