use kvm_ioctls::{Error, Kvm, VmFd};

/// LIMIT: the kernel starts a thread for each VM and gives up when a signal comes just then; the
/// next try succeeds unless signals never end.
const TRIES: usize = 16;

/// A new VM, tried again when a signal came in between.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    for _ in 1..TRIES {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            done => return done,
        }
    }
    kvm.create_vm()
}
