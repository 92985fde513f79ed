//! The walls around one `sandflare-vmm` process.
//!
//! A guest that breaks out of KVM finds itself in a process that owns nothing: [`enter`] leaves it
//! with an unprivileged uid, empty namespaces, an empty read-only root and no capability, and
//! [`install`] with the few system calls its thread needs. Everything the process works on arrives
//! as file descriptors; it can open nothing itself.
//!
//! This crate is not a general sandboxing library. It is called by the VMM binary only, in this
//! order: [`enter`] first thing in `main`, before any thread exists; [`install`] with
//! [`Thread::Control`] before the first control message is read; [`install`] with
//! [`Thread::Vcpu`] or [`Thread::Fault`] first thing in each thread of that kind; [`install`] with
//! [`Thread::Sealed`] on the control thread before the guest's first instruction.

#![warn(missing_docs)]

mod enter;
mod inherited;
mod kernel_files;
mod limits;
mod privileges;
mod root;
mod seccomp;

pub use enter::{JailError, JailSpec, Jailed, enter};
pub use kernel_files::{KernelFiles, KernelFilesError, open_kernel_files};
pub use limits::Limits;
pub use seccomp::{FilterError, Thread, describe, install};
