//! A run of guest memory, read or written front to back.

use std::{cmp::min, collections::VecDeque};

use vm_memory::VolatileSlice;

/// Slices of guest memory that lie one after another in a descriptor chain.
///
/// Every slice was checked against guest memory when it was made, so nothing here can reach
/// outside. The guest may change the bytes at any time: copy out first, look later.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Buffers<'m> {
    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices left, in order; none is empty.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &VolatileSlice<'m>> {
        self.slices.iter()
    }

    /// The first slice left.
    pub fn front(&self) -> Option<&VolatileSlice<'m>> {
        self.slices.front()
    }

    /// Copies out as many bytes as there are, up to the length of `into`; says how many.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        self.take(into.len(), |slice, done| {
            if let Some(rest) = into.get_mut(done..) {
                slice.copy_to(rest);
            }
        })
    }

    /// Copies in as many bytes as fit; says how many.
    pub fn write(&mut self, from: &[u8]) -> usize {
        self.take(from.len(), |slice, done| {
            let end = done.saturating_add(slice.len());
            if let Some(part) = from.get(done..end) {
                slice.copy_from(part);
            }
        })
    }

    /// Drops `count` bytes from the front, or all there are; says how many.
    pub fn skip(&mut self, count: usize) -> usize {
        self.take(count, |_, _| ())
    }

    /// Takes the first `count` bytes, or all there are.
    pub fn split_front(&mut self, count: usize) -> Buffers<'m> {
        let mut front = Buffers::default();
        self.take(count, |slice, _| front.push(slice));
        front
    }

    /// Puts back what [`split_front`](Self::split_front) took.
    pub(crate) fn put_back(&mut self, front: Buffers<'m>) {
        self.len = self.len.saturating_add(front.len);
        front.slices.into_iter().rev().for_each(|slice| self.slices.push_front(slice));
    }

    pub(crate) fn push(&mut self, slice: VolatileSlice<'m>) {
        if !slice.is_empty() {
            self.len = self.len.saturating_add(slice.len());
            self.slices.push_back(slice);
        }
    }

    /// Hands `count` bytes from the front to `each`, slice by slice, with how many came before.
    fn take(&mut self, count: usize, mut each: impl FnMut(VolatileSlice<'m>, usize)) -> usize {
        let mut done = 0_usize;
        while done < count {
            let Some(slice) = self.slices.pop_front() else { break };
            let part = min(slice.len(), count.saturating_sub(done));
            match slice.split_at(part) {
                Ok((front, back)) => {
                    if !back.is_empty() {
                        self.slices.push_front(back);
                    }
                    each(front, done);
                }
                // Cannot be: `part` is at most the length. Nothing is lost by leaving it out.
                Err(_) => break,
            }
            done = done.saturating_add(part);
            self.len = self.len.saturating_sub(part);
        }
        done
    }
}
