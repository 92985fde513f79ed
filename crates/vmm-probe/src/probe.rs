//! Does KVM run Linux here?

use crate::create::create_vm;
use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::flat::GuestMemory;
use crate::guest::{self, Stage};

const DEVICE: &CStr = c"/dev/kvm";

/// LIMIT: the guest is a hundred instructions: microseconds on a processor, milliseconds in an
/// emulator. The rest is for machines with better things to do.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Where KVM on Intel keeps three pages of its own: below the firmware, where no guest has memory.
pub(crate) const TSS_ADDRESS: usize = 0xfffb_d000;

/// What the VMM cannot do without.
const CAPABILITIES: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// The answer, as `sandflare-vmm probe --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether machines can run here.
    pub usable: bool,
    /// Which of the cases it is.
    pub kind: Kind,
    /// What was found, in one sentence.
    pub reason: String,
    /// What to do about it, in one sentence. Empty when there is nothing to do.
    pub hint: String,
    /// How long it took to find out, in microseconds.
    pub took_us: u64,
}

/// The cases a user is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// There is no `/dev/kvm`, or nothing behind it.
    NoDevice,
    /// There is one, for others.
    NoPermission,
    /// KVM is there but does not run what a Linux kernel consists of.
    CannotRunLinux,
    /// All is well.
    Good,
}

/// What stands between this machine and a guest.
struct Obstacle {
    kind: Kind,
    reason: String,
}

impl Obstacle {
    fn cannot_run(reason: impl Into<String>) -> Self {
        Self { kind: Kind::CannotRunLinux, reason: reason.into() }
    }
}

/// Opens `/dev/kvm` and runs a tiny guest that does what every Linux kernel does.
///
/// Takes milliseconds, or five seconds if the guest hangs. Uses the last real-time signal.
pub fn probe() -> Verdict {
    let start = Instant::now();
    let outcome = open(DEVICE).and_then(|kvm| run_guest(&kvm));
    let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (kind, reason) = match outcome {
        Ok(()) => (Kind::Good, "KVM ran 64-bit kernel code to its end".to_owned()),
        Err(Obstacle { kind, reason }) => (kind, reason),
    };
    Verdict { usable: kind == Kind::Good, kind, reason, hint: hint(kind).to_owned(), took_us }
}

fn hint(kind: Kind) -> &'static str {
    match kind {
        Kind::NoDevice => {
            "enable virtualization in the firmware and load kvm_intel or kvm_amd, or let \
             `sandflare up` start the portable host, which needs qemu-system-x86_64 only"
        }
        Kind::NoPermission => {
            "run as root, or add this user to the group that owns /dev/kvm and log in again"
        }
        Kind::CannotRunLinux => {
            "use a host with hardware virtualization, or let `sandflare up` start the portable \
             host, which needs qemu-system-x86_64 only"
        }
        Kind::Good => "",
    }
}

fn open(device: &CStr) -> Result<Kvm, Obstacle> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, device, flags, Mode::empty()) {
        Ok(fd) => Ok(adopt(fd)),
        Err(error) => Err(cannot_open(device, error)),
    }
}

#[expect(unsafe_code, reason = "Kvm takes over descriptors by number only")]
fn adopt(fd: rustix::fd::OwnedFd) -> Kvm {
    // SAFETY: the number comes from its only owner, who gives it up with it.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

fn cannot_open(device: &CStr, error: Errno) -> Obstacle {
    let device = device.to_string_lossy();
    let cause = io::Error::from(error);
    let (kind, reason) = match error {
        Errno::NOENT => (Kind::NoDevice, format!("there is no {device}")),
        Errno::NODEV | Errno::NXIO => {
            (Kind::NoDevice, format!("{device} has no driver behind it: {cause}"))
        }
        Errno::ACCESS | Errno::PERM => {
            (Kind::NoPermission, format!("this user may not open {device}: {cause}"))
        }
        _ => (Kind::CannotRunLinux, format!("{device} cannot be opened: {cause}")),
    };
    Obstacle { kind, reason }
}

fn run_guest(kvm: &Kvm) -> Result<(), Obstacle> {
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(Obstacle::cannot_run(format!(
            "/dev/kvm speaks version {version} of its interface, not {KVM_API_VERSION}"
        )));
    }
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|&&(cap, _)| !kvm.check_extension(cap))
        .map(|&(_, name)| name)
        .collect();
    if !missing.is_empty() {
        return Err(Obstacle::cannot_run(format!("KVM lacks {}", missing.join(", "))));
    }

    let memory = GuestMemory::anonymous(guest::MEMORY_BYTES)
        .map_err(|error| Obstacle::cannot_run(format!("no memory for a test guest: {error}")))?;
    guest::load(&memory);
    let (_vm, mut vcpu) = build(kvm, &memory)
        .map_err(|(call, error)| Obstacle::cannot_run(format!("{call} failed: {error}")))?;
    let _alarm = Alarm::start()
        .map_err(|error| Obstacle::cannot_run(format!("no timer for a test guest: {error}")))?;
    let ending = run(&mut vcpu);
    match (ending, guest::stage(&memory)) {
        (Ending::Halt, Stage::Done) => Ok(()),
        (Ending::Halt, stage) => {
            Err(Obstacle::cannot_run(format!("a test guest halted {}", stage.describe())))
        }
        (Ending::Other(ending), stage) => Err(Obstacle::cannot_run(format!(
            "a test guest stopped {}: {ending}",
            stage.describe()
        ))),
    }
}

/// Which request failed, and how.
type Failed = (&'static str, kvm_ioctls::Error);

fn build(kvm: &Kvm, memory: &GuestMemory) -> Result<(VmFd, VcpuFd), Failed> {
    let failed = |call| move |error| (call, error);
    let vm = create_vm(kvm).map_err(failed("KVM_CREATE_VM"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(failed("KVM_SET_TSS_ADDR"))?;
    memory.give_to(&vm).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
    start_in_protected_mode(&vcpu)?;
    Ok((vm, vcpu))
}

/// 32-bit protected mode, flat segments, no paging: what a bootloader hands to a kernel.
fn start_in_protected_mode(vcpu: &VcpuFd) -> Result<(), Failed> {
    let failed = |call| move |error| (call, error);
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let flat = |selector: u16, type_: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    const EXECUTE_READ_ACCESSED: u8 = 0xb;
    const READ_WRITE_ACCESSED: u8 = 0x3;
    sregs.cs = flat(guest::CODE32, EXECUTE_READ_ACCESSED);
    let data = flat(guest::DATA, READ_WRITE_ACCESSED);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt.base = guest::GDT_BASE;
    sregs.gdt.limit = guest::GDT_LIMIT;
    const PE_ET_NE: u64 = 0x31;
    sregs.cr0 = PE_ET_NE;
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    const ALWAYS_SET: u64 = 0x2;
    let regs = kvm_regs { rip: guest::ENTRY, rflags: ALWAYS_SET, ..Default::default() };
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))
}

/// How a run of the guest ended.
enum Ending {
    Halt,
    Other(String),
}

fn run(vcpu: &mut VcpuFd) -> Ending {
    let start = Instant::now();
    loop {
        let ending = match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ending::Halt,
            Ok(VcpuExit::InternalError) => {
                let suberror = internal_suberror(vcpu);
                let meaning = match suberror {
                    1 => ", it met an instruction it cannot emulate",
                    _ => "",
                };
                format!("KVM internal error, suberror {suberror}{meaning}")
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                format!("the processor refused to enter it, hardware reason {reason:#x}")
            }
            Ok(VcpuExit::Shutdown) => "it took an exception it has no handler for".to_owned(),
            Ok(VcpuExit::Intr) => String::new(),
            Ok(other) => format!("unexpected KVM exit {other:?}"),
            Err(error) if error.errno() == libc::EINTR => String::new(),
            Err(error) => format!("KVM_RUN failed: {error}"),
        };
        if !ending.is_empty() {
            return Ending::Other(ending);
        }
        if start.elapsed() >= TIME_LIMIT {
            return Ending::Other(format!("it was not done after {} s", TIME_LIMIT.as_secs()));
        }
    }
}

#[expect(unsafe_code, reason = "the reason of an exit is a C union")]
fn internal_suberror(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: any bits make a number, and the exit was an internal error, for which the kernel
    // fills in this member.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}

#[cfg(test)]
mod test {
    use super::*;

    #[track_caller]
    fn check(error: Errno, kind: Kind) {
        let obstacle = cannot_open(DEVICE, error);
        assert_eq!(obstacle.kind, kind);
        assert!(obstacle.reason.contains("/dev/kvm"), "{}", obstacle.reason);
    }

    #[test]
    fn what_opening_says_tells_a_missing_device_from_a_forbidden_one() {
        check(Errno::NOENT, Kind::NoDevice);
        check(Errno::NODEV, Kind::NoDevice);
        check(Errno::NXIO, Kind::NoDevice);
        check(Errno::ACCESS, Kind::NoPermission);
        check(Errno::PERM, Kind::NoPermission);
        check(Errno::BUSY, Kind::CannotRunLinux);
    }

    #[test]
    fn a_device_that_is_no_kvm_is_not_usable() {
        let kvm = open(c"/dev/null").ok().unwrap();
        let obstacle = run_guest(&kvm).unwrap_err();
        assert_eq!(obstacle.kind, Kind::CannotRunLinux);
    }

    #[test]
    fn every_kind_but_the_good_one_says_what_to_do() {
        for kind in [Kind::NoDevice, Kind::NoPermission, Kind::CannotRunLinux] {
            assert!(!hint(kind).is_empty(), "{kind:?}");
        }
        assert_eq!(hint(Kind::Good), "");
    }
}
