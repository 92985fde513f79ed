//! `sandflared`: the node daemon. Settings, wiring and HTTP; what it does to the machine is in
//! `node-host`.

mod agent;
mod api;
mod build;
mod create;
mod databases;
mod exec;
mod exposure;
mod failure;
mod files;
mod first_key;
mod lifecycle;
mod listen;
mod measure;
mod network;
mod policy;
mod ports;
mod process;
mod quota;
mod seen;
mod settings;
mod system;
mod tls;
mod trust;
mod vault;
mod view;
mod wanted;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use api_node::Addresses;
use clap::Parser;
use node_access::Access;
use node_gateway::Authority;
use node_host::{Host, Verdict};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::api::Node;
use crate::databases::{Databases, Listening};
use crate::settings::{LogFormat, Options, Settings};
use crate::vault::{FoundVault, Vault};

/// LIMIT: after every sandbox is gone, answers that are still on their way get this long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be set to anything; the reason a daemon ends is always said.
            let _ = writeln!(io::stderr(), "sandflared: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    base_types::abort_on_panic(node_gateway::contains_panics);
    let mut settings = Options::parse().resolve()?;
    start_log(&settings)?;
    let files = system::raise_open_files_limit();
    let (wanted, sandboxes) = (settings.limits.connections, settings.host.sandboxes_max);
    let connections = system::connections_within(files, wanted, sandboxes);
    if connections < wanted {
        tracing::warn!("{connections} connections, not {wanted}: {files} files may be open");
        settings.limits.connections = connections;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("node")
        .build()
        .context("start the async runtime")?;
    let served = runtime.block_on(serve(settings));
    // Blocking work that is left only removes files; the next start would do it again.
    runtime.shutdown_timeout(ANSWERS_WITHIN);
    served
}

fn start_log(settings: &Settings) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log)
        .with_context(|| format!("understand the log filter `{}`", settings.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match settings.log_format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| anyhow!("start the log: {error}"))
}

async fn serve(settings: Settings) -> Result<()> {
    // Before anything is touched: another node may be using the same data.
    let listener = listen::listen(settings.exposure.listen, "--listen").await?;
    if let Some(warning) = settings.exposure.warning() {
        tracing::warn!("{warning}");
    }
    let address = listener.local_addr().context("ask for the address served")?;
    let vmm = settings.host.vmm.clone();
    let verdict = node_host::probe(&vmm).await.context("find out what KVM can do")?;
    check(&verdict)?;
    let data_dir = settings.host.data_dir.clone();
    let mut gateway = settings.gateway;
    std::fs::create_dir_all(&data_dir).with_context(|| format!("make {}", data_dir.display()))?;
    let authority = Authority::open(&data_dir).context("open the authority of the gateway")?;
    let authority = Arc::new(authority);
    gateway.authority = Some(authority.clone());
    let (found, found_vault) = (network::Found::default(), FoundVault::default());
    let networks = |flows| network::networks(gateway, flows, found.clone(), found_vault.clone());
    let host = Host::start(settings.host, networks).await.context("start the node")?;
    let host = Arc::new(host);
    let vault = Vault::open(host.store()).await.context("find the secrets of an earlier run")?;
    // Set once, here.
    let _ = found_vault.set(vault.clone());
    let access = Access::open(host.store(), system::now_ms, settings.exposure.keys).await;
    let access = access.context("find out who may do what")?;
    if settings.exposure.keys {
        first_key::ensure(&access, settings.admin_key_hash, &data_dir).await?;
    }
    let witness = seen::witness(&data_dir)?;
    seen::keep_journal(&host, &witness);
    let outside = match settings.database_listen {
        Some(address) => Some(listen::listen(address, "--database-listen").await?),
        None => None,
    };
    let at = outside.as_ref().map(|outside| outside.local_addr()).transpose();
    let at = at.context("ask for the address databases are reached at")?;
    let database_tls = settings.database_tls;
    let host_name = settings.database_host;
    let at = at.map(|at| Listening { at, host: host_name, tls: database_tls.is_some() });
    let databases =
        Databases::open(host.clone(), access.clone(), at, settings.databases_ahead).await;
    let databases = databases.context("find the databases of an earlier run")?;
    // Set once, here.
    let _ = found.set(databases.clone());
    let stop = CancellationToken::new();
    let signals = stop_on_signal(stop.clone())?;
    let outside = outside.map(|outside| {
        let carrying = databases.clone().listen(outside, database_tls, witness.clone());
        tokio::spawn(carrying)
    });
    let node = Node::new(
        host.clone(),
        access.clone(),
        witness.clone(),
        vmm,
        verdict,
        stop.clone(),
        (databases.clone(), vault, authority),
    );
    let limits = settings.limits;
    let addresses = Addresses { domain: settings.sandbox_domain, secure: settings.tls.is_some() };
    let watch = |router| witness.watch(router);
    let router = api_node::router(Arc::new(node), Arc::new(access), limits, addresses, watch);

    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    tracing::info!("ready: serving {scheme}://{address}");
    let stopped = stop.clone();
    let stopped = async move { stopped.cancelled().await };
    let serving = tokio::spawn(api_node::serve(listener, router, settings.tls, limits, stopped));
    stop.cancelled().await;
    tracing::info!("stopping");
    if let Some(outside) = outside {
        outside.abort();
    }
    databases.rest().await;
    // Commands end with their sandboxes, and with them the answers that are still streaming.
    host.close().await;
    match timeout(ANSWERS_WITHIN, serving).await {
        Ok(served) => served.context("serve the API")?,
        Err(_) => tracing::info!("some answers were cut off"),
    }
    signals.abort();
    tracing::info!("stopped");
    Ok(())
}

fn check(verdict: &Verdict) -> Result<()> {
    if verdict.usable {
        return Ok(());
    }
    let hint = if verdict.hint.is_empty() { "" } else { "; " };
    bail!("KVM on this machine cannot be used: {}{hint}{}", verdict.reason, verdict.hint)
}

/// Cancels `stop` on the signals that ask a daemon to end.
fn stop_on_signal(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for signals")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    }))
}
