//! `ioctl` requests allowed, with who needs them and for what.

use kvm_bindings as kvm;

use super::Threads;

/// A request some threads may make, of whatever descriptor: a number means something to one kind
/// of file only.
#[derive(Debug)]
pub(super) struct Ioctl {
    pub(super) name: &'static str,
    pub(super) request: u32,
    pub(super) threads: Threads,
    /// Who needs it.
    pub(super) why: &'static str,
}

const fn ioctl(threads: Threads, request: u32, name: &'static str, why: &'static str) -> Ioctl {
    Ioctl { name, request, threads, why }
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// Request `number` of the driver `family`, whose argument has `size` bytes.
const fn request(direction: u32, family: u8, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | ((family as u32) << 8) | number
}

const KVM: u8 = 0xae;

/// No argument, or a number.
const fn io(number: u32) -> u32 {
    request(NONE, KVM, number, 0)
}
/// The kernel reads a `T`.
const fn iow<T>(number: u32) -> u32 {
    request(WRITE, KVM, number, size_of::<T>())
}
/// The kernel writes a `T`.
const fn ior<T>(number: u32) -> u32 {
    request(READ, KVM, number, size_of::<T>())
}
/// The kernel does both.
const fn iowr<T>(number: u32) -> u32 {
    request(READ | WRITE, KVM, number, size_of::<T>())
}

const UFFD: u8 = 0xaa;
/// `struct uffdio_range`.
const UFFDIO_RANGE_BYTES: usize = 16;
/// `struct uffdio_api`.
const UFFDIO_API_BYTES: usize = 24;
/// `struct uffdio_register`, `uffdio_continue`, `uffdio_zeropage`.
const UFFDIO_RANGE_MODE_RESULT_BYTES: usize = 32;
/// `struct uffdio_copy`.
const UFFDIO_COPY_BYTES: usize = 40;
/// `struct kvm_pre_fault_memory`.
const KVM_PRE_FAULT_MEMORY_BYTES: usize = 64;
/// `struct pm_scan_arg`.
const PM_SCAN_ARG_BYTES: usize = 96;

use Threads as T;

const SETUP: Threads = T::CONTROL;
const MAIN: Threads = T::SEALED;
const MEMORY: Threads = T::CONTROL.and(T::FAULT);

#[rustfmt::skip] // A table reads by column.
pub(super) const IOCTLS: &[Ioctl] = &[
    // First what happens most often, as a filter looks from top to bottom.
    ioctl(T::VCPU, io(0x80), "KVM_RUN", "the guest"),

    // Memory.
    ioctl(MEMORY, request(READ | WRITE, UFFD, 0x03, UFFDIO_COPY_BYTES), "UFFDIO_COPY", "a page comes from a layer; prefetch"),
    ioctl(MEMORY, request(READ | WRITE, UFFD, 0x04, UFFDIO_RANGE_MODE_RESULT_BYTES), "UFFDIO_ZEROPAGE", "a page of zeros; prefetch"),
    ioctl(MEMORY, request(READ | WRITE, UFFD, 0x07, UFFDIO_RANGE_MODE_RESULT_BYTES), "UFFDIO_CONTINUE", "a page of the template is mapped; prefetch"),
    ioctl(SETUP, request(READ | WRITE, UFFD, 0x3f, UFFDIO_API_BYTES), "UFFDIO_API", "restore with a fault handler"),
    ioctl(SETUP, request(READ | WRITE, UFFD, 0x00, UFFDIO_RANGE_MODE_RESULT_BYTES), "UFFDIO_REGISTER", "restore with a fault handler"),
    ioctl(MAIN.and(T::FAULT), request(READ, UFFD, 0x02, UFFDIO_RANGE_BYTES), "UFFDIO_WAKE", "a fault is over"),
    ioctl(SETUP, request(READ | WRITE, KVM, 0xd5, KVM_PRE_FAULT_MEMORY_BYTES), "KVM_PRE_FAULT_MEMORY", "the working set is prefetched"),
    ioctl(MAIN, request(READ | WRITE, b'f', 0x10, PM_SCAN_ARG_BYTES), "PAGEMAP_SCAN", "which pages the guest changed"),

    // Building a machine: what may no longer happen once a guest runs.
    ioctl(SETUP, io(0x01), "KVM_CREATE_VM", "a shell is built"),
    ioctl(SETUP, io(0x03), "KVM_CHECK_EXTENSION", "what this host can do"),
    ioctl(SETUP, io(0x04), "KVM_GET_VCPU_MMAP_SIZE", "a vCPU's shared page is mapped"),
    ioctl(MAIN, iowr::<kvm::kvm_msr_list>(0x02), "KVM_GET_MSR_INDEX_LIST", "which registers a snapshot has"),
    ioctl(SETUP, iowr::<kvm::kvm_cpuid2>(0x05), "KVM_GET_SUPPORTED_CPUID", "the processor a template is made for"),
    ioctl(SETUP, io(0x41), "KVM_CREATE_VCPU", "a shell is built"),
    ioctl(SETUP, iow::<kvm::kvm_userspace_memory_region>(0x46), "KVM_SET_USER_MEMORY_REGION", "a shell is built"),
    ioctl(SETUP, io(0x47), "KVM_SET_TSS_ADDR", "a shell is built"),
    ioctl(SETUP, io(0x60), "KVM_CREATE_IRQCHIP", "a shell is built"),
    ioctl(SETUP, iow::<kvm::kvm_pit_config>(0x77), "KVM_CREATE_PIT2", "a shell is built"),
    ioctl(SETUP, iow::<kvm::kvm_irqfd>(0x76), "KVM_IRQFD", "devices get their interrupts"),
    ioctl(SETUP, iow::<kvm::kvm_ioeventfd>(0x79), "KVM_IOEVENTFD", "devices get their notifications"),

    // Restoring: state goes in before the guest runs, from the control thread: vCPUs are parked.
    ioctl(SETUP, iow::<kvm::kvm_cpuid2>(0x90), "KVM_SET_CPUID2", "boot and restore"),
    ioctl(SETUP, iow::<kvm::kvm_mp_state>(0x99), "KVM_SET_MP_STATE", "restore"),
    ioctl(SETUP, iow::<kvm::kvm_regs>(0x82), "KVM_SET_REGS", "boot and restore"),
    ioctl(SETUP, iow::<kvm::kvm_sregs>(0x84), "KVM_SET_SREGS", "boot and restore"),
    ioctl(SETUP, iow::<kvm::kvm_fpu>(0x8d), "KVM_SET_FPU", "boot"),
    ioctl(SETUP, iow::<kvm::kvm_xsave>(0xa5), "KVM_SET_XSAVE", "restore"),
    ioctl(SETUP, iow::<kvm::kvm_xcrs>(0xa7), "KVM_SET_XCRS", "restore"),
    ioctl(SETUP, iow::<kvm::kvm_debugregs>(0xa2), "KVM_SET_DEBUGREGS", "restore"),
    ioctl(SETUP, iow::<kvm::kvm_lapic_state>(0x8f), "KVM_SET_LAPIC", "boot and restore"),
    ioctl(SETUP, iow::<kvm::kvm_msrs>(0x89), "KVM_SET_MSRS", "boot and restore"),
    ioctl(SETUP, iow::<kvm::kvm_vcpu_events>(0xa0), "KVM_SET_VCPU_EVENTS", "restore"),
    ioctl(SETUP, io(0xa2), "KVM_SET_TSC_KHZ", "restore on a host of another frequency"),
    ioctl(SETUP, iow::<kvm::kvm_pit_state2>(0xa0), "KVM_SET_PIT2", "restore"),
    ioctl(SETUP, ior::<kvm::kvm_irqchip>(0x63), "KVM_SET_IRQCHIP", "restore"),

    // Pausing and resuming.
    ioctl(MAIN, io(0xad), "KVM_KVMCLOCK_CTRL", "a guest that was paused is told so"),
    ioctl(MAIN, iow::<kvm::kvm_clock_data>(0x7b), "KVM_SET_CLOCK", "restore, and resume after a pause"),

    // Saving.
    ioctl(MAIN, ior::<kvm::kvm_mp_state>(0x98), "KVM_GET_MP_STATE", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_regs>(0x81), "KVM_GET_REGS", "snapshot, and what a guest was doing when KVM gave up"),
    ioctl(MAIN, ior::<kvm::kvm_sregs>(0x83), "KVM_GET_SREGS", "boot and snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_xsave>(0xa4), "KVM_GET_XSAVE", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_xsave>(0xcf), "KVM_GET_XSAVE2", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_xcrs>(0xa6), "KVM_GET_XCRS", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_debugregs>(0xa1), "KVM_GET_DEBUGREGS", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_lapic_state>(0x8e), "KVM_GET_LAPIC", "boot and snapshot"),
    ioctl(MAIN, io(0xa3), "KVM_GET_TSC_KHZ", "snapshot, and restore on a host of another frequency"),
    ioctl(MAIN, iowr::<kvm::kvm_cpuid2>(0x91), "KVM_GET_CPUID2", "snapshot"),
    ioctl(MAIN, iowr::<kvm::kvm_msrs>(0x88), "KVM_GET_MSRS", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_vcpu_events>(0x9f), "KVM_GET_VCPU_EVENTS", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_pit_state2>(0x9f), "KVM_GET_PIT2", "snapshot"),
    ioctl(MAIN, iowr::<kvm::kvm_irqchip>(0x62), "KVM_GET_IRQCHIP", "snapshot"),
    ioctl(MAIN, ior::<kvm::kvm_clock_data>(0x7c), "KVM_GET_CLOCK", "snapshot and pause"),

    // Streams.
    ioctl(MAIN, 0x5421, "FIONBIO", "streams passed in become non-blocking"),
];
