use std::collections::BTreeSet;

use proptest::prelude::*;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::calls::Call;
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

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What `program` returns for a call, as the kernel runs it.
fn run(program: &BpfProgram, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let instruction = &program[at];
        let k = instruction.k;
        let jump = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        at += 1;
        match instruction.code {
            0x20 => {
                accumulator = match k {
                    0 => number,
                    4 => architecture,
                    _ => {
                        let argument = arguments[(k as usize - 16) / 8];
                        if k.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
                    }
                }
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// The same rules, compiled by seccompiler. It has no way to say that a call is missing.
fn oracle(thread: Thread) -> BpfProgram {
    let rule = |argument, length, operator, value| {
        let condition = SeccompCondition::new(argument, length, operator, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    let rules = fates(thread).into_iter().filter_map(|(number, fate)| {
        let rules = match fate {
            Fate::Allow => Vec::new(),
            Fate::Missing => return None,
            Fate::Check(checks) => checks
                .into_iter()
                .map(|check| match check {
                    Check::Low { argument, value } => {
                        rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
                    }
                    Check::Masked { argument, mask, value } => {
                        let operator = SeccompCmpOp::MaskedEq(mask);
                        rule(argument, SeccompCmpArgLen::Qword, operator, value)
                    }
                })
                .collect(),
        };
        Some((i64::from(number), rules))
    });
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules.collect(), kill, allow, TargetArch::x86_64)
        .unwrap()
        .try_into()
        .unwrap()
}

fn expected(oracle: &BpfProgram, number: u32, arguments: [u64; 6]) -> u32 {
    if i64::from(number) == libc::SYS_clone3 {
        MISSING
    } else {
        run(oracle, X86_64, number, arguments)
    }
}

/// Values at which checks decide, and some they do not know.
fn argument() -> impl Strategy<Value = u64> {
    let known: Vec<u64> = Thread::ALL
        .into_iter()
        .flat_map(fates)
        .filter_map(|(_, fate)| match fate {
            Fate::Check(checks) => Some(checks),
            Fate::Allow | Fate::Missing => None,
        })
        .flatten()
        .map(|check| match check {
            Check::Low { value, .. } => value.into(),
            Check::Masked { value, .. } => value,
        })
        .collect();
    let known = proptest::sample::select(known);
    prop_oneof![
        4 => known.clone(),
        1 => (known, 0_u32..64).prop_map(|(value, bit)| value ^ (1 << bit)),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

#[test]
fn a_filter_says_what_seccompilers_says_about_every_call() {
    for thread in Thread::ALL {
        let (program, oracle) = (compile(thread).unwrap(), oracle(thread));
        for number in (0..1024).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
            for arguments in [[0; 6], [u64::MAX; 6]] {
                let expected = expected(&oracle, number, arguments);
                let found = run(&program, X86_64, number, arguments);
                assert_eq!(found, expected, "{thread:?}: call {number}");
                assert_eq!(run(&program, I386, number, arguments), KILL);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_filter_says_what_seccompilers_says_about_arguments(
        thread in proptest::sample::select(Thread::ALL.to_vec()),
        index in any::<proptest::sample::Index>(),
        arguments in proptest::array::uniform6(argument()),
    ) {
        let checked: Vec<u32> = fates(thread)
            .into_iter()
            .filter(|(_, fate)| matches!(fate, Fate::Check(_)))
            .map(|(number, _)| number)
            .collect();
        let number = checked[index.index(checked.len())];
        let expected = expected(&oracle(thread), number, arguments);
        let found = run(&compile(thread).unwrap(), X86_64, number, arguments);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn each_kind_of_fate_is_met_at_its_number() {
    let fates = BTreeMap::from([
        (0, Fate::Allow),
        (2, Fate::Missing),
        (3, Fate::Allow),
        (4, Fate::Allow),
        (7, Fate::Check(vec![Check::Low { argument: 1, value: 9 }])),
    ]);
    let program = assemble(&fates).unwrap();
    let of = |number, second| run(&program, X86_64, number, [0, second, 0, 0, 0, 0]);
    assert_eq!(
        (0..10).map(|number| of(number, 9)).collect::<Vec<_>>(),
        [ALLOW, KILL, MISSING, ALLOW, ALLOW, KILL, KILL, ALLOW, KILL, KILL]
    );
    assert_eq!(of(7, 8), KILL);
    // The kernel ignores the upper half, too.
    assert_eq!(of(7, 9 | 1 << 40), ALLOW);
    assert_eq!(run(&assemble(&BTreeMap::new()).unwrap(), X86_64, 0, [0; 6]), KILL);
}

#[test]
fn a_filter_is_short_because_the_kernel_runs_it_for_each_call_when_it_is_installed() {
    for thread in Thread::ALL {
        let length = compile(thread).unwrap().len();
        assert!(length < 300, "{thread:?}: {length} instructions");
    }
}

#[test]
fn rules_that_do_not_fit_are_refused_not_cut() {
    let far = (0..2000).step_by(2).map(|number| (number, Fate::Allow)).collect();
    assert!(assemble(&far).is_err());
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
