//! What a hijacked process can see of itself and the world.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{
    Pid, Resource, chdir, chroot, dumpable_behavior, getegid, geteuid, getgid, getgroups, getpid,
    getppid, getrlimit, getuid, test_kill_process,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set,
    capability_is_in_bounding_set, no_new_privs,
};

use crate::raw;

/// The value of the variable the test sets, which must not be found afterwards.
const SECRET: &str = "the node's secret";

/// Where in memory the secret is.
pub(crate) fn find_secret() -> *const u8 {
    let value = raw::environment_value(c"SECRET").unwrap();
    assert_eq!(raw::peek(value, SECRET.len()), SECRET.as_bytes());
    value
}

/// Moves to a root that cannot be pivoted away from, for the kernel refuses it below a shared mount.
pub(crate) fn live_below_a_shared_mount() {
    raw::try_call(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize]).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    // In a file system of this namespace, so that there is nothing to clean up.
    mount("none", "/mnt", "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change("/mnt", MountPropagationFlags::SHARED).unwrap();
    fs::create_dir("/mnt/root").unwrap();
    mount("none", "/mnt/root", "tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir("/mnt/root/proc").unwrap();
    mount_bind("/proc", "/mnt/root/proc").unwrap();
    chroot("/mnt/root").unwrap();
    chdir("/").unwrap();
}

pub(crate) fn print(secret: *const u8, kept: &[&File], userfaultfd: &OwnedFd) {
    let (uid, euid, gid, egid) = (getuid(), geteuid(), getgid(), getegid());
    let same = uid == euid && gid == egid && uid.as_raw() == gid.as_raw() && !uid.is_root();
    println!("one user and group, not root: {same}");
    println!("other groups: {}", getgroups().unwrap().len());
    println!("process {}, parent {:?}", getpid().as_raw_nonzero(), getppid());
    let others = (2..=4096).filter_map(Pid::from_raw).filter(|&pid| test_kill_process(pid).is_ok());
    println!("other processes: {}", others.count());

    let CapabilitySets { effective, permitted, inheritable } = capabilities(None).unwrap();
    println!("capabilities: {}", (effective | permitted | inheritable).bits().count_ones());
    let in_set = |is_in: fn(CapabilitySet) -> rustix::io::Result<bool>| {
        (0..64).filter(|bit| is_in(CapabilitySet::from_bits_retain(1 << bit)) == Ok(true)).count()
    };
    println!("bounding capabilities: {}", in_set(capability_is_in_bounding_set));
    println!("ambient capabilities: {}", in_set(capability_is_in_ambient_set));
    println!("no_new_privs: {}", no_new_privs().unwrap());
    println!("dumpable: {:?}", dumpable_behavior().unwrap());

    println!("environment variables: {}", std::env::vars_os().count());
    let secret = raw::peek(secret, SECRET.len());
    println!("secret of the environment in memory: {}", secret.iter().any(|&byte| byte != 0));

    let mut known: BTreeSet<RawFd> = kept.iter().map(|file| file.as_raw_fd()).collect();
    known.extend([0, 1, 2, userfaultfd.as_raw_fd()]);
    let is_open =
        |fd: &RawFd| raw::call(libc::SYS_fcntl, &[*fd as usize, libc::F_GETFD as usize]).is_ok();
    let open: BTreeSet<RawFd> = (0..4096).filter(is_open).collect();
    println!("descriptors missing: {:?}", known.difference(&open).collect::<Vec<_>>());
    println!("descriptors too many: {:?}", open.difference(&known).collect::<Vec<_>>());

    let names = rustix::system::uname();
    println!("host name: {:?}, domain {:?}", names.nodename(), names.domainname());
    println!("working directory: {:?}", std::env::current_dir().unwrap());
    for directory in ["/", "/..", "../../../.."] {
        println!("entries of {directory}: {}", entries(Path::new(directory)));
    }
    println!("network interfaces: {:?}", interfaces());

    for (name, resource) in [
        ("open files", Resource::Nofile),
        ("file bytes", Resource::Fsize),
        ("threads", Resource::Nproc),
        ("pending signals", Resource::Sigpending),
        ("core bytes", Resource::Core),
        ("locked bytes", Resource::Memlock),
        ("message queue bytes", Resource::Msgqueue),
        ("real-time priority", Resource::Rtprio),
    ] {
        let limit = getrlimit(resource);
        assert_eq!(limit.current, limit.maximum);
        println!(
            "limit of {name}: {}",
            limit.maximum.map_or("none".to_owned(), |most| most.to_string())
        );
    }

    // Opened by root, the page map would show physical addresses.
    let mut frames = [0_u8; 8];
    let stack_page = (&raw const frames).addr() / 4096;
    let pagemap = kept[1];
    std::os::unix::fs::FileExt::read_exact_at(pagemap, &mut frames, stack_page as u64 * 8).unwrap();
    let entry = u64::from_le_bytes(frames);
    println!("its own page map says present: {}", entry >> 63 == 1);
    println!("physical addresses in it: {}", entry & ((1 << 55) - 1) != 0);
    let mut smaps = String::new();
    (&mut &*kept[2]).read_to_string(&mut smaps).unwrap();
    println!("its own memory use is readable: {}", smaps.contains("Private_Dirty:"));
}

fn entries(directory: &Path) -> String {
    match fs::read_dir(directory) {
        Ok(entries) => entries.count().to_string(),
        Err(error) => error.to_string(),
    }
}

/// Names of the interfaces there are, by their first sixteen numbers.
fn interfaces() -> Vec<String> {
    /// `struct ifreq`: a name, and room for what is asked about it.
    #[repr(C, align(8))]
    struct Request {
        name: [u8; 16],
        index: u32,
        room: [u8; 20],
    }
    let datagram = libc::SOCK_DGRAM as usize;
    let socket = raw::call(libc::SYS_socket, &[libc::AF_INET as usize, datagram, 0]).unwrap();
    (0..16)
        .filter_map(|index| {
            let request =
                std::cell::UnsafeCell::new(Request { name: [0; 16], index, room: [0; 20] });
            let argument = request.get().addr();
            raw::call(libc::SYS_ioctl, &[socket, libc::SIOCGIFNAME as usize, argument]).ok()?;
            let name = request.into_inner().name;
            Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
        })
        .collect()
}
