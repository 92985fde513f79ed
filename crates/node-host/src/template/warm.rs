//! What runs in a guest before its snapshot is taken: services that go on, and commands that end.

use std::time::Duration;

use api_guest::Exec;
use tokio::time::{Instant, sleep, timeout};

use super::TemplateError;
use super::build::Steps;
use crate::control::shown;
use crate::guest::{ExecEvent, GuestError};
use crate::images::{RootImage, Service};
use crate::machine::{self, MachineError};
use crate::vmm::VmmProcess;

/// LIMIT: a warm-up command imports a few big Python packages or makes a database cluster, a minute
/// under emulation.
const WARM_WITHIN: Duration = Duration::from_secs(300);
/// LIMIT: how much later than the guest should have ended a command the node gives it up.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
/// LIMIT: end of a warm-up command's output that is kept for an error.
const OUTPUT_BYTES_MAX: usize = 2048;
/// LIMIT: a service reads its files and listens, half a minute under emulation.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// LIMIT: the same after its machine has ended, when it first makes again what its log tells; a database server has up to
/// 256 MiB of that, minutes under emulation. One that is ended before begins from the start, and would never be ready.
const RECOVERED_WITHIN: Duration = Duration::from_secs(1800);
/// How often a service is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// What every sandbox runs first: a shell and the small programs people try. Run before the snapshot,
/// so that no clone has to read them from its disk.
const SHELL_WARM: [&str; 3] =
    ["sh", "-c", "id; ls /; date; uname; echo warm | cat; test -x /bin/bash && bash -c true; true"];
/// Starts its arguments again whenever they end.
const SUPERVISE: [&str; 4] = ["sh", "-c", "while :; do \"$@\"; sleep 1; done", "service"];
/// Who prepares services.
const ROOT: &str = "root";

/// Starts the services of the template's manifest and runs its commands, so that what they load is in
/// the snapshot.
pub(super) async fn warm(
    process: &VmmProcess,
    root: &RootImage,
    steps: &Steps<'_>,
) -> Result<(), TemplateError> {
    let shell = SHELL_WARM.map(str::to_owned).to_vec();
    let (services, commands) = (&root.manifest.services, &root.manifest.warm);
    let count = 1 + commands.len() + services.len();
    let at = |index: usize, doing: &str| {
        let percent = u8::try_from(30 + 30 * index / count).unwrap_or(60);
        steps.at(percent, doing);
    };
    for (index, service) in services.iter().enumerate() {
        at(index, &format!("start {}", shown(&service.argv.join(" "))));
        start(process, service, READY_WITHIN).await?;
    }
    for (index, argv) in std::iter::once(&shell).chain(commands).enumerate() {
        at(services.len() + index, &format!("run {}", shown(&argv.join(" "))));
        must(run(process, argv, None).await, argv)?;
    }
    // The first of the services may have begun what a later one leaves to do.
    for service in services {
        for argv in &service.after {
            must(run(process, argv, Some(ROOT)).await, argv)?;
        }
    }
    Ok(())
}

/// Starts what a template starts in a guest that was booted from the disk of one of its machines.
pub(crate) async fn start_services(
    process: &VmmProcess,
    services: &[Service],
) -> Result<(), TemplateError> {
    for service in services {
        start(process, service, RECOVERED_WITHIN).await?;
    }
    Ok(())
}

/// Does what the services of a clone are first asked for.
pub(super) async fn touch(process: &VmmProcess, services: &[Service]) -> Result<(), TemplateError> {
    for argv in services.iter().flat_map(|service| &service.touch) {
        must(run(process, argv, Some(ROOT)).await, argv)?;
    }
    Ok(())
}

/// Starts a service; returns when it is ready, and gives it up when it is not `within` that.
async fn start(
    process: &VmmProcess,
    service: &Service,
    within: Duration,
) -> Result<(), TemplateError> {
    for argv in &service.before {
        must(run(process, argv, Some(ROOT)).await, argv)?;
    }
    let words = SUPERVISE.map(str::to_owned).into_iter().chain(service.argv.iter().cloned());
    let spawned = async {
        let connection = machine::connect(process.control()).await.map_err(RunError::Machine)?;
        let exec = exec(words.collect(), Some(service.user.clone()), None);
        connection.spawn(exec).await.map_err(RunError::Guest)?;
        Ok(())
    };
    must(spawned.await, &service.argv)?;
    let began = Instant::now();
    loop {
        match run(process, &service.ready, Some(ROOT)).await {
            Err(RunError::Ended { .. }) if began.elapsed() < within => sleep(ASK_EVERY).await,
            over => return must(over, &service.ready),
        }
    }
}

enum RunError {
    Guest(GuestError),
    Machine(MachineError),
    Ended { ending: String, output: String },
}

fn must(ran: Result<(), RunError>, argv: &[String]) -> Result<(), TemplateError> {
    ran.map_err(|failed| match failed {
        RunError::Guest(source) => TemplateError::Guest { doing: "run a command", source },
        RunError::Machine(source) => TemplateError::Machine { doing: "run a command", source },
        RunError::Ended { ending, output } => {
            let output = if output.is_empty() { output } else { format!(": {output}") };
            TemplateError::Warm { command: shown(&argv.join(" ")), ending, output }
        }
    })
}

fn exec(argv: Vec<String>, user: Option<String>, time_limit_ms: Option<u64>) -> Exec {
    Exec { argv, env: Vec::new(), cwd: None, user, time_limit_ms, stdin: false, pty: None }
}

/// Runs a command to its end; anything but exit code 0 is an error.
async fn run(process: &VmmProcess, argv: &[String], user: Option<&str>) -> Result<(), RunError> {
    let connection = machine::connect(process.control()).await.map_err(RunError::Machine)?;
    let limit = u64::try_from(WARM_WITHIN.as_millis()).ok();
    let exec = exec(argv.to_vec(), user.map(str::to_owned), limit);
    let (mut events, input) = connection.exec(exec).await.map_err(RunError::Guest)?;
    let mut output = Vec::new();
    let running = async {
        loop {
            match events.next().await? {
                ExecEvent::Started(_) => {}
                ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => {
                    output.extend_from_slice(&data);
                    output.drain(..output.len().saturating_sub(OUTPUT_BYTES_MAX));
                }
                ExecEvent::Exited(exited) => return Ok(exited),
            }
        }
    };
    // The guest enforces the limit; this one is for a guest that does not.
    let exited = timeout(WARM_WITHIN + ENDED_WITHIN, running)
        .await
        .map_err(|_| RunError::Guest(GuestError::Silent(WARM_WITHIN)))?
        .map_err(RunError::Guest)?;
    drop(input);
    let ending = match (exited.timed_out, exited.code, exited.signal) {
        (false, Some(0), _) => return Ok(()),
        (true, ..) => format!("did not end within {} s", WARM_WITHIN.as_secs()),
        (false, Some(code), _) => format!("ended with exit code {code}"),
        (false, None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    };
    Err(RunError::Ended { ending, output: shown(&String::from_utf8_lossy(&output)) })
}
