//! KVM kept awake from before the first program to the end; why, is told where the VMs are held (`vmm-probe/src/hold.rs`).

use std::io::Read as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use portable_init::VMM;

/// What it says when it holds.
const HOLDING: &[u8] = b"holding\n";

/// KVM stays awake for as long as this exists.
#[derive(Debug)]
pub(crate) struct Awake {
    _held: Option<ChildStdin>,
}

/// Returns when all is held. Without a monitor in the initrd nobody makes VMs, and nothing needs to be held.
pub(crate) fn keep() -> Result<Awake> {
    if !Path::new(VMM).exists() {
        return Ok(Awake { _held: None });
    }
    let mut command = Command::new(VMM);
    command.arg("hold").env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {VMM}"))?;
    let mut said = [0; HOLDING.len()];
    let read = child.stdout.take().context("no pipe")?.read_exact(&mut said);
    read.context("KVM cannot be kept awake; the kernel log says more")?;
    ensure!(said == HOLDING, "KVM cannot be kept awake: {VMM} said something else");
    // Never waited for by name: PID 1 reaps whatever ends.
    Ok(Awake { _held: child.stdin.take() })
}
