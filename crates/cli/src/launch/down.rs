use std::time::Duration;

use anyhow::{Context, Result};
use client::Client;
use portable_host::PortableHost;
use rustix::process::Signal;
use serde::Serialize;

use crate::args::Format;
use crate::complaint::{End, advise};
use crate::launch::native::Process;
use crate::launch::record::{Record, Way, portable_state};
use crate::place::Place;
use crate::steps::Steps;
use crate::table::print_json;

/// LIMIT: how long a node may take to destroy its sandboxes and end.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// LIMIT: how long the kernel may take to end a killed process; its machines end with it.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// `sandflare down`
pub(crate) async fn down(place: &Place, format: Format) -> Result<End> {
    let ended = end(place).await?;
    if format.is_json() {
        print_json(&Down { ended })?;
    }
    Ok(End::Done)
}

async fn end(place: &Place) -> Result<Ended> {
    let Some(record) = Record::read(place)? else {
        // A portable host may be left without its record when a disk was full.
        let left = stop_portable(place)?;
        let (ended, said) = match left {
            true => (Ended::Cleanly, "the portable host is stopped"),
            false => (Ended::Before, "no node of this machine is running"),
        };
        eprintln!("{said}");
        return Ok(ended);
    };
    let client = place.client_of(&format!("http://127.0.0.1:{}", record.port))?;
    let step = Steps::new().begin("stopping the node");
    let ended = stop(place, &client).await?;
    step.done(match ended {
        Ended::Cleanly => "stopped",
        Ended::Killed => "killed, because it did not end in time",
        Ended::Before => "it was not running any more",
    });
    Ok(ended)
}

/// What `down -o json` prints.
#[derive(Serialize)]
struct Down {
    ended: Ended,
}

/// How a node ended.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Cleanly,
    Killed,
    /// None was running.
    Before,
}

/// Stops what the record names, by force if need be, and removes the record.
pub(crate) async fn stop(place: &Place, client: &Client) -> Result<Ended> {
    let Some(record) = Record::read(place)? else { return Ok(Ended::Before) };
    let ended = match record.way {
        Way::Native { process } => stop_native(process, client).await?,
        // Its own way to stop asks the daemon inside, waits, and then forces.
        Way::Portable if stop_portable(place)? => Ended::Cleanly,
        Way::Portable => Ended::Before,
    };
    Record::remove(place)?;
    Ok(ended)
}

async fn stop_native(process: Process, client: &Client) -> Result<Ended> {
    if !process.is_alive() {
        return Ok(Ended::Before);
    }
    // A node too broken to answer still gets the signal, which asks for the same.
    if client.node_stop().await.is_err() {
        process.signal(Signal::TERM);
    }
    if process.ends_within(STOP_LIMIT).await {
        return Ok(Ended::Cleanly);
    }
    process.signal(Signal::KILL);
    if process.ends_within(KILL_LIMIT).await {
        return Ok(Ended::Killed);
    }
    Err(advise(
        format!("the node (process {}) cannot be ended", process.pid),
        "the kernel holds on to it, most likely waiting for a disk; see `dmesg`",
    ))
}

fn stop_portable(place: &Place) -> Result<bool> {
    let host = PortableHost::at(&portable_state(place));
    let stopped = tokio::task::block_in_place(|| host.stop()).context("stop the portable host")?;
    Ok(stopped.is_some())
}
