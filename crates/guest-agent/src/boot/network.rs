//! The network, which is the same in every guest: see [`api_guest::network`].
//!
//! All of it is done once, before a snapshot is made, so that clones have it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api_guest::network::{GATEWAY_ADDRESS, GUEST_ADDRESS, PREFIX_BITS, netmask};

use crate::kernel;

const INTERFACE: &str = "eth0";
/// LIMIT: how often the interface is looked for; modules find devices in the background.
const POLL: Duration = Duration::from_millis(2);

/// Brings up loopback and the interface to the gateway, which may take as long as `wait` to appear.
pub(super) fn bring_up(wait: Duration) -> anyhow::Result<()> {
    kernel::interface_up("lo").context("cannot bring the loopback interface up")?;
    let deadline = Instant::now() + wait;
    while !Path::new("/sys/class/net").join(INTERFACE).exists() {
        if Instant::now() >= deadline {
            bail!("the network interface {INTERFACE} did not appear within {wait:?}");
        }
        std::thread::sleep(POLL);
    }
    // Before it is up: otherwise it would give itself an address, and ask for routers.
    switch_ipv6_off(Path::new("/proc/sys/net/ipv6/conf"))?;
    // How long packets may be is told by the device.
    kernel::interface_address(INTERFACE, GUEST_ADDRESS, netmask(PREFIX_BITS))
        .and_then(|()| kernel::interface_up(INTERFACE))
        .with_context(|| format!("cannot bring the interface {INTERFACE} up"))?;
    kernel::default_route(GATEWAY_ADDRESS).context("cannot set the route to the gateway")?;
    name_resolver(Path::new("/etc"))
}

/// There is nothing to talk to by it, and nobody who would look at what is said.
fn switch_ipv6_off(switches: &Path) -> anyhow::Result<()> {
    for of in ["all", "default", INTERFACE] {
        let switch = switches.join(of).join("disable_ipv6");
        match fs::write(&switch, "1\n") {
            Ok(()) => {}
            // A kernel without it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", switch.display()));
            }
        }
    }
    Ok(())
}

/// Has names resolved by the gateway. Whatever else the image asks does not answer.
fn name_resolver(etc: &Path) -> anyhow::Result<()> {
    let path = etc.join("resolv.conf");
    // A link leads to a file of a service that does not run here, or nowhere.
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    fs::create_dir_all(etc)
        .and_then(|()| fs::write(&path, format!("nameserver {GATEWAY_ADDRESS}\n")))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_are_resolved_by_the_gateway_whatever_the_image_asked() {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("resolv.conf");
        let resolver = || {
            name_resolver(etc.path()).unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            fs::read_to_string(&path).unwrap()
        };
        assert_eq!(resolver(), "nameserver 10.107.0.1\n");
        fs::write(&path, "search example.org\nnameserver 192.0.2.1\nnameserver ::1\n").unwrap();
        assert_eq!(resolver(), "nameserver 10.107.0.1\n");
        let elsewhere = etc.path().join("elsewhere");
        for there in [false, true] {
            fs::remove_file(&path).unwrap();
            symlink(&elsewhere, &path).unwrap();
            if there {
                fs::write(&elsewhere, "nameserver 127.0.0.53\n").unwrap();
            }
            assert_eq!(resolver(), "nameserver 10.107.0.1\n");
        }
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn ipv6_is_switched_off_where_there_is_a_switch() {
        let switches = tempfile::tempdir().unwrap();
        switch_ipv6_off(switches.path()).unwrap();
        for of in ["all", "default", "eth0"] {
            fs::create_dir(switches.path().join(of)).unwrap();
            fs::write(switches.path().join(of).join("disable_ipv6"), "0\n").unwrap();
        }
        switch_ipv6_off(switches.path()).unwrap();
        for of in ["all", "default", "eth0"] {
            let switch = switches.path().join(of).join("disable_ipv6");
            assert_eq!(fs::read_to_string(switch).unwrap(), "1\n");
        }
    }
}
