//! The descriptors a node leaves open in a VMM process, at the numbers `api-vmm` agrees on.

#![expect(unsafe_code, reason = "inherited descriptors are known by number only")]

use std::os::fd::{FromRawFd, OwnedFd};

use api_vmm::{CGROUP_FD, CONTROL_FD, KVM_FD};

/// What the node passed.
#[derive(Debug)]
pub struct Inherited {
    /// Connected `SOCK_SEQPACKET` socket to the node.
    pub control: OwnedFd,
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// `cgroup.procs` of the sandbox's cgroup, or `/dev/null`.
    pub cgroup_procs: OwnedFd,
}

impl Inherited {
    /// Takes the descriptors. `None` if one of them is not open: the process was not started by a
    /// node. Call once, before anything else opens a file.
    pub fn take() -> Option<Self> {
        Some(Self {
            control: owned(CONTROL_FD)?,
            kvm: owned(KVM_FD)?,
            cgroup_procs: owned(CGROUP_FD)?,
        })
    }
}

fn owned(number: i32) -> Option<OwnedFd> {
    // SAFETY: a query about a number; nothing is touched whether it is open or not.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // SAFETY: open (just asked), and ours by agreement with the node: nothing in this process has
    // opened a file yet.
    (flags >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}
