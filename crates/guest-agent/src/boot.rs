//! PID 1: from the kernel's hand-over to a machine that serves.
//!
//! Runs from the initrd: load modules, mount the root disk, move into it (no program is executed: the
//! agent goes on running from memory), mount what a Debian expects, then serve. Any failure is said on
//! the console and ends the machine; its host learns of it from that.

mod layout;
mod modules;
mod network;
mod user;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};

use crate::agent::{Agent, Settings};
use crate::server::Server;
use crate::{console, identity, kernel};

/// LIMIT: connections that wait for a worker.
const BACKLOG: i32 = 128;
/// LIMIT: open files. Soft: more than the agent's workers use and enough for any server a user
/// starts; hard: what Debian gives, so that a user may raise it.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(1_048_576) };
/// LIMIT: how long a device may take to appear, on the slowest host there is.
const DEVICE_WAIT: Duration = Duration::from_secs(30);

/// Brings the machine up and serves. Never returns: a PID 1 that ends takes the machine with it, and
/// says why first.
pub(crate) fn run() -> ! {
    let Err(error) = up_and_serve();
    console::say(&format!("cannot go on: {error:#}"));
    rustix::fs::sync();
    let _ = reboot(RebootCommand::Restart);
    // Not reached where the machine can restart; otherwise the kernel panics over its lost PID 1,
    // which ends the machine just as well.
    std::process::exit(1)
}

/// Speaks to the console the kernel command line names, and listens to nobody.
fn use_console() -> anyhow::Result<()> {
    let nothing = fs::File::open("/dev/null").context("cannot open /dev/null")?;
    let console = fs::File::options()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/console")
        .context("cannot open the console")?;
    for (from, onto) in [(&nothing, 0), (&console, 1), (&console, 2)] {
        kernel::duplicate_onto(from.as_fd(), onto).context("cannot use the console")?;
    }
    Ok(())
}

fn up_and_serve() -> anyhow::Result<std::convert::Infallible> {
    layout::mount_initial()?;
    use_console()?;
    let command_line =
        fs::read_to_string("/proc/cmdline").context("cannot read the kernel command line")?;
    let parameter = |name: &str| {
        let prefix = format!("{name}=");
        command_line
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(&*prefix))
            .next_back()
    };
    modules::load_all(Path::new("/modules"))?;
    let disk = Path::new(parameter("root").unwrap_or("/dev/vda"));
    layout::enter_root(disk, DEVICE_WAIT)?;
    layout::mount_rest()?;
    network::bring_up(DEVICE_WAIT)?;
    let hostname = parameter("sandflare.hostname")
        .filter(|name| identity::is_hostname(name))
        .unwrap_or("sandbox");
    rustix::system::sethostname(hostname.as_bytes()).context("cannot set the host name")?;
    setrlimit(Resource::Nofile, OPEN_FILES).context("cannot set the limit of open files")?;
    user::ensure_default(Path::new("/"))?;

    let agent = Agent::new(Settings {
        user: api_guest::DEFAULT_USER.to_owned(),
        identity_root: Some("/".into()),
        random_device: Some("/dev/urandom".into()),
        owns_machine: true,
    })?;
    layout::mount_boot_id()?;
    let socket = kernel::vsock_listen(api_guest::AGENT_PORT, BACKLOG)
        .context("cannot listen on vsock (is the module loaded?)")?;
    Server::run(Arc::new(agent), socket)?;
    anyhow::bail!("the server ended")
}
