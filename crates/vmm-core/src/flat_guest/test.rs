use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_vmm::{BootSpec, DiskSpec, MemoryPath, PrimeSpec, RestoreSpec, ShellSpec};
use base_types::PAGE_SIZE;
use kvm_ioctls::Kvm;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::Epoll;

use super::kernel::{COUNTER, counting, resetting};
use crate::devices::{DeviceFiles, Devices};
use crate::machine::{BootFiles, Machine, RestoreFiles, Surroundings};
use crate::memory::PageScanner;
use crate::prime::{PrimeFiles, Primed};
use crate::shell::Shell;
use crate::vcpu::VcpuEnd;

pub(super) const MEMORY_MIB: u32 = 64;
/// Far more than any step takes, even on an emulated processor.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

fn around() -> Surroundings {
    let files = vmm_jail::open_kernel_files().expect("userfaultfd, pagemap and smaps");
    Surroundings {
        scanner: PageScanner::new(files.pagemap),
        smaps: files.smaps,
        userfaultfd: Some(files.userfaultfd),
        epoll: Arc::new(Epoll::new().unwrap()),
    }
}

fn shell() -> Shell {
    let kvm = Kvm::new().expect("these tests need /dev/kvm; see `sandflare doctor`");
    let spec = ShellSpec { vcpus: 1, memory_mib: MEMORY_MIB };
    Shell::build(kvm, spec, &Devices::QUEUES, false).unwrap()
}

pub(super) fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A base image of 1 MiB under an empty overlay.
pub(super) fn disk() -> Vec<File> {
    let base = tempfile::tempfile().unwrap();
    base.set_len(1 << 20).unwrap();
    let overlay = tempfile::tempfile().unwrap();
    base_overlay::create(&overlay, 1 << 20).unwrap();
    vec![base, overlay]
}

/// A disk, and a frame socket with nobody at its other end.
fn devices() -> DeviceFiles {
    let (frames, _) = frame_sockets();
    DeviceFiles { disk: disk(), frames }
}

/// Both ends of the wire between a network card and whoever has its frames.
pub(super) fn frame_sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn boot(kernel: &[u8]) -> (Machine, Surroundings) {
    let around = around();
    let files = BootFiles {
        kernel: file_with(kernel),
        initrd: file_with(b"initrd"),
        devices: devices(),
        console: tempfile::tempfile().unwrap(),
    };
    let spec = BootSpec { cmdline: "quiet".into(), disk: DiskSpec { files: 2 } };
    let machine = Machine::boot(shell(), &spec, files, &around).unwrap();
    (machine, around)
}

fn counter(machine: &Machine) -> u32 {
    machine.memory().read_obj(GuestAddress(COUNTER)).unwrap()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

struct Taken {
    state: File,
    memory: File,
}

fn snapshot(machine: &Machine, around: &Surroundings, only_dirty: bool) -> (Taken, u64) {
    let (state, memory) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let taken = Taken { state: state.try_clone().unwrap(), memory: memory.try_clone().unwrap() };
    let pages = machine.snapshot(state, memory, None, only_dirty, around).unwrap();
    (taken, pages)
}

/// The template memfd of a full snapshot, sealed, as the node makes it.
pub(super) fn template(memory: &File) -> File {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::unix::fs::FileExt;
    let memfd = memfd_create("template", MemfdFlags::ALLOW_SEALING).unwrap();
    let bytes = u64::from(MEMORY_MIB) << 20;
    ftruncate(&memfd, bytes).unwrap();
    let memfd = File::from(memfd);
    let layer = base_snapshot::Layer::open(memory.try_clone().unwrap(), bytes / PAGE_SIZE).unwrap();
    layer
        .load(&mut |run| match run {
            base_snapshot::Run::Data { first_page, bytes } => {
                memfd.write_all_at(bytes, first_page * PAGE_SIZE)
            }
            base_snapshot::Run::Zero { .. } => Ok(()),
        })
        .unwrap();
    fcntl_add_seals(
        &memfd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )
    .unwrap();
    memfd
}

fn restore(
    taken: &Taken,
    template: &File,
    layers: Vec<File>,
    memory: MemoryPath,
    record: bool,
) -> (Machine, Surroundings) {
    let mut around = around();
    let spec = PrimeSpec { memory, layers: layers.len() as u8, working_set: false, record };
    let files = PrimeFiles {
        state: taken.state.try_clone().unwrap(),
        template: template.try_clone().unwrap(),
        layers,
        working_set: None,
    };
    let (primed, _) = Primed::new(shell(), &spec, files, &mut around).unwrap();
    let spec = RestoreSpec { disk: DiskSpec { files: 2 }, resume: false, generation_id: [7; 16] };
    let files = RestoreFiles { devices: devices(), console: tempfile::tempfile().unwrap() };
    let (machine, _) = Machine::restore(primed, &spec, files, &around).unwrap();
    (machine, around)
}

/// Boots the counting guest, lets it run a while and holds it.
fn counted() -> (Machine, Surroundings) {
    let (machine, around) = boot(&counting());
    machine.release();
    wait_until("counting", || counter(&machine) > 100);
    machine.hold();
    (machine, around)
}

#[test]
fn a_machine_held_in_the_middle_of_a_port_read_continues_elsewhere_with_equal_registers() {
    for memory in [MemoryPath::Private, MemoryPath::Userfault] {
        let (machine, around) = counted();
        for _ in 0..5 {
            machine.release();
            let before = counter(&machine);
            wait_until("counting on", || counter(&machine) > before);
            machine.hold();
        }
        let (taken, _) = snapshot(&machine, &around, false);
        let saved = machine.boot_cpu_registers();
        // Held between the two, the guest has counted in its register but not yet in memory.
        let behind = (saved.rcx & 0xffff_ffff) - u64::from(counter(&machine));
        assert!(behind <= 1, "the counter is {behind} behind its register");

        let clone = restore(&taken, &template(&taken.memory), vec![], memory, false).0;
        assert_eq!(clone.boot_cpu_registers(), saved);
        assert_eq!(counter(&clone), counter(&machine));
        clone.release();
        wait_until("the clone counting on", || counter(&clone) > counter(&machine) + 10);
    }
}

#[test]
fn clones_share_clean_pages_and_never_each_others_writes() {
    for memory in [MemoryPath::Private, MemoryPath::Userfault] {
        let (machine, around) = counted();
        let (taken, _) = snapshot(&machine, &around, false);
        let template = template(&taken.memory);
        let start = counter(&machine);
        let (one, one_around) = restore(&taken, &template, vec![], memory, false);
        let (two, _) = restore(&taken, &template, vec![], memory, false);
        one.release();
        wait_until("the first clone counting", || counter(&one) > start + 50);
        one.hold();
        assert_eq!(counter(&two), start, "{memory:?}");
        assert_eq!(counter(&machine), start, "{memory:?}");
        // The counter's page, the generation id's page, and little more.
        let private = one.stats(&one_around).unwrap().private_pages;
        assert!((2..=16).contains(&private), "{private} private pages with {memory:?}");
    }
}

#[test]
fn a_snapshot_of_a_clone_writes_only_what_it_changed_and_stacks_on_its_template() {
    for memory in [MemoryPath::Private, MemoryPath::Userfault] {
        let (machine, around) = counted();
        let (taken, full) = snapshot(&machine, &around, false);
        let template = template(&taken.memory);
        let (clone, clone_around) = restore(&taken, &template, vec![], memory, false);
        clone.release();
        let start = counter(&machine);
        wait_until("the clone counting", || counter(&clone) > start + 50);
        clone.hold();
        let (layer, pages) = snapshot(&clone, &clone_around, true);
        assert!((1..=16).contains(&pages), "{pages} of {full} pages with {memory:?}");

        for memory in [MemoryPath::Private, MemoryPath::Userfault] {
            let layers = vec![layer.memory.try_clone().unwrap()];
            let (grandchild, _) = restore(&layer, &template, layers, memory, false);
            assert_eq!(counter(&grandchild), counter(&clone));
            grandchild.release();
            wait_until("the grandchild counting", || counter(&grandchild) > counter(&clone) + 50);
        }
    }
}

#[test]
fn a_recording_names_the_pages_the_guest_touched() {
    let (machine, around) = counted();
    let (taken, _) = snapshot(&machine, &around, false);
    let template = template(&taken.memory);
    let (clone, clone_around) = restore(&taken, &template, vec![], MemoryPath::Userfault, true);
    clone.release();
    let start = counter(&machine);
    wait_until("the clone counting", || counter(&clone) > start + 10);
    clone.hold();
    let file = tempfile::tempfile().unwrap();
    clone.take_working_set(file.try_clone().unwrap(), &clone_around).unwrap();
    let pages = u64::from(MEMORY_MIB) * 256;
    let set = base_snapshot::WorkingSet::open(&file, pages).unwrap();
    let written = |page: u64| {
        set.extents()
            .iter()
            .find(|extent| (extent.first_page..extent.first_page + extent.pages).contains(&page))
            .map(|extent| extent.written)
    };
    assert_eq!(written(COUNTER / PAGE_SIZE), Some(true));
    assert_eq!(written(0x10_0000 / PAGE_SIZE), Some(false), "the guest's code is only read");
}

#[test]
fn a_reset_ends_the_machine_and_is_reported() {
    let (machine, _around) = boot(&resetting());
    machine.release();
    wait_until("the reset", || machine.ended().is_some());
    assert_eq!(machine.ended(), Some(VcpuEnd::GuestShutdown));
}

#[test]
fn a_snapshot_for_another_shape_or_cut_short_is_refused_with_one_sentence() {
    let (machine, around) = counted();
    let (taken, _) = snapshot(&machine, &around, false);
    let template = template(&taken.memory);
    let spec =
        PrimeSpec { memory: MemoryPath::Private, layers: 0, working_set: false, record: false };
    let files = |state: &File| PrimeFiles {
        state: state.try_clone().unwrap(),
        template: template.try_clone().unwrap(),
        layers: vec![],
        working_set: None,
    };
    let kvm = Kvm::new().unwrap();
    let two = ShellSpec { vcpus: 2, memory_mib: MEMORY_MIB };
    let other = Shell::build(kvm, two, &Devices::QUEUES, false).unwrap();
    let mut surroundings = self::around();
    let error = Primed::new(other, &spec, files(&taken.state), &mut surroundings).unwrap_err();
    let text = base_types::Chain(&error).to_string();
    assert!(text.contains("1 vCPUs and 64 MiB, the shell has 2"), "{text}");

    taken.state.set_len(taken.state.metadata().unwrap().len() / 2).unwrap();
    let error = Primed::new(shell(), &spec, files(&taken.state), &mut surroundings).unwrap_err();
    let text = base_types::Chain(&error).to_string();
    assert!(text.contains("state file"), "{text}");
}
