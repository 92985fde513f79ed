//! `sandflare-vmm`: one microVM per process.
//!
//! Started by `sandflared`, never by hand, except for `probe` and `floor`, which ask what this
//! machine's KVM can do. The portable host runs `hold`.

use std::os::fd::AsRawFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vmm_core::{Inherited, Inputs};
use vmm_jail::{JailSpec, Limits};

const USAGE: &str = "\
sandflare-vmm: the microVM monitor of Sandflare

Usage:
  sandflare-vmm machine --uid UID --gid GID   run one machine (started by sandflared)
  sandflare-vmm probe [--json]                can this machine's KVM run Linux?
  sandflare-vmm floor [--runs N] [--json]     what an empty virtual machine costs here
  sandflare-vmm hold                          keep KVM awake until standard input ends
  sandflare-vmm --version
";

fn main() -> ExitCode {
    base_types::abort_on_panic(|| false);
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    match command.as_str() {
        "machine" => match machine(&rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sandflare-vmm: {error:#}");
                ExitCode::from(1)
            }
        },
        "probe" => vmm_probe::probe_command(rest),
        "floor" => vmm_probe::floor_command(rest),
        "hold" => vmm_probe::hold_command(rest),
        "--version" => {
            println!("sandflare-vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        "--help" | "-h" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Jails this process, then serves the node until it says stop.
fn machine(arguments: &[String]) -> Result<()> {
    let (uid, gid) = match arguments {
        [uid_flag, uid, gid_flag, gid] if uid_flag == "--uid" && gid_flag == "--gid" => (
            uid.parse().context("read the value of --uid")?,
            gid.parse().context("read the value of --gid")?,
        ),
        _ => bail!("`machine` takes --uid UID --gid GID and is started by sandflared"),
    };
    let Some(inherited) = Inherited::take() else {
        bail!("`machine` is started by sandflared, which passes it descriptors 3 to 5");
    };
    let jailed = vmm_jail::enter(JailSpec {
        uid,
        gid,
        cgroup_procs: Some(inherited.cgroup_procs),
        keep_fds: &[inherited.control.as_raw_fd(), inherited.kvm.as_raw_fd()],
        limits: Limits::default(),
        require_pid_one: true,
    })
    .context("enter the jail")?;
    vmm_core::run(Inputs {
        control: inherited.control,
        kvm: inherited.kvm,
        files: jailed.files,
        confine: true,
    })
    .context("run the machine")
}
