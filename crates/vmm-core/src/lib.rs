//! One microVM: building it, running it, writing it to files and continuing it from them.
//!
//! This crate is the inside of a `sandflare-vmm` process. It never opens a path: everything it
//! needs arrives as file descriptors over the control socket, because the process is jailed in an
//! empty root before it is told anything. There is no async runtime: one thread runs the control
//! loop and the devices, one serves page faults, and each vCPU has its own.
//!
//! Called by the `vmm` binary. A guest is hostile from its first instruction, and so is a snapshot
//! file; the node is trusted, its packets are checked all the same.

mod boot;
mod bus;
mod control;
mod devices;
#[cfg(test)]
mod flat_guest;
mod inherited;
mod kvm;
mod layout;
mod line;
mod machine;
mod memory;
mod packet;
mod phase;
mod prime;
mod record;
mod serial;
mod shell;
mod snapshot;
mod vcpu;

pub use boot::BootError;
pub use control::{Inputs, RunError, run};
pub use devices::DeviceError;
pub use inherited::Inherited;
pub use kvm::KvmError;
pub use machine::MachineError;
pub use memory::MemoryError;
pub use packet::ControlError;
pub use shell::ShellError;
pub use snapshot::StateError;
