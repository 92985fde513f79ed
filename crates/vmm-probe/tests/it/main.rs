//! The probe and the floor on the KVM of the machine at hand. Both need `/dev/kvm`.
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs;

use vmm_probe::{Kind, floor, hold, probe};

/// Whether the processor itself can run guests.
fn has_hardware_virtualization() -> bool {
    fs::read_to_string("/proc/cpuinfo")
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "svm" || flag == "vmx")
}

#[test]
fn kvm_is_good_where_the_processor_runs_guests_and_not_where_it_is_emulated() {
    let verdict = probe();
    let expected = if has_hardware_virtualization() { Kind::Good } else { Kind::CannotRunLinux };
    assert_eq!(verdict.kind, expected, "{verdict:?}");
    assert_eq!(verdict.usable, expected == Kind::Good);
    assert!(!verdict.reason.is_empty());
    assert!(verdict.took_us > 0);
}

#[test]
fn the_probe_may_be_repeated_and_leaves_no_descriptor_behind() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests of this binary open and close descriptors meanwhile; a leak would add up.
    let first = probe();
    let before = open();
    for _ in 0..32 {
        assert_eq!(probe().kind, first.kind);
    }
    assert!(open() < before + 32, "{before} descriptors before, {} after", open());
}

#[test]
fn the_floor_is_the_sum_of_what_it_consists_of() {
    let report = floor(3, 64).unwrap();
    assert_eq!((report.runs, report.memory_mib, report.phases.len()), (3, 64, 7));
    assert!(report.total.min_us > 0);
    let fastest_phases: u64 = report.phases.iter().map(|phase| phase.spread.min_us).sum();
    assert!(fastest_phases <= report.total.min_us, "{report:?}");
    assert!(report.total.min_us <= report.total.p50_us);
    assert!(report.total.p50_us <= report.total.p99_us);
}

#[test]
fn a_machine_with_memory_above_the_hole_below_4_gib_has_a_floor_too() {
    assert_eq!(floor(1, 6144).unwrap().memory_mib, 6144);
}

#[test]
fn a_held_machine_is_in_nobodys_way() {
    let held = hold().unwrap();
    assert_eq!(floor(1, 64).unwrap().runs, 1);
    drop(held);
    assert_eq!(floor(1, 64).unwrap().runs, 1);
}
