//! What a project may use, as arithmetic: no clock, no locks, nothing remembered but [`Rate`].
//!
//! Nothing is reserved and given back. What is used is counted each time from the sandboxes that are
//! there, by whoever holds the list of them, so that it is right after a crash and cannot leak. A
//! paused sandbox counts like a running one: its resume never fails by a quota.
#![warn(missing_docs)]

mod rate;

use api_node::{Quota, Used};
use base_types::Size;

pub use rate::Rate;

/// A project that asked for more than it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the project may have {limit} {what}; it has {used} and asked for {wanted} more")]
pub struct QuotaExceeded {
    /// What of.
    pub what: &'static str,
    /// How much it may have.
    pub limit: u64,
    /// How much it has.
    pub used: u64,
    /// How much more it wanted.
    pub wanted: u64,
}

/// What sandboxes of these sizes use together; disk is not known from a size.
pub fn used_by(sizes: impl IntoIterator<Item = Size>) -> Used {
    sizes.into_iter().fold(Used::default(), |used, size| Used {
        sandboxes: used.sandboxes.saturating_add(1),
        vcpus: used.vcpus.saturating_add(size.vcpus().into()),
        memory_mib: used.memory_mib.saturating_add(size.memory_mib().into()),
        ..used
    })
}

/// Whether a project that uses `used` may have `count` more sandboxes of `size`.
///
/// # Errors
///
/// The first figure that would go over.
pub fn admit(quota: &Quota, used: &Used, size: Size, count: u64) -> Result<(), QuotaExceeded> {
    let wants = |each: u64| each.saturating_mul(count);
    within("sandboxes", quota.sandboxes, used.sandboxes, count)?;
    within("virtual CPUs", quota.vcpus, used.vcpus, wants(size.vcpus().into()))?;
    within("MiB of memory", quota.memory_mib, used.memory_mib, wants(size.memory_mib().into()))
}

/// Whether a project whose sandboxes take `used_mib` of disk may begin something that takes more.
///
/// # Errors
///
/// When it has as much as it may, or more: what runs goes on growing.
pub fn admit_disk(quota: &Quota, used_mib: u64) -> Result<(), QuotaExceeded> {
    within("MiB of disk", quota.disk_mib, used_mib, 1)
}

/// Whether a project that has `used` snapshots may keep another.
///
/// # Errors
///
/// When it has as many as it may.
pub fn admit_snapshot(quota: &Quota, used: u64) -> Result<(), QuotaExceeded> {
    within("snapshots", quota.snapshots, used, 1)
}

fn within(what: &'static str, limit: u64, used: u64, wanted: u64) -> Result<(), QuotaExceeded> {
    match used.checked_add(wanted) {
        Some(sum) if sum <= limit => Ok(()),
        _ => Err(QuotaExceeded { what, limit, used, wanted }),
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn quota() -> impl Strategy<Value = Quota> {
        (0..12u64, 0..24u64, 0..20_000u64, 0..100u64, 0..50u64).prop_map(|figures| {
            let (sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute) = figures;
            let plan = Quota::default();
            Quota { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, ..plan }
        })
    }

    /// Something a project does: asks for some sandboxes, or loses one.
    #[derive(Clone, Debug)]
    enum Step {
        Ask(Size, u64),
        Lose(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = proptest::sample::select(Size::ALL.to_vec());
        prop_oneof![
            (size, 1..=16u64).prop_map(|(size, count)| Step::Ask(size, count)),
            any::<usize>().prop_map(Step::Lose),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_creates_and_kills_gets_a_project_past_its_quota(
            quota in quota(),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut alive: Vec<Size> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(size, count) => {
                        let before = used_by(alive.iter().copied());
                        let all = usize::try_from(count).unwrap();
                        let after: Vec<_> =
                            alive.iter().copied().chain(std::iter::repeat_n(size, all)).collect();
                        let fits = {
                            let used = used_by(after.iter().copied());
                            used.sandboxes <= quota.sandboxes
                                && used.vcpus <= quota.vcpus
                                && used.memory_mib <= quota.memory_mib
                        };
                        // Refused exactly when it would not fit, and nothing changes then.
                        prop_assert_eq!(admit(&quota, &before, size, count).is_ok(), fits);
                        if fits {
                            alive = after;
                        }
                    }
                    Step::Lose(which) if !alive.is_empty() => {
                        alive.swap_remove(which % alive.len());
                    }
                    Step::Lose(_) => {}
                }
                let used = used_by(alive.iter().copied());
                prop_assert!(used.sandboxes <= quota.sandboxes);
                prop_assert!(used.vcpus <= quota.vcpus && used.memory_mib <= quota.memory_mib);
            }
        }

        #[test]
        fn nothing_overflows(used: u64, count: u64) {
            let used = Used { sandboxes: used, vcpus: used, memory_mib: used, ..Used::default() };
            let all = u64::MAX;
            let quota = Quota {
                sandboxes: all, vcpus: all, memory_mib: all, disk_mib: all, creates_per_minute: all,
                snapshots: all,
            };
            let _ = admit(&quota, &used, Size::Large, count);
            let _ = admit_disk(&quota, used.sandboxes);
            let _ = admit_snapshot(&quota, used.sandboxes);
        }
    }

    #[test]
    fn a_refusal_has_the_figures() {
        let used = used_by([Size::Nano; 10]);
        let error = admit(&Quota::default(), &used, Size::Nano, 1).unwrap_err();
        let said = "the project may have 10 sandboxes; it has 10 and asked for 1 more";
        assert_eq!(error.to_string(), said);
        let error = admit(&Quota::default(), &used_by([Size::Large]), Size::Large, 2).unwrap_err();
        let said = "the project may have 20480 MiB of memory; it has 8192 and asked for 16384 more";
        assert_eq!(error.to_string(), said);
        let error = admit_snapshot(&Quota { snapshots: 2, ..Quota::default() }, 2).unwrap_err();
        let said = "the project may have 2 snapshots; it has 2 and asked for 1 more";
        assert_eq!(error.to_string(), said);
        assert!(admit_disk(&Quota { disk_mib: 5, ..Quota::default() }, 4).is_ok());
        assert!(admit_disk(&Quota { disk_mib: 5, ..Quota::default() }, 5).is_err());
    }
}
