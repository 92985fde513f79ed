//! What the gateway leaves of a sandbox's throughput: the same bytes to and from a server outside, and over
//! vsock alone. Both are taken in turns, so that whatever else the machine does falls on both.
//!
//! The server is this program, at an address that the node reaches and opens to sandboxes. In the sandbox
//! `cat` moves the bytes on either way, from a file or to one, so that its part is the same.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use api_node::{ExecBody, ExecRequest, Measure as MeasureRequest, MemoryPath};
use base_types::SandboxId;
use client::Client;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::bench::measure::{Measure, micros};
use crate::bench::render::{head, ms, row, verdicts};
use crate::bench::report::{Head, Target};
use crate::bench::spread::Spread;
use crate::complaint::advise;
use crate::snapshot;
use crate::steps::Steps;

/// Version of the JSON form.
const SCHEMA: u32 = 1;
/// Large enough that what a transfer begins with does not count, and small beside a sandbox's memory.
const TRANSFER_MIB: u32 = 32;
/// Transfers each way.
const TRANSFERS: u32 = 5;
/// What the gateway should leave of what goes over vsock.
const OVER_VSOCK_MIN: f64 = 1.0 / 3.0;
/// LIMIT: one transfer, at half a MiB each second; what takes longer is stuck.
const TRANSFER_WITHIN: Duration = Duration::from_secs(64);
/// LIMIT: bytes of what a command says of its failure that are shown.
const SAID_BYTES_MAX: usize = 500;
const FILE: &str = "/tmp/.sandflare-bench";
const PIECE_BYTES: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Everything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    head: Head,
    template: String,
    size: String,
    /// Where sandboxes reach the server.
    server: String,
    /// MiB of one transfer.
    mib: u32,
    /// Into the sandbox over vsock, as the node times it.
    in_vsock_us: Spread,
    /// From the server through the gateway.
    in_network_us: Spread,
    out_vsock_us: Spread,
    out_network_us: Spread,
    pub(crate) targets: Vec<Target>,
}

/// Measures, with a server that sandboxes reach at `address`.
pub(crate) async fn run(
    measure: &Measure,
    client: &Client,
    steps: &Steps,
    address: Ipv4Addr,
) -> Result<Report> {
    let node = client.node_get().await?;
    snapshot::ensure(client, steps, measure.template(), measure.size()).await?;
    let server = Server::bind(address).await?;
    let id = measure.create(MemoryPath::Private).await.context("create a sandbox")?.id;
    let bytes = u64::from(TRANSFER_MIB) << 20;
    command(client, id, &format!("exec head -c {bytes} /dev/zero > {FILE}")).await?;
    let (mut vsock, mut into, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let title = format!("{TRANSFERS} times {TRANSFER_MIB} MiB, each way and by each");
    let mut step = steps.begin(&title);
    for round in 0..=TRANSFERS {
        let carry = MeasureRequest { runs: 0, mib: TRANSFER_MIB };
        let carried = client.sandbox_measure(id, &carry).await?;
        let into_us = server.transfer(client, id, Way::In).await?;
        let out_us = server.transfer(client, id, Way::Out).await?;
        // The first finds no memory in the guest's page cache.
        if round > 0 {
            vsock.push(carried);
            into.push(into_us);
            out.push(out_us);
        }
        step.advance(f64::from(round) / f64::from(TRANSFERS));
    }
    step.done("measured");
    measure.kill(id).await?;
    let mut report = Report {
        head: Head::of(SCHEMA, node, client),
        template: measure.template().to_string(),
        size: measure.size().to_string(),
        server: address.to_string(),
        mib: TRANSFER_MIB,
        in_vsock_us: Spread::of(vsock.iter().map(|carried| carried.in_us)),
        in_network_us: Spread::of(into),
        out_vsock_us: Spread::of(vsock.iter().map(|carried| carried.out_us)),
        out_network_us: Spread::of(out),
        targets: Vec::new(),
    };
    report.targets = targets(&report);
    Ok(report)
}

/// What sandboxes get bytes from, and give them to.
struct Server {
    listener: TcpListener,
    /// Where it is for them.
    address: Ipv4Addr,
    port: u16,
}

impl Server {
    /// One that the node reaches at `address`: by an interface of this machine, or, where it has none of that
    /// address, as from inside of the portable host, by loopback.
    async fn bind(address: Ipv4Addr) -> Result<Self> {
        let bound = match TcpListener::bind((address, 0)).await {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
            }
            bound => bound,
        };
        let listener = bound.with_context(|| format!("listen for the sandbox at {address}"))?;
        let port = listener.local_addr().context("ask for the server's port")?.port();
        Ok(Self { listener, address, port })
    }

    /// Microseconds of one transfer, from the connection to its end.
    async fn transfer(&self, client: &Client, id: SandboxId, way: Way) -> Result<u64> {
        let Self { address, port, .. } = self;
        let script = match way {
            Way::In => format!("exec cat < /dev/tcp/{address}/{port} > {FILE}"),
            Way::Out => format!("exec cat {FILE} > /dev/tcp/{address}/{port}"),
        };
        let both = async {
            let mut served = std::pin::pin!(self.serve(way));
            let mut ran = std::pin::pin!(command(client, id, &script));
            tokio::select! {
                served = &mut served => {
                    let us = served?;
                    ran.await.map(|()| us)
                }
                ran = &mut ran => {
                    ran?;
                    served.await
                }
            }
        };
        match timeout(TRANSFER_WITHIN, both).await {
            Ok(Err(error)) => {
                let message = format!("the sandbox and {address}:{port} did not talk: {error:#}");
                let hint = format!("start the node with `--gateway-allow {address}`");
                Err(advise(message, hint))
            }
            Ok(took) => took,
            Err(_) => bail!("{TRANSFER_MIB} MiB took over {} s", TRANSFER_WITHIN.as_secs()),
        }
    }

    /// Serves one connection, and says how long it was there.
    async fn serve(&self, way: Way) -> Result<u64> {
        let (mut stream, _) = self.listener.accept().await.context("take its connection")?;
        let begun = Instant::now();
        let bytes = u64::from(TRANSFER_MIB) << 20;
        if way == Way::In {
            give(&mut stream, bytes).await.context("send to the sandbox")?;
        }
        let heard = take(&mut stream).await.context("hear from the sandbox")?;
        let took_us = micros(begun, Instant::now());
        let expected = if way == Way::Out { bytes } else { 0 };
        if heard != expected {
            bail!("{heard} bytes came, and not {expected}");
        }
        Ok(took_us)
    }
}

async fn give(stream: &mut TcpStream, mut bytes: u64) -> std::io::Result<()> {
    let piece = vec![b'.'; PIECE_BYTES];
    while bytes > 0 {
        let length = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        stream.write_all(piece.get(..length).unwrap_or_default()).await?;
        bytes -= length as u64;
    }
    stream.shutdown().await
}

/// How many bytes come until the end.
async fn take(stream: &mut TcpStream) -> std::io::Result<u64> {
    let (mut piece, mut heard) = (vec![0; PIECE_BYTES], 0);
    loop {
        match stream.read(&mut piece).await? {
            0 => return Ok(heard),
            count => heard += count as u64,
        }
    }
}

/// Runs a script in the sandbox, which must succeed.
async fn command(client: &Client, id: SandboxId, script: &str) -> Result<()> {
    // The shell that knows connections.
    let argv = ["bash", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let mut events = client.process_exec(id, &request).await?;
    let mut said = Vec::new();
    while let Some(event) = events.next().await? {
        match event.body {
            ExecBody::Stderr { data } => {
                let room = SAID_BYTES_MAX.saturating_sub(said.len()).min(data.len());
                said.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            ExecBody::Exit { exit_code: 0, .. } => return Ok(()),
            ExecBody::Exit { exit_code, .. } => {
                let said = String::from_utf8_lossy(&said);
                bail!("a command in it ended with {exit_code}: {}", said.trim().escape_debug());
            }
            ExecBody::Error { failure, .. } => bail!("a command in it: {}", failure.message),
            _ => {}
        }
    }
    Err(events.cut_short().into())
}

/// How much faster bytes went in `us` than in `other_us`.
fn over(us: Spread, other_us: Spread) -> f64 {
    other_us.p50 as f64 / us.p50.max(1) as f64
}

fn targets(report: &Report) -> Vec<Target> {
    let target = |name, network: Spread, vsock: Spread| {
        let ratio = over(network, vsock);
        Target {
            name,
            wanted: "at least a third, p50".to_owned(),
            measured: Some(format!("{ratio:.2} x")),
            reached: Some(network.count > 0 && ratio >= OVER_VSOCK_MIN),
        }
    };
    vec![
        target("into a sandbox, over vsock's", report.in_network_us, report.in_vsock_us),
        target("out of a sandbox, over vsock's", report.out_network_us, report.out_vsock_us),
    ]
}

/// For people, less than 100 columns wide.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!(
        "sandflare {}: template {}, size {}; node on {} CPUs, Linux {}\n\n",
        report.head.version,
        report.template,
        report.size,
        report.head.cpus,
        report.head.kernel_release,
    );
    let what = format!("{} MiB with {}, ms", report.mib, report.server);
    let _ = writeln!(text, "{}", head(&what));
    let lines = [
        ("into the sandbox, over vsock", report.in_vsock_us),
        ("into the sandbox, by the gateway", report.in_network_us),
        ("out of the sandbox, over vsock", report.out_vsock_us),
        ("out of the sandbox, by the gateway", report.out_network_us),
    ];
    for (name, spread) in &lines {
        let _ = writeln!(text, "{}", row(name, spread, ms));
    }
    text.push_str("\nMiB/s, of the medians\n");
    for (name, spread) in &lines {
        let rate = f64::from(report.mib) * 1e6 / spread.p50.max(1) as f64;
        let _ = writeln!(text, "  {name:<36}{rate:>9.1}");
    }
    text.push('\n');
    text.push_str(&verdicts(&report.targets));
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_report_reads_well_and_says_what_is_not_reached() {
        let mut report = Report {
            mib: 32,
            server: "192.168.100.200".to_owned(),
            in_vsock_us: Spread::of([100_000]),
            in_network_us: Spread::of([301_000]),
            out_vsock_us: Spread::of([100_000]),
            out_network_us: Spread::of([300_000]),
            ..Report::default()
        };
        report.targets = targets(&report);
        let reached: Vec<_> = report.targets.iter().map(|target| target.reached).collect();
        assert_eq!(reached, [Some(false), Some(true)]);
        let text = text(&report);
        assert!(text.lines().all(|line| line.chars().count() < 100), "{text}");
        assert!(text.contains("320.0") && text.contains("0.33 x"), "{text}");
    }

    #[tokio::test]
    async fn a_server_gives_and_takes_so_many_bytes() {
        let server = Server::bind(Ipv4Addr::LOCALHOST).await.unwrap();
        let bytes = u64::from(TRANSFER_MIB) << 20;
        let connect = async || TcpStream::connect((server.address, server.port)).await.unwrap();
        let (served, heard) = tokio::join!(server.serve(Way::In), async {
            take(&mut connect().await).await.unwrap()
        });
        assert!(served.is_ok() && heard == bytes, "{served:?}: {heard}");
        for (given, whole) in [(bytes, true), (bytes - 1, false)] {
            let (served, ()) = tokio::join!(server.serve(Way::Out), async {
                give(&mut connect().await, given).await.unwrap();
            });
            assert_eq!(served.is_ok(), whole, "{served:?}");
        }
    }

    #[tokio::test]
    async fn a_server_at_an_address_of_another_machine_is_on_loopback() {
        // One of those for examples, which no machine has.
        let server = Server::bind(Ipv4Addr::new(192, 0, 2, 1)).await.unwrap();
        assert!(server.listener.local_addr().unwrap().ip().is_loopback());
        assert_eq!(server.address, Ipv4Addr::new(192, 0, 2, 1));
    }
}
