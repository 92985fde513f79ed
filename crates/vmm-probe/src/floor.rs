//! How fast KVM can be here: the least any VMM must do to get a guest to run.

use crate::create::create_vm;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::pwrite;
use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::flat::GuestMemory;
use crate::probe::TSS_ADDRESS;

/// LIMIT: percentiles of more runs do not change, and each run takes milliseconds.
const RUNS_MAX: u32 = 10_000;
/// LIMIT: the largest machine there is.
const MEMORY_MIB_MAX: u32 = 65_536;
/// LIMIT: see the probe: two instructions take no time.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Where the guest's code is, and its real-mode instruction pointer.
const ENTRY: u64 = 0x1000;
/// `out 0x80, al` tells us that it ran; then it halts. With KVM's own interrupt controller a halt
/// alone is not reported: KVM waits for an interrupt.
const CODE: [u8; 3] = [0xe6, 0x80, 0xf4];
const REPORT_PORT: u16 = 0x80;

/// What each run spends its time on, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// `KVM_CREATE_VM`.
    CreateVm,
    /// `KVM_CREATE_IRQCHIP`.
    Irqchip,
    /// `KVM_CREATE_PIT2`.
    Pit,
    /// A private mapping of a memfd, given to the guest.
    Memory,
    /// `KVM_CREATE_VCPU` and the mapping of its shared page.
    Vcpu,
    /// `KVM_SET_SREGS`, `KVM_SET_REGS`.
    State,
    /// `KVM_RUN` until the guest reports.
    Run,
}

const PHASES: [Phase; 7] = [
    Phase::CreateVm,
    Phase::Irqchip,
    Phase::Pit,
    Phase::Memory,
    Phase::Vcpu,
    Phase::State,
    Phase::Run,
];

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Fastest.
    pub min_us: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile, by nearest rank: the slowest of less than 100 runs.
    pub p99_us: u64,
}

/// One phase's distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpread {
    /// Which.
    pub phase: Phase,
    /// Its times.
    #[serde(flatten)]
    pub spread: Spread,
}

/// The floor, as `sandflare-vmm floor --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorReport {
    /// How many times it was measured.
    pub runs: u32,
    /// Guest memory of each, in MiB.
    pub memory_mib: u32,
    /// From nothing to code that ran. Taking down is not in it.
    pub total: Spread,
    /// What it consists of.
    pub phases: Vec<PhaseSpread>,
}

/// Why there is no floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// Not 1 to [`RUNS_MAX`].
    #[error("cannot measure {0} runs, only 1 to {RUNS_MAX}")]
    Runs(u32),
    /// Not 1 to [`MEMORY_MIB_MAX`].
    #[error("cannot measure a machine of {0} MiB, only 1 to {MEMORY_MIB_MAX}")]
    Memory(u32),
    /// Making or mapping the guest's memory failed.
    #[error("cannot prepare guest memory")]
    Prepare(#[source] io::Error),
    /// A request to KVM failed.
    #[error("{call} failed; `sandflare-vmm probe` tells whether KVM is usable")]
    Kvm {
        /// Which.
        call: &'static str,
        /// How.
        source: kvm_ioctls::Error,
    },
    /// The guest did something else than report.
    #[error("the test guest ended in {0}; `sandflare-vmm probe` tells whether KVM is usable")]
    Guest(String),
}

/// Builds a VM with interrupt controllers, timer, one memory slot over a private mapping of a memfd
/// of `memory_mib` MiB (two above 3 GiB) and one vCPU, and runs its first instruction; `runs` times.
/// Uses the last real-time signal.
pub fn floor(runs: u32, memory_mib: u32) -> Result<FloorReport, FloorError> {
    if !(1..=RUNS_MAX).contains(&runs) {
        return Err(FloorError::Runs(runs));
    }
    if !(1..=MEMORY_MIB_MAX).contains(&memory_mib) {
        return Err(FloorError::Memory(memory_mib));
    }
    let bytes = (memory_mib as usize) << 20;
    let template = template(bytes).map_err(FloorError::Prepare)?;
    let kvm = Kvm::new().map_err(kvm_failed("opening /dev/kvm"))?;
    let _alarm = Alarm::start().map_err(FloorError::Prepare)?;

    let measured =
        (0..runs).map(|_| run_once(&kvm, &template, bytes)).collect::<Result<Vec<_>, _>>()?;
    let total = spread(measured.iter().map(|times| times.iter().sum()).collect());
    let phases = PHASES
        .iter()
        .enumerate()
        .map(|(index, &phase)| PhaseSpread {
            phase,
            spread: spread(measured.iter().map(|times| times[index]).collect()),
        })
        .collect();
    Ok(FloorReport { runs, memory_mib, total, phases })
}

fn kvm_failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> FloorError {
    move |source| FloorError::Kvm { call, source }
}

/// A memfd with the guest's code in it, as a template's memory would be.
fn template(bytes: usize) -> io::Result<OwnedFd> {
    let file = memfd_create("floor", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, bytes as u64)?;
    pwrite(&file, &CODE, ENTRY)?;
    Ok(file)
}

/// Times of all phases of one run, in the order of [`PHASES`].
fn run_once(
    kvm: &Kvm,
    template: &OwnedFd,
    bytes: usize,
) -> Result<[Duration; PHASES.len()], FloorError> {
    let mut times = [Duration::ZERO; PHASES.len()];
    let mut slots = times.iter_mut();
    let mut last = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        if let Some(slot) = slots.next() {
            *slot = now - last;
        }
        last = now;
    };

    let vm = create_vm(kvm).map_err(kvm_failed("KVM_CREATE_VM"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(kvm_failed("KVM_SET_TSS_ADDR"))?;
    lap();
    vm.create_irq_chip().map_err(kvm_failed("KVM_CREATE_IRQCHIP"))?;
    lap();
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(kvm_failed("KVM_CREATE_PIT2"))?;
    lap();
    // Declared before the vCPU, so dropped after it.
    let memory = GuestMemory::private(template, bytes).map_err(FloorError::Prepare)?;
    memory.give_to(&vm).map_err(kvm_failed("KVM_SET_USER_MEMORY_REGION"))?;
    lap();
    let mut vcpu = vm.create_vcpu(0).map_err(kvm_failed("KVM_CREATE_VCPU"))?;
    lap();
    let mut sregs = vcpu.get_sregs().map_err(kvm_failed("KVM_GET_SREGS"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).map_err(kvm_failed("KVM_SET_SREGS"))?;
    let regs = kvm_regs { rip: ENTRY, rflags: 0x2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(kvm_failed("KVM_SET_REGS"))?;
    lap();
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(REPORT_PORT, _)) => break,
            Ok(VcpuExit::Intr) => {}
            Ok(other) => return Err(FloorError::Guest(format!("{other:?}"))),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(source) => return Err(FloorError::Kvm { call: "KVM_RUN", source }),
        }
        if Instant::now() >= deadline {
            return Err(FloorError::Guest("no report in time".to_owned()));
        }
    }
    lap();
    Ok(times)
}

/// The distribution of `times`, of which there is at least one.
fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    // Nearest rank: the smallest time that at least that many percent are not above.
    let percentile = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        u64::try_from(times[rank - 1].as_micros()).unwrap_or(u64::MAX)
    };
    Spread { min_us: percentile(0), p50_us: percentile(50), p99_us: percentile(99) }
}

#[cfg(test)]
mod test {
    use super::*;

    fn microseconds(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn one_run_is_its_own_distribution() {
        assert_eq!(spread(microseconds([7])), Spread { min_us: 7, p50_us: 7, p99_us: 7 });
    }

    #[test]
    fn percentiles_are_by_nearest_rank_in_whatever_order_the_runs_came() {
        let expected = Spread { min_us: 1, p50_us: 100, p99_us: 198 };
        assert_eq!(spread(microseconds((1..=200).rev())), expected);
    }

    #[test]
    fn no_runs_and_no_memory_are_refused_before_anything_is_built() {
        assert!(matches!(floor(0, 1), Err(FloorError::Runs(0))));
        assert!(matches!(floor(RUNS_MAX + 1, 1), Err(FloorError::Runs(_))));
        assert!(matches!(floor(1, 0), Err(FloorError::Memory(0))));
        assert!(matches!(floor(1, MEMORY_MIB_MAX + 1), Err(FloorError::Memory(_))));
    }
}
