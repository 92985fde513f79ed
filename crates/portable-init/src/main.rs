//! PID 1 of the portable host: makes a usable Linux out of a kernel and an initrd, runs one program (the node
//! daemon), starts it again when it crashes, and powers off when it has ended.

mod awake;
mod disks;
mod group;
mod kernel_log;
mod modules;
mod network;
mod processors;
mod restarts;
mod root;
mod settings;
mod supervise;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use portable_init::{BOOT_FILE, Boot};
use rustix::system::RebootCommand;

fn main() -> ExitCode {
    base_types::abort_on_panic(|| false);
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        eprintln!(
            "sandflare-portable-init is PID 1 of the portable host; `sandflare up` starts it"
        );
        return ExitCode::FAILURE;
    }
    if let Err(error) = run() {
        kernel_log::error(&format!("{error:#}"));
    }
    disks::unmount();
    // Fails only without CAP_SYS_BOOT. Returning then panics the kernel, which ends QEMU just as well.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    root::mount_kernel_filesystems()?;
    let text = fs::read(format!("/{BOOT_FILE}")).context("the initrd holds no boot description")?;
    let boot: Boot = serde_json::from_slice(&text).context("the boot description is damaged")?;
    processors::leave_reserved()?;
    modules::load_all()?;
    root::leave_initramfs()?;
    root::mount_the_rest()?;
    group::join();
    settings::apply();
    network::configure()?;
    disks::mount()?;
    let _awake = awake::keep()?;
    supervise::run(&boot)
}
