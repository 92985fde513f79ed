//! What a process has from its start and should not: descriptors, environment, many heaps.
#![expect(unsafe_code, reason = "close_range, mallopt and the environment have no safe interface")]

use std::ffi::c_uint;
use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor above 2 that is not in `keep`.
///
/// One `close_range` per gap: a loop over all possible numbers would take milliseconds.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    for (first, last) in gaps(keep) {
        // SAFETY: called on the way into the jail, before anything but the caller's kept
        // descriptors is in use, so no owner is left with a closed descriptor.
        let result = unsafe { libc::close_range(first, last, 0) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The ranges of descriptor numbers between 3 and the last possible one that are not in `keep`.
fn gaps(keep: &[RawFd]) -> Vec<(c_uint, c_uint)> {
    let mut keep: Vec<c_uint> = keep.iter().filter_map(|&fd| c_uint::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut gaps = Vec::with_capacity(keep.len() + 1);
    let mut first = 3;
    for fd in keep {
        if first < fd {
            gaps.push((first, fd - 1));
        }
        first = first.max(fd + 1);
    }
    gaps.push((first, c_uint::MAX));
    gaps
}

/// Empties the environment and overwrites what it held, which otherwise stays on the stack for
/// whoever takes over the process to read.
pub(crate) fn forget_environment() {
    // SAFETY: reading the pointer is safe while there is one thread, as `enter` demands.
    let block = unsafe { libc::environ };
    if !block.is_null() {
        for index in 0.. {
            // SAFETY: the block ends with a null pointer, at which the loop ends.
            let entry = unsafe { block.add(index) };
            // SAFETY: `entry` is inside the block, see above.
            let text = unsafe { entry.read() };
            if text.is_null() {
                break;
            }
            // SAFETY: every entry is a NUL-terminated string.
            let length = unsafe { libc::strlen(text) };
            // SAFETY: the string has `length` bytes, is writable process memory, and nobody reads
            // the environment any more.
            unsafe { text.write_bytes(0, length) };
        }
    }
    // SAFETY: there is one thread, so nobody reads the environment meanwhile.
    unsafe { libc::clearenv() };
}

/// Makes the allocator serve all threads from one heap.
///
/// By default glibc gives each thread a heap of its own, and before the ninth it counts processors
/// by opening a file in `/sys`: a call no filter allows. One heap also costs less memory.
pub(crate) fn share_one_heap() -> io::Result<()> {
    // SAFETY: sets a number inside the allocator, under its lock.
    let result = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if result == 1 { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod test {
    use super::*;

    const LAST: c_uint = c_uint::MAX;

    #[track_caller]
    fn check(keep: &[RawFd], expected: &[(c_uint, c_uint)]) {
        assert_eq!(gaps(keep), expected);
    }

    #[test]
    fn nothing_kept_closes_everything_but_the_standard_streams() {
        check(&[], &[(3, LAST)]);
    }

    #[test]
    fn kept_descriptors_split_the_range() {
        check(&[3, 4], &[(5, LAST)]);
        check(&[9, 4], &[(3, 3), (5, 8), (10, LAST)]);
    }

    #[test]
    fn standard_streams_and_repeats_among_the_kept_change_nothing() {
        check(&[0, 2, 5, 5], &[(3, 4), (6, LAST)]);
        check(&[-1], &[(3, LAST)]);
    }
}
