//! What a machine needs of KVM: processor features, and the whole register state to save and set.

mod cpuid;
mod msrs;
mod vcpu_state;
mod vm_state;

pub(crate) use cpuid::{for_vcpu as cpuid_for_vcpu, machine_tag, template as cpuid_template};
pub(crate) use msrs::saved_indices;
pub(crate) use vcpu_state::VcpuState;
pub(crate) use vm_state::VmState;

/// Why KVM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// An ioctl failed.
    #[error("{call}")]
    Ioctl {
        /// Its name.
        call: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// An MSR the snapshot holds was refused.
    #[error(
        "this host refuses MSR {index:#x} of the snapshot; it was taken on another kind of processor or kernel"
    )]
    MsrRefused {
        /// The register.
        index: u32,
    },
    /// An MSR that should be saved cannot be read.
    #[error("KVM_GET_MSRS stopped at MSR {index:#x}")]
    MsrUnreadable {
        /// The register.
        index: u32,
    },
    /// More entries than KVM takes.
    #[error("too many {0} for KVM")]
    TooMany(&'static str),
    /// The saved XSAVE area has another size than this host's.
    #[error("the snapshot's XSAVE area has {found} bytes, this host's has {wanted}")]
    XsaveSize {
        /// In the snapshot.
        found: usize,
        /// Of this host.
        wanted: usize,
    },
    /// A register block in the snapshot does not decode.
    #[error("the snapshot's {0} does not decode")]
    Malformed(&'static str),
    /// Guest memory is too small for boot structures.
    #[error("write to guest memory")]
    GuestMemory(#[source] vm_memory::GuestMemoryError),
}

impl KvmError {
    /// Adapts an errno for `map_err`.
    pub(crate) fn ioctl(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |source| Self::Ioctl { call, source }
    }
}
