//! How long a sandbox's agent and the way to it take, without HTTP.

use std::time::{Duration, Instant};

use api_guest::Exec;
use api_node::{ErrorCode, Failure, Measure, Measured, Spread};
use node_host::{ExecEvent, ExecInput, ExecReader, GuestError, SandboxHandle};
use tokio::time::timeout;

use crate::failure;

/// LIMIT: one command of a measurement. 64 MiB go in within seconds under emulation; a guest that takes
/// longer is stuck.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// What is written to its standard input at once.
static PIECE: [u8; 64 * 1024] = [b'.'; 64 * 1024];
/// The command whose life is timed.
const COMMAND: [&str; 3] = ["sh", "-c", "true"];
const WRITE: [&str; 3] = ["sh", "-c", "exec cat > /tmp/.sandflare-measure"];
const READ: [&str; 2] = ["cat", "/tmp/.sandflare-measure"];
const REMOVE: [&str; 3] = ["rm", "-f", "/tmp/.sandflare-measure"];

/// Measures a sandbox.
pub(crate) async fn measure(
    sandbox: &SandboxHandle,
    request: Measure,
) -> Result<Measured, Failure> {
    let mut took = Vec::new();
    for _ in 0..request.runs {
        took.push(run(sandbox, &COMMAND, 0).await?.whole_us);
    }
    let mut measured = Measured { spawn: spread(took), ..Measured::default() };
    if request.mib > 0 {
        let bytes = u64::from(request.mib) << 20;
        let carried = carry(sandbox, bytes).await;
        // Also after a failure, which is what is told then.
        let removed = run(sandbox, &REMOVE, 0).await;
        (measured.in_us, measured.out_us) = carried?;
        removed?;
    }
    Ok(measured)
}

/// Microseconds in which `bytes` went in, and came out again.
async fn carry(sandbox: &SandboxHandle, bytes: u64) -> Result<(u64, u64), Failure> {
    let into = run(sandbox, &WRITE, bytes).await?;
    let out = run(sandbox, &READ, 0).await?;
    if out.printed == bytes {
        return Ok((into.running_us, out.running_us));
    }
    let printed = out.printed;
    let message = format!("{bytes} bytes were written in the sandbox, and {printed} were read");
    Err(Failure::new(ErrorCode::GuestFailed, message))
}

/// A command that has ended well.
struct Ran {
    /// From the request to the agent's word of its end.
    whole_us: u64,
    /// From the agent's word that it runs to that of its end.
    running_us: u64,
    /// Bytes of its standard output.
    printed: u64,
}

/// Runs a command and gives it `input` bytes, on a connection that is open before the time is taken.
async fn run(sandbox: &SandboxHandle, argv: &[&str], input: u64) -> Result<Ran, Failure> {
    let connection = sandbox.connect().await.map_err(|error| failure::of_ask(&error))?;
    let exec = Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        time_limit_ms: u64::try_from(COMMAND_WITHIN.as_millis()).ok(),
        stdin: input > 0,
        pty: None,
    };
    let running = async {
        let begun = Instant::now();
        let (mut reader, mut writer) = connection.exec(exec).await?;
        let ExecEvent::Started(_) = reader.next().await? else {
            return Err(GuestError::Unexpected);
        };
        let started = Instant::now();
        feed(&mut writer, input).await?;
        let (printed, code) = follow(&mut reader).await?;
        Ok((Ran { whole_us: micros(begun), running_us: micros(started), printed }, code))
    };
    let ran = timeout(COMMAND_WITHIN, running).await;
    match ran.unwrap_or(Err(GuestError::Silent(COMMAND_WITHIN))) {
        Ok((ran, Some(0))) => Ok(ran),
        Ok(_) => {
            let message = format!("`{}` failed in the sandbox", argv.join(" "));
            Err(Failure::new(ErrorCode::GuestFailed, message)
                .with_hint("it needs sh, cat and rm, and room in /tmp"))
        }
        Err(error) => Err(failure::of_broken(sandbox, error).await),
    }
}

async fn feed(writer: &mut ExecInput, mut bytes: u64) -> Result<(), GuestError> {
    if bytes == 0 {
        return Ok(());
    }
    while bytes > 0 {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(PIECE.len());
        writer.stdin(PIECE.get(..length).unwrap_or_default()).await?;
        bytes -= length as u64;
    }
    writer.close_stdin().await
}

/// How much a command prints, and its exit code.
async fn follow(reader: &mut ExecReader) -> Result<(u64, Option<i32>), GuestError> {
    let mut printed = 0;
    loop {
        match reader.next().await? {
            ExecEvent::Stdout(data) => printed += data.len() as u64,
            ExecEvent::Stderr(_) => {}
            ExecEvent::Exited(exited) => return Ok((printed, exited.code)),
            ExecEvent::Started(_) => return Err(GuestError::Unexpected),
        }
    }
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Percentiles by nearest rank; all zero of no figures.
fn spread(mut figures: Vec<u64>) -> Spread {
    figures.sort_unstable();
    let rank = |percent: usize| (figures.len() * percent).div_ceil(100).max(1) - 1;
    let at = |percent| figures.get(rank(percent)).copied().unwrap_or_default();
    Spread { min_us: at(0), p50_us: at(50), p99_us: at(99) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let of = |figures: &[u64]| {
            let Spread { min_us, p50_us, p99_us } = spread(figures.to_vec());
            (min_us, p50_us, p99_us)
        };
        assert_eq!(of(&[]), (0, 0, 0));
        assert_eq!(of(&[7]), (7, 7, 7));
        assert_eq!(of(&[50, 15, 40, 20, 35]), (15, 35, 50));
    }
}
