use std::collections::BTreeSet;

use super::calls::Call;
use super::ioctls::Ioctl;
use super::*;

#[test]
fn every_rule_says_who_needs_it() {
    for Call { name, why, .. } in CALLS {
        assert!(why.split_whitespace().count() >= 2, "{name}");
    }
    for Ioctl { name, why, .. } in IOCTLS {
        assert!(!why.trim().is_empty(), "{name}");
    }
}

#[test]
fn no_call_and_no_request_is_listed_twice() {
    let mut numbers = BTreeSet::new();
    for call in CALLS {
        assert!(numbers.insert(call.number), "{}", call.name);
    }
    let mut requests = BTreeSet::new();
    for ioctl in IOCTLS {
        assert!(requests.insert(ioctl.request), "{}", ioctl.name);
    }
    assert!(!numbers.contains(&libc::SYS_ioctl), "it has a table of its own");
}

#[test]
fn what_any_thread_may_do_the_thread_that_creates_it_may_do_too() {
    let sets = CALLS.iter().map(|call| (call.name, call.threads));
    for (name, threads) in sets.chain(IOCTLS.iter().map(|ioctl| (ioctl.name, ioctl.threads))) {
        assert!(threads.contains(Thread::Control), "{name}");
    }
}

#[test]
fn nothing_that_makes_or_opens_something_is_left_when_the_guest_runs() {
    let making = [
        libc::SYS_clone,
        libc::SYS_seccomp,
        libc::SYS_prctl,
        libc::SYS_eventfd2,
        libc::SYS_set_robust_list,
    ];
    for thread in [Thread::Sealed, Thread::Vcpu, Thread::Fault] {
        for call in CALLS.iter().filter(|call| call.threads.contains(thread)) {
            assert!(!making.contains(&call.number), "{thread:?} may {}", call.name);
        }
        for ioctl in IOCTLS.iter().filter(|ioctl| ioctl.threads.contains(thread)) {
            assert!(!ioctl.name.contains("CREATE"), "{thread:?} may {}", ioctl.name);
        }
    }
}

#[test]
fn every_thread_has_a_filter_the_kernel_can_take() {
    for thread in Thread::ALL {
        let program = compile(thread).unwrap();
        assert!(program.len() < usize::from(u16::MAX), "{thread:?}: {}", program.len());
    }
}

#[test]
fn requests_have_the_numbers_kernel_headers_give_them() {
    for (name, number) in [
        ("KVM_RUN", 0xae80),
        ("KVM_SET_USER_MEMORY_REGION", 0x4020_ae46),
        ("KVM_GET_SUPPORTED_CPUID", 0xc008_ae05),
        ("KVM_GET_SREGS", 0x8138_ae83),
        ("KVM_SET_IRQCHIP", 0x8208_ae63),
        ("KVM_GET_XSAVE", 0x9000_aea4),
        ("KVM_SET_PIT2", 0x4070_aea0),
        ("UFFDIO_API", 0xc018_aa3f),
        ("UFFDIO_REGISTER", 0xc020_aa00),
        ("UFFDIO_COPY", 0xc028_aa03),
        ("UFFDIO_WAKE", 0x8010_aa02),
        ("KVM_PRE_FAULT_MEMORY", 0xc040_aed5),
        ("PAGEMAP_SCAN", 0xc060_6610),
    ] {
        let ioctl = IOCTLS.iter().find(|ioctl| ioctl.name == name).unwrap();
        assert_eq!(ioctl.request, number, "{name}: {:#x}", ioctl.request);
    }
}
