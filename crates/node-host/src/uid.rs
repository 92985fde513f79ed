//! A user id of its own for every VMM process: the kernel then keeps them apart even where
//! everything else failed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// First user id given to a VMM; far above what distributions hand out.
const BASE: u32 = 200_000;
/// LIMIT: more than one machine can ever hold; ids are reused only after all others.
const COUNT: u32 = 65_536;

/// The ids that are free.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uids(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    used: BTreeSet<u32>,
    next: u32,
}

/// One id, its holder's alone until dropped.
#[derive(Debug)]
pub(crate) struct UidLease {
    uids: Uids,
    offset: u32,
}

impl Uids {
    /// An id nobody holds, or `None` when all are held.
    pub(crate) fn lease(&self) -> Option<UidLease> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Round robin, so that an id rests as long as possible before it means somebody else.
        let offset = (0..COUNT)
            .map(|step| (state.next + step) % COUNT)
            .find(|offset| !state.used.contains(offset))?;
        state.used.insert(offset);
        state.next = (offset + 1) % COUNT;
        Some(UidLease { uids: self.clone(), offset })
    }

    /// The lease of `id`, for a machine that already runs as it. `None` when it is not one of ours or
    /// somebody holds it.
    pub(crate) fn lease_again(&self, id: u32) -> Option<UidLease> {
        let offset = id.checked_sub(BASE).filter(|offset| *offset < COUNT)?;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = state.used.insert(offset);
        // Those that come next are further from what an earlier run used.
        state.next = state.next.max((offset + 1) % COUNT);
        free.then(|| UidLease { uids: self.clone(), offset })
    }
}

impl UidLease {
    /// The user id, which is also the group id.
    pub(crate) fn id(&self) -> u32 {
        BASE + self.offset
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        let mut state = self.uids.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.remove(&self.offset);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn no_two_holders_share_an_id_and_all_can_be_held() {
        let uids = Uids::default();
        let held: Vec<_> = (0..COUNT).map_while(|_| uids.lease()).collect();
        let distinct: BTreeSet<_> = held.iter().map(UidLease::id).collect();
        assert_eq!(distinct.len(), COUNT as usize);
        assert!(uids.lease().is_none());
        drop(held);
        assert_eq!(uids.lease().unwrap().id(), BASE);
    }

    #[test]
    fn an_id_that_is_in_use_already_is_given_to_nobody_else() {
        let uids = Uids::default();
        let found = uids.lease_again(BASE).unwrap();
        assert!(uids.lease_again(BASE).is_none());
        for foreign in [0, 1000, BASE - 1, BASE + COUNT, u32::MAX] {
            assert!(uids.lease_again(foreign).is_none(), "{foreign}");
        }
        let others: Vec<_> = (0..COUNT).map_while(|_| uids.lease()).collect();
        assert_eq!(others.len(), COUNT as usize - 1);
        assert!(others.iter().all(|other| other.id() != found.id()));
    }

    #[test]
    fn an_id_given_back_rests_before_it_is_given_again() {
        let uids = Uids::default();
        let first = uids.lease().unwrap().id();
        assert_ne!(uids.lease().unwrap().id(), first);
    }
}
